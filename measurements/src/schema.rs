//! JSON schemas of the formats, generated from the types that read and write them.

use schemars::Schema;
use schemars::generate::SchemaSettings;

use crate::appraisal::Verdict;
use crate::appraisal::policy_file::PolicyFile;
use crate::evidence::Evidence;
use crate::launch_config::LaunchConfig;
use crate::manifest::Manifest;

/// A format that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A policy file.
    Policy,
    /// A verdict.
    Verdict,
    /// A release's manifest.
    Manifest,
    /// Evidence.
    Evidence,
    /// A launch config.
    LaunchConfig,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 5] =
        [Self::Policy, Self::Verdict, Self::Manifest, Self::Evidence, Self::LaunchConfig];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Verdict => "verdict",
            Self::Manifest => "manifest",
            Self::Evidence => "evidence",
            Self::LaunchConfig => "launch-config",
        }
    }

    /// Its schema, in the dialect of 2020-12. What it accepts may still be refused: a schema
    /// cannot say that two places of a document must agree.
    #[must_use]
    pub fn schema(self) -> Schema {
        let (reads, writes) = (
            SchemaSettings::draft2020_12().for_deserialize().into_generator(),
            SchemaSettings::draft2020_12().for_serialize().into_generator(),
        );
        match self {
            Self::Policy => reads.into_root_schema_for::<PolicyFile>(),
            Self::Verdict => writes.into_root_schema_for::<Verdict>(),
            Self::Manifest => reads.into_root_schema_for::<Manifest>(),
            Self::Evidence => reads.into_root_schema_for::<Evidence>(),
            Self::LaunchConfig => reads.into_root_schema_for::<LaunchConfig>(),
        }
    }
}

//! JSON schemas of the formats, generated from the types that read and write them.

use schemars::Schema;
use schemars::generate::SchemaSettings;

use crate::index::{Index, RawFile};
use crate::verify::RawPolicy;

/// A format that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Whom to believe.
    Signers,
    /// The file of a signed index.
    Index,
    /// What is signed in it.
    IndexPredicate,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::Signers, Self::Index, Self::IndexPredicate];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signers => "signers",
            Self::Index => "index",
            Self::IndexPredicate => "index-predicate",
        }
    }

    /// Its schema, in the dialect of 2020-12. What it accepts may still be refused: a schema
    /// cannot say that two places of a document must agree.
    #[must_use]
    pub fn schema(self) -> Schema {
        let reads = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        match self {
            Self::Signers => reads.into_root_schema_for::<RawPolicy>(),
            Self::Index => reads.into_root_schema_for::<RawFile>(),
            Self::IndexPredicate => reads.into_root_schema_for::<Index>(),
        }
    }
}

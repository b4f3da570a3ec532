//! `casemate policy`, `schema`.

use std::path::PathBuf;

use casemate_measurements::schema::Format as Judged;
use casemate_registry::schema::Format as Released;
use clap::{Args, Subcommand};

use super::OutputArgs;

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Print a commented policy that is as strict as the built-in one
    Init(InitArgs),
    /// Read a policy back: what it accepts and what it leaves open
    Check(CheckArgs),
}

/// `casemate policy init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Accept only the release in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) release: Option<PathBuf>,
}

/// `casemate policy check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The policy file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate schema`
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Of what: policy, verdict, manifest, evidence, launch-config, signers, index or
    /// index-predicate
    #[arg(value_parser = format, value_name = "FORMAT")]
    pub(crate) of: SchemaOf,
}

/// A format that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SchemaOf {
    /// Of what a VM is judged by.
    Judged(Judged),
    /// Of what says which releases to believe.
    Released(Released),
}

impl SchemaOf {
    fn all() -> impl Iterator<Item = Self> {
        let released = Released::ALL.into_iter().map(Self::Released);
        Judged::ALL.into_iter().map(Self::Judged).chain(released)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Judged(format) => format.name(),
            Self::Released(format) => format.name(),
        }
    }
}

fn format(name: &str) -> Result<SchemaOf, String> {
    SchemaOf::all().find(|format| format.name() == name).ok_or_else(|| {
        let names: Vec<&str> = SchemaOf::all().map(SchemaOf::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        let mut names = std::collections::BTreeSet::new();
        for of in SchemaOf::all() {
            assert_eq!(format(of.name()), Ok(of));
            assert!(names.insert(of.name()), "{}", of.name());
        }
        assert!(format("Policy").unwrap_err().contains("launch-config"));
    }
}

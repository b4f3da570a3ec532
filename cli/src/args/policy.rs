//! `casemate policy`, `schema`.

use std::path::PathBuf;

use casemate_measurements::schema::Format;
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
    /// Of what: policy, verdict, manifest, evidence or launch-config
    #[arg(value_parser = format, value_name = "FORMAT")]
    pub(crate) of: Format,
}

fn format(name: &str) -> Result<Format, String> {
    Format::ALL
        .into_iter()
        .find(|format| format.name() == name)
        .ok_or_else(|| format!("expected one of {}", Format::ALL.map(Format::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_have_names() {
        for of in Format::ALL {
            assert_eq!(format(of.name()), Ok(of));
        }
        assert!(format("Policy").unwrap_err().contains("launch-config"));
    }
}

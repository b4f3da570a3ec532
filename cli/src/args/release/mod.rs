//! `casemate release`: a file per word after it.

mod show;

use clap::Subcommand;

pub(crate) use show::ReleaseShowArgs;

/// `casemate release …`
#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseVerb {
    /// Tell a person what a release is and which shapes it may be launched in
    Show(ReleaseShowArgs),
}

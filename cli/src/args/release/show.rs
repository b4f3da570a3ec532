//! `casemate release show`.

use std::path::PathBuf;

use clap::Args;

use crate::args::OutputArgs;

/// `casemate release show`
#[derive(Debug, Args)]
pub(crate) struct ReleaseShowArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

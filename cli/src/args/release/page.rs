//! `casemate release page`.

use std::path::PathBuf;

use clap::Args;

/// `casemate release page`
#[derive(Debug, Args)]
pub(crate) struct ReleasePageArgs {
    /// Release directories, the earlier ones of a name first
    #[arg(required = true, value_name = "DIR")]
    pub(crate) releases: Vec<PathBuf>,
    /// Directory of the site to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

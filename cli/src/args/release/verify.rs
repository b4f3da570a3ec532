//! `casemate release verify`.

use std::path::PathBuf;

use clap::Args;

use super::{CurrentArgs, FetchArgs};
use crate::args::OutputArgs;

/// `casemate release verify`
#[derive(Debug, Args)]
pub(crate) struct ReleaseVerifyArgs {
    /// Release directory, or a reference of a release in a store
    pub(crate) release: PathBuf,
    /// Whom to believe, and how many of them must have signed
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: PathBuf,
    /// Look at the manifest and its signatures alone; the other files need not be there
    #[arg(long)]
    pub(crate) manifest_only: bool,
    /// Refuse what this index does not list, revoked, or holds to be too old
    #[arg(long, value_name = "FILE")]
    pub(crate) index: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) current: CurrentArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

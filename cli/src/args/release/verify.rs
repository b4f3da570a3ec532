//! `casemate release verify`.

use std::path::PathBuf;

use casemate_measurements::platform::Platform;
use clap::Args;

use super::{FetchArgs, MemoryArgs};
use crate::args::{OutputArgs, platform};

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
    pub(crate) memory: MemoryArgs,
    /// Platform whose current release of a channel is meant
    #[arg(long, value_parser = platform, default_value_t = Platform::Snp)]
    pub(crate) platform: Platform,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

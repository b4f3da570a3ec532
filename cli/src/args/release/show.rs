//! `casemate release show`.

use std::path::PathBuf;

use casemate_measurements::platform::Platform;
use clap::Args;

use super::{FetchArgs, MemoryArgs};
use crate::args::{OutputArgs, platform};

/// `casemate release show`
#[derive(Debug, Args)]
pub(crate) struct ReleaseShowArgs {
    /// Release directory, or a reference of a release in a store
    pub(crate) release: PathBuf,
    /// Say also what changed since this release, package by package
    #[arg(long, value_name = "DIR")]
    pub(crate) since: Option<PathBuf>,
    /// Say also which of these signers signed it
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Platform whose current release of a channel is meant
    #[arg(long, value_parser = platform, default_value_t = Platform::Snp)]
    pub(crate) platform: Platform,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

//! `casemate release show`.

use std::path::PathBuf;

use clap::Args;

use super::{CurrentArgs, FetchArgs};
use crate::args::OutputArgs;

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
    #[command(flatten)]
    pub(crate) current: CurrentArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

//! `casemate release page`.

use std::path::PathBuf;

use clap::Args;

use super::MemoryArgs;

/// `casemate release page`
#[derive(Debug, Args)]
pub(crate) struct ReleasePageArgs {
    /// Release directories, the earlier ones of a name first
    #[arg(required = true, value_name = "DIR")]
    pub(crate) releases: Vec<PathBuf>,
    /// Directory of the site to write
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Say who of these signed, and let browsers verify it
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Let browsers verify by casemate's own code what identities, logs and keys signed: the module
    /// that `make module` compiles. Without it browsers verify what keys signed
    #[arg(long, value_name = "FILE", requires = "signers")]
    pub(crate) module: Option<PathBuf>,
    /// Say what this index lists, revoked or holds to be too old; it must be trusted
    #[arg(long, value_name = "FILE", requires = "signers")]
    pub(crate) index: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
}

//! How a channel is followed.

use std::path::PathBuf;

use casemate_measurements::platform::Platform;
use clap::Args;

use super::MemoryArgs;
use crate::args::platform;

/// How a channel is followed, and who must have signed what is fetched.
#[derive(Debug, Args)]
pub(crate) struct ChannelArgs {
    /// Take only what enough of these signers signed; a channel is followed only with it
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) current: CurrentArgs,
}

/// Which release of a channel is meant.
#[derive(Debug, Args)]
pub(crate) struct CurrentArgs {
    /// Platform whose current release of a channel is meant
    #[arg(long, value_parser = platform, default_value_t = Platform::Snp)]
    pub(crate) platform: Platform,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
}

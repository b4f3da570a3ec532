//! `casemate release pull`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use casemate_registry::reference::Named;
use clap::Args;

use super::{ChannelArgs, FetchArgs};
use crate::args::OutputArgs;

/// `casemate release pull`
#[derive(Debug, Args)]
pub(crate) struct ReleasePullArgs {
    /// From where: oci://HOST/REPOSITORY:TAG, file:///PATH#TAG or
    /// https://HOST/PATH#TAG, each also with @sha256:DIGEST; or STORE?channel=NAME
    #[arg(value_name = "REF")]
    pub(crate) from: Named,
    /// Directory to write; an earlier release there is replaced in one step
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) channel: ChannelArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

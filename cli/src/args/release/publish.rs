//! `casemate release publish`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use casemate_registry::reference::Target;
use clap::Args;

use super::StoreArgs;
use crate::args::OutputArgs;

/// `casemate release publish`
#[derive(Debug, Args)]
pub(crate) struct ReleasePublishArgs {
    /// Release directory, or file of a signed index
    pub(crate) release: PathBuf,
    /// Where to: oci://HOST/REPOSITORY:TAG or file:///PATH#TAG; a digest
    /// behind the tag is what the tag must point to before it is moved. Without a tag a release
    /// gets `latest`, an index `index`
    #[arg(value_name = "REF")]
    pub(crate) to: Target,
    /// Refuse to move a tag that points to something
    #[arg(long)]
    pub(crate) new_tag: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

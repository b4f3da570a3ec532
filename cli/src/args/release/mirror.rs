//! `casemate release mirror`.

use casemate_registry::reference::{Named, Reference};
use clap::Args;

use super::{ChannelArgs, FetchArgs};
use crate::args::OutputArgs;

/// `casemate release mirror`
#[derive(Debug, Args)]
pub(crate) struct ReleaseMirrorArgs {
    /// From where; also a channel of an index there: STORE?channel=NAME
    #[arg(value_name = "FROM")]
    pub(crate) from: Named,
    /// Where to; a digest behind the tag is what the tag must point to before it is moved
    #[arg(value_name = "TO")]
    pub(crate) to: Reference,
    /// Copy the index too, once its release is there: the channel can be followed in TO then
    #[arg(long)]
    pub(crate) index: bool,
    #[command(flatten)]
    pub(crate) channel: ChannelArgs,
    #[command(flatten)]
    pub(crate) fetch: FetchArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

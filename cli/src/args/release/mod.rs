//! `casemate release`: a file per word after it.

mod mirror;
mod page;
mod publish;
mod pull;
mod store;

use clap::Subcommand;

pub(crate) use mirror::ReleaseMirrorArgs;
pub(crate) use page::ReleasePageArgs;
pub(crate) use publish::ReleasePublishArgs;
pub(crate) use pull::ReleasePullArgs;
pub(crate) use store::{FetchArgs, StoreArgs};

/// `casemate release …`
#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseVerb {
    /// Publish a release directory with its signatures to a store
    Publish(ReleasePublishArgs),
    /// Fetch a release from a store into a directory, every byte verified
    Pull(ReleasePullArgs),
    /// Copy a release with its signatures from one store to another; its digest stays
    Mirror(ReleaseMirrorArgs),
    /// Render releases as a static site: digests, changes by package, how to verify each
    Page(ReleasePageArgs),
}

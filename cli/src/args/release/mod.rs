//! `casemate release`: a file per word after it.

mod channel;
mod index;
mod mirror;
mod page;
mod publish;
mod pull;
mod show;
mod sign;
mod signer;
mod store;
mod verify;

use clap::Subcommand;

pub(crate) use channel::{ChannelArgs, CurrentArgs};
pub(crate) use index::{MemoryArgs, ReleaseIndexArgs, ReleaseListArgs, ReleaseRevokeArgs};
pub(crate) use mirror::ReleaseMirrorArgs;
pub(crate) use page::ReleasePageArgs;
pub(crate) use publish::ReleasePublishArgs;
pub(crate) use pull::ReleasePullArgs;
pub(crate) use show::ReleaseShowArgs;
pub(crate) use sign::{
    ReleaseAttestArgs, ReleaseKeygenArgs, ReleasePublicKeyArgs, ReleaseSignArgs,
};
pub(crate) use signer::SignerArgs;
pub(crate) use store::{FetchArgs, StoreArgs};
pub(crate) use verify::ReleaseVerifyArgs;

/// `casemate release …`
#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseVerb {
    /// Make a key of P-256: FILE gets the private key, FILE.pub the public one
    Keygen(ReleaseKeygenArgs),
    /// Print the public half of a key as PEM, for signers.toml
    PublicKey(ReleasePublicKeyArgs),
    /// Sign a release and from what it was built, into its folder signatures/
    Sign(ReleaseSignArgs),
    /// Sign a release that you rebuilt yourself and found to be the same: exit 3 if it is not
    Attest(ReleaseAttestArgs),
    /// Say who signed a release, and whether it is enough: exit 0, or 2 if it is not
    Verify(ReleaseVerifyArgs),
    /// Tell a person what a release is and which shapes it may be launched in
    Show(ReleaseShowArgs),
    /// Make or sign an index: which releases there are, and which are current
    Index(ReleaseIndexArgs),
    /// List the releases of an index, if it is signed by enough and the newest that was seen
    List(ReleaseListArgs),
    /// Revoke a release: the index's next version says that nobody may use it
    Revoke(ReleaseRevokeArgs),
    /// Publish a release directory with its signatures, or a signed index, to a store
    Publish(ReleasePublishArgs),
    /// Fetch a release from a store into a directory, every byte verified
    Pull(ReleasePullArgs),
    /// Copy a release with its signatures from one store to another; its digest stays
    Mirror(ReleaseMirrorArgs),
    /// Render releases as a static site: digests, changes by package, how to verify each
    Page(ReleasePageArgs),
}

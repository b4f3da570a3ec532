//! `release`: what is signed, by whom, and what it is. A file per word after it.

pub(crate) mod channel;
mod index;
mod mirror;
mod packages;
mod page;
mod publish;
mod pull;
mod show;
mod sign;
mod signer;
pub(crate) mod store;
mod verify;

use crate::args::ReleaseVerb;
use crate::outcome::Outcome;

pub(crate) use verify::{NOT_TRUSTED, is_signed, policy};

/// Does what was typed.
pub(crate) fn dispatch(verb: &ReleaseVerb) -> anyhow::Result<Outcome> {
    match verb {
        ReleaseVerb::Keygen(args) => sign::keygen(args),
        ReleaseVerb::PublicKey(args) => sign::public_key(args),
        ReleaseVerb::Sign(args) => sign::sign(args),
        ReleaseVerb::Attest(args) => sign::attest(args),
        ReleaseVerb::Verify(args) => verify::verify(args),
        ReleaseVerb::Show(args) => show::show(args),
        ReleaseVerb::Index(args) => index::index(args),
        ReleaseVerb::List(args) => index::list(args),
        ReleaseVerb::Revoke(args) => index::revoke(args),
        ReleaseVerb::Publish(args) => publish::publish(args),
        ReleaseVerb::Pull(args) => pull::pull(args),
        ReleaseVerb::Mirror(args) => mirror::mirror(args),
        ReleaseVerb::Page(args) => page::page(args),
    }
}

//! `release`: a file per word after it.

mod mirror;
mod page;
mod publish;
mod pull;
pub(crate) mod store;

use crate::args::ReleaseVerb;
use crate::outcome::Outcome;

/// Does what stands after `release`.
pub(crate) fn dispatch(verb: &ReleaseVerb) -> anyhow::Result<Outcome> {
    match verb {
        ReleaseVerb::Publish(args) => publish::publish(args),
        ReleaseVerb::Pull(args) => pull::pull(args),
        ReleaseVerb::Mirror(args) => mirror::mirror(args),
        ReleaseVerb::Page(args) => page::page(args),
    }
}

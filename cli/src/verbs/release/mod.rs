//! `release`: what is signed, by whom, and what it is. A file per word after it.

mod show;

use crate::args::ReleaseVerb;
use crate::outcome::Outcome;

/// Does what was typed.
pub(crate) fn dispatch(verb: &ReleaseVerb) -> anyhow::Result<Outcome> {
    match verb {
        ReleaseVerb::Show(args) => show::show(args),
    }
}

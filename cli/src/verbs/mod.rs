//! A module per verb; each calls a library and prints what it answers.

mod image;
mod judge;
mod run;
mod shell;

use crate::args::{ImageVerb, Verb};
use crate::outcome::Outcome;

/// Does what was typed.
pub(crate) fn dispatch(verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Image(ImageVerb::Lock(args)) => image::lock(&args),
        Verb::Image(ImageVerb::Build(args)) => image::build(&args),
        Verb::Image(ImageVerb::Diff(args)) => image::diff(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Ps(args) => run::ps(args),
        Verb::Stop(args) => run::stop(&args),
        Verb::Supervise { dir } => run::supervise(&dir),
        Verb::SimulatedRoot(args) => run::simulated_root(args),
        Verb::Verify(args) => judge::verify(&args),
        Verb::Ssh(args) => judge::ssh(&args),
        Verb::Completions { shell } => shell::completions(shell),
        Verb::Man { dir } => shell::man(&dir),
    }
}

//! A module per verb; each calls a library and prints what it answers.

mod daemon;
mod devices;
mod explain;
mod host;
mod id_block;
mod image;
mod inputs;
mod judge;
mod measure;
mod policy;
mod rebuild;
mod release;
mod run;
mod serve;
mod shell;
mod verdict;
mod watch;

use crate::args::{HostVerb, ImageVerb, MeasureVerb, PolicyVerb, Verb, VerdictVerb};
use crate::outcome::Outcome;

/// Does what was typed.
pub(crate) fn dispatch(verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Image(ImageVerb::Lock(args)) => image::lock(&args),
        Verb::Image(ImageVerb::Build(args)) => image::build(&args),
        Verb::Image(ImageVerb::ExportInputs(args)) => inputs::export(&args),
        Verb::Image(ImageVerb::Diff(args)) => image::diff(&args),
        Verb::Image(ImageVerb::Rebuild(args)) => rebuild::rebuild(&args),
        Verb::Measure(MeasureVerb::Digest(args)) => measure::digest(&args),
        Verb::Measure(MeasureVerb::Matrix(args)) => measure::matrix(&args),
        Verb::Measure(MeasureVerb::Verify(args)) => measure::verify(&args),
        Verb::Measure(MeasureVerb::Law(args)) => measure::law(&args),
        Verb::Explain(args) => explain::explain(&args),
        Verb::IdBlock(verb) => id_block::dispatch(&verb),
        Verb::Release(verb) => release::dispatch(&verb),
        Verb::Host(HostVerb::Doctor(args)) => host::doctor(&args),
        Verb::Host(HostVerb::Inventory(args)) => host::inventory(&args),
        Verb::Host(HostVerb::Devices(args)) => devices::list(&args),
        Verb::Host(HostVerb::Prepare(args)) => devices::prepare(&args),
        Verb::Host(HostVerb::Release(args)) => devices::release(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Ps(args) => run::ps(&args),
        Verb::Status(args) => daemon::status(&args),
        Verb::Stop(args) => run::stop(&args),
        Verb::Start(args) => daemon::start(&args, &mut run::tell),
        Verb::Forget(args) => daemon::forget(&args),
        Verb::Events(args) => daemon::events(&args),
        Verb::Serve(args) => serve::serve(&args),
        Verb::Publish(args) => serve::publish(&args),
        Verb::Supervise { dir } => run::supervise(&dir),
        Verb::SimulatedRoot(args) => run::simulated_root(args),
        Verb::Verify(args) => judge::verify(&args),
        Verb::Ssh(args) => judge::ssh(&args),
        Verb::Policy(PolicyVerb::Init(args)) => policy::init(&args),
        Verb::Policy(PolicyVerb::Check(args)) => policy::check(&args),
        Verb::Verdict(VerdictVerb::Verify(args)) => verdict::verify(&args),
        Verb::Schema(args) => policy::schema(&args),
        Verb::Completions { shell } => shell::completions(shell),
        Verb::Man { dir } => shell::man(&dir),
    }
}

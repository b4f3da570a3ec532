//! `release page`.

use casemate_registry::page::{self, ListedIndex, Module, Release, Site};

use super::index::trusted;
use super::verify::{NOT_TRUSTED, policy};
use crate::args::ReleasePageArgs;
use crate::outcome::Outcome;
use crate::printer;

/// Renders releases as a static site.
pub(crate) fn page(args: &ReleasePageArgs) -> anyhow::Result<Outcome> {
    let policy = args.signers.as_deref().map(policy).transpose()?;
    let index = match (&args.index, &args.signers) {
        (Some(path), Some(signers)) => match trusted(path, signers, &args.memory)? {
            Some(file) => Some(file),
            None => return Ok(Outcome::Refused(NOT_TRUSTED)),
        },
        _ => None,
    };
    let releases: Result<Vec<Release>, _> =
        args.releases.iter().map(|dir| Release::read(dir, policy.as_ref())).collect();
    let releases = releases?;
    let index = match (&index, &policy) {
        (Some(file), Some(policy)) => Some(ListedIndex { file, judgement: file.judge(policy) }),
        _ => None,
    };
    let module = args.module.as_deref().map(Module::read).transpose()?;
    let (policy, module) = (policy.as_ref(), module.as_ref());
    let files = page::render(&Site { releases: &releases, policy, index, module });
    page::write(&args.output, &files)?;
    printer::line(&args.output.join("index.html").display().to_string())?;
    Ok(Outcome::Done)
}

//! `release page`.

use casemate_registry::page::{self, Release};

use crate::args::ReleasePageArgs;
use crate::outcome::Outcome;
use crate::printer;

/// Renders releases as a static site.
pub(crate) fn page(args: &ReleasePageArgs) -> anyhow::Result<Outcome> {
    let releases: Result<Vec<Release>, _> =
        args.releases.iter().map(|dir| Release::read(dir)).collect();
    let files = page::render(&releases?);
    page::write(&args.output, &files)?;
    printer::line(&args.output.join("index.html").display().to_string());
    Ok(Outcome::Done)
}

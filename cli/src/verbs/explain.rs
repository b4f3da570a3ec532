//! `explain`: which launch a digest is of, and what differs from known releases.

use std::num::NonZeroUsize;

use casemate_measurements::explain::{self, Explanation, Known};
use casemate_validator::release;

use crate::args::{ExplainArgs, Format};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};

/// Exit code where nothing was found.
const UNEXPLAINED: u8 = 3;

/// Explains a launch digest.
pub(crate) fn explain(args: &ExplainArgs) -> anyhow::Result<Outcome> {
    let mut known = Vec::with_capacity(args.near.len());
    for path in &args.near {
        let manifest = release::open_manifest(path)?;
        let release = &manifest.release;
        let label = format!("{} {} ({})", release.name, release.version, path.display());
        known.push(Known { label, manifest });
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok());
    let jobs = jobs.unwrap_or(NonZeroUsize::MIN);
    let explained = explain::explain(&args.measurement, &known, jobs);
    match args.output.format {
        Format::Json => printer::json(&explained)?,
        Format::Table => printer::line(&text(&explained))?,
    }
    let found = explained.found.is_some();
    Ok(if found { Outcome::Done } else { Outcome::Refused(UNEXPLAINED) })
}

fn text(explained: &Explanation) -> String {
    if explained.found.is_some() {
        return explained.sentence.clone();
    }
    let rows = explained
        .excluded
        .iter()
        .map(|excluded| vec![excluded.launches.to_string(), excluded.kind.text().to_owned()]);
    let table = printer::table(&["EXCLUDED>", "LAUNCHES"], rows);
    format!("{table}\n\n{}", printer::toned(Tone::Bad, &explained.sentence))
}

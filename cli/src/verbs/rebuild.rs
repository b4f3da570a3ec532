//! `image rebuild`: whether a release is what its recipe, lock and inputs make.

use casemate_builder::build::{self, BuildOptions};
use casemate_builder::diff;
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::release::Release;
use serde::Serialize;

use super::image::{cache, cargo_home, fetch, jobs, mirrors};
use crate::args::{Format, RebuildArgs};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};
use crate::progress::Bars;

/// Exit code of a release that comes out otherwise.
const DIFFERS: u8 = 3;

/// A rebuild, as this program prints it.
#[derive(Debug, Serialize)]
struct Rebuilt {
    same: bool,
    manifest_sha256: Sha256Hash,
    /// Of the build.
    found_sha256: Sha256Hash,
    differences: Option<diff::DiffReport>,
}

/// Builds a release again and compares.
pub(crate) fn rebuild(args: &RebuildArgs) -> anyhow::Result<Outcome> {
    let release = Release::open(&args.release)?;
    release.check_files()?;
    // Before minutes of building.
    build::check_inputs(&args.recipe, release.manifest())?;
    let options = BuildOptions {
        out: args.output.clone(),
        cache: cache(&args.sources)?,
        mirrors: mirrors(&args.sources)?,
        fetch: fetch(&args.sources, args.offline),
        cargo_home: cargo_home(),
        run_cargo: !args.offline,
        jobs: jobs(&args.sources),
        platform: release.manifest().release.platform,
        order_seed: 0,
    };
    build::build(&args.recipe, &options, &Bars::new())?;
    let again = Release::open(&args.output)?;
    let (expected, found) = (release.manifest_sha256(), again.manifest_sha256());
    let same = expected == found;
    let differences = if same { None } else { Some(diff::diff(&args.release, &args.output)?) };
    let rebuilt = Rebuilt { same, manifest_sha256: expected, found_sha256: found, differences };
    match (args.format, &rebuilt.differences) {
        (Format::Json, _) => printer::json(&rebuilt)?,
        (Format::Table, Some(report)) => printer::line(report.to_string().trim_end())?,
        (Format::Table, None) => {
            let named = &release.manifest().release;
            let text = format!(
                "{} {} comes out the same, byte by byte: manifest {found}",
                named.name, named.version
            );
            printer::line(&printer::toned(Tone::Good, &text))?;
        }
    }
    Ok(if same { Outcome::Done } else { Outcome::Refused(DIFFERS) })
}

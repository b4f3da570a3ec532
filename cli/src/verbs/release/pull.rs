//! `release pull`.

use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::pull::pull as fetch;
use casemate_registry::reference::{Named, Reference};
use casemate_registry::store as stores;
use serde::Serialize;

use super::channel::{self, Following};
use super::store::{self, Fetching};
use super::verify::NOT_TRUSTED;
use crate::args::{Format, ReleasePullArgs};
use crate::outcome::Outcome;
use crate::printer;
use crate::progress::Bars;

/// What was pulled, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: Sha256Hash,
    name: String,
    version: String,
    size: u64,
    fetched: u64,
    reused: u64,
    signatures: usize,
}

/// Fetches a release into a directory.
pub(crate) fn pull(args: &ReleasePullArgs) -> anyhow::Result<Outcome> {
    let options = store::fetching(&args.fetch);
    let source = stores::open(args.from.place(), &options.store)?;
    let cache = store::cache(&args.fetch)?;
    let following = Following::from(&args.channel);
    let rollback = options.allow_rollback;
    let Some(found) = channel::find(&args.from, source.as_ref(), &cache, rollback, following)?
    else {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    };
    if !found.is_signed(source.as_ref(), following.signers)? {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    }
    let (pinned, found) = (found.pinned, found.resolved);
    let mut local = cache.chunks();
    // An earlier release in the directory has most of the chunks of the next.
    for path in found.descriptor.files().keys() {
        local.add_file(&args.dir.join(path));
    }
    let (bars, phase) = (Bars::new(), Fetching::default());
    phase.begin(&bars, &found);
    let advance = |bytes| phase.advance(bytes);
    let pulled = fetch(source.as_ref(), &found, &args.dir, &local, &options.pull, &advance)?;
    phase.finish(&pulled);
    if let Named::Release(Reference { place, selector }) = &args.from
        && let Some(tag) = selector.tag()
    {
        cache.history().record(place, tag, &found)?;
    }
    let manifest = *found.manifest.sha256();
    let report = Report {
        reference: pinned.to_string(),
        manifest,
        name: found.descriptor.name().to_owned(),
        version: found.descriptor.version().to_owned(),
        size: found.descriptor.size(),
        fetched: pulled.fetched,
        reused: pulled.reused,
        signatures: pulled.signatures,
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference)?,
    }
    if following.signers.is_none() {
        printer::say(
            "every byte is what this digest says; who vouches for it is for `casemate release \
             verify` to say",
        );
    }
    Ok(Outcome::Done)
}

//! `release mirror`.

use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::mirror::mirror as copy;
use casemate_registry::store as stores;
use serde::Serialize;

use super::channel::{self, Following};
use super::store;
use super::verify::NOT_TRUSTED;
use crate::args::{Format, ReleaseMirrorArgs};
use crate::outcome::Outcome;
use crate::printer;
use crate::progress::Bars;

/// What was copied, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: Sha256Hash,
    sent: u64,
    had: u64,
    signatures: usize,
}

/// Copies a release from one store to another.
pub(crate) fn mirror(args: &ReleaseMirrorArgs) -> anyhow::Result<Outcome> {
    let options = store::fetching(&args.fetch);
    let expected = store::expected(&args.to, false)?;
    let from = stores::open(args.from.place(), &options.store)?;
    let to = stores::open(&args.to.place, &options.store)?;
    let cache = store::cache(&args.fetch)?;
    let following = Following::from(&args.channel);
    let rollback = options.allow_rollback;
    let Some(found) = channel::find(&args.from, from.as_ref(), &cache, rollback, following)? else {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    };
    if !found.is_signed(from.as_ref(), following.signers)? {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    }
    let found = found.resolved;
    let phase = Bars::new().phase("mirror", Total::Bytes(found.descriptor.size()));
    let advance = |bytes| phase.advance(bytes);
    let tag = args.to.selector.tag().map(|tag| (tag, expected));
    let artifact = (from.as_ref(), &found);
    let done = copy(artifact, to.as_ref(), tag, options.pull.jobs, &advance)?;
    let (sent, had) = (printer::size(done.sent), printer::size(done.had));
    phase.finish(&format!("{sent} sent, {had} were there"));
    let manifest = *found.manifest.sha256();
    let report = Report {
        reference: args.to.pinned(manifest).to_string(),
        manifest,
        sent: done.sent,
        had: done.had,
        signatures: done.referrers,
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference),
    }
    Ok(Outcome::Done)
}

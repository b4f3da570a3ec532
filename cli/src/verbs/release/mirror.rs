//! `release mirror`.

use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::{self, mirror::mirror as copy};
use casemate_registry::index::{Index, IndexFile};
use casemate_registry::reference::{Named, Selector, Tag};
use casemate_registry::store::{self as stores, Expected, Store};
use serde::Serialize;

use super::channel::{self, Following};
use super::verify::NOT_TRUSTED;
use super::{index, store};
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
    /// The version of the index that was copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
}

/// Copies a release from one store to another, and the index that led to it.
pub(crate) fn mirror(args: &ReleaseMirrorArgs) -> anyhow::Result<Outcome> {
    let options = store::fetching(&args.fetch);
    let expected = store::expected(&args.to, false)?;
    let index_tag = args.index.then(|| index_tag(args)).transpose()?;
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
    let index = index_tag.zip(found.index());
    if let Some((tag, file)) = index {
        // Before anything is moved: what the other store has may be newer.
        artifact::index::check(to.as_ref(), file, tag, index::clock()?)?;
    }
    let release = &found.resolved;
    let phase = Bars::new().phase("mirror", Total::Bytes(release.descriptor.size()));
    let advance = |bytes| phase.advance(bytes);
    let tag = args.to.selector.tag().map(|tag| (tag, expected));
    let artifact = (from.as_ref(), release);
    let done = copy(artifact, to.as_ref(), tag, options.pull.jobs, &advance)?;
    let (sent, had) = (printer::size(done.sent), printer::size(done.had));
    phase.finish(&format!("{sent} sent, {had} were there"));
    if let Some((tag, file)) = index {
        // Last, and by what is there now: who follows the channel finds what it leads to.
        if !found.is_signed(to.as_ref(), following.signers)? {
            return Ok(Outcome::Refused(NOT_TRUSTED));
        }
        copy_index(to.as_ref(), file, tag)?;
    }
    let manifest = *release.manifest.sha256();
    let report = Report {
        reference: args.to.pinned(manifest).to_string(),
        manifest,
        sent: done.sent,
        had: done.had,
        signatures: done.referrers,
        index: index.map(|(_, file)| file.index().version),
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference)?,
    }
    Ok(Outcome::Done)
}

/// Copies an index, and says which of its current releases are not beside it.
fn copy_index(to: &dyn Store, file: &IndexFile, tag: &Tag) -> anyhow::Result<()> {
    artifact::index::publish(to, file, tag, Expected::Any, index::clock()?)?;
    let Index { name, version, releases, .. } = file.index();
    printer::say(&format!("{} has index {name} version {version} now", to.name()));
    for entry in releases.iter().filter(|entry| !entry.channels.is_empty()) {
        let Some(digest) = entry.artifact_sha256 else { continue };
        if to.manifest(&Selector::Digest(digest))?.is_none() {
            let channels = entry.channels.iter().map(String::as_str).collect::<Vec<_>>();
            printer::warn(&format!(
                "{} {} for {}, current in {}, is not there: mirror that channel too",
                entry.name,
                entry.version,
                entry.platform,
                channels.join(", ")
            ));
        }
    }
    Ok(())
}

/// The tag that the index has in either store.
fn index_tag(args: &ReleaseMirrorArgs) -> anyhow::Result<&Tag> {
    let Named::Channel(channel) = &args.from else {
        anyhow::bail!(
            "--index copies the index that a channel is of, and {} names none: name it as \
             STORE?channel=NAME",
            args.from
        );
    };
    anyhow::ensure!(
        args.to.selector.tag() != Some(&channel.index),
        "{} is where the index goes: name another tag for the release",
        args.to
    );
    Ok(&channel.index)
}

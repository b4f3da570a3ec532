//! `release publish`.

use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::index::publish as send_index;
use casemate_registry::artifact::publish::{PublishOptions, publish as send};
use casemate_registry::artifact::source::Source;
use casemate_registry::reference::Channel;
use casemate_registry::store as stores;
use serde::Serialize;

use super::{index, store};
use crate::args::{Format, ReleasePublishArgs};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer;
use crate::progress::Bars;

/// What was published, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: Sha256Hash,
    files: usize,
    size: u64,
    sent: u64,
    had: u64,
    signatures: usize,
}

/// What was published of an index, as this program prints it.
#[derive(Debug, Serialize)]
struct IndexReport {
    reference: String,
    manifest: Sha256Hash,
    index: String,
    version: u64,
}

/// Publishes a release directory, or the file of an index.
pub(crate) fn publish(args: &ReleasePublishArgs) -> anyhow::Result<Outcome> {
    if args.release.is_file() {
        return publish_index(args);
    }
    let to = args.to.clone().or_latest();
    let source = Source::of_release(&args.release)
        .hint("`casemate image build` makes a release directory")?;
    if !source.left_out.is_empty() {
        printer::warn(&format!("not published: {}", source.left_out.join(", ")));
    }
    let jobs = args.store.transfers.get();
    let expected = store::expected(&to, args.new_tag)?;
    let options = PublishOptions { jobs, expected, ..PublishOptions::default() };
    let target = stores::open(&to.place, &store::options(&args.store))?;
    let total = source.files.values().filter_map(|file| file.file.metadata().ok());
    let total = total.map(|meta| meta.len()).sum();
    let phase = Bars::new().phase("publish", Total::Bytes(total));
    let advance = |bytes| phase.advance(bytes);
    let done = send(&source, target.as_ref(), to.selector.tag(), &options, &advance)?;
    let (sent, had) = (printer::size(done.sent), printer::size(done.had));
    phase.finish(&format!("{sent} sent, {had} were there"));
    let report = Report {
        reference: to.pinned(done.manifest).to_string(),
        manifest: done.manifest,
        files: done.descriptor.files().len(),
        size: done.descriptor.size(),
        sent: done.sent,
        had: done.had,
        signatures: done.signatures,
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference)?,
    }
    Ok(Outcome::Done)
}

/// Publishes the file of an index.
fn publish_index(args: &ReleasePublishArgs) -> anyhow::Result<Outcome> {
    let file = index::read(&args.release)?;
    let to = args.to.clone().or_tag(Channel::index_tag());
    let expected = store::expected(&to, args.new_tag)?;
    let Some(tag) = to.selector.tag() else { anyhow::bail!("{to} names no tag") };
    let target = stores::open(&to.place, &store::options(&args.store))?;
    let manifest = send_index(target.as_ref(), &file, tag, expected, index::clock()?)?;
    let manifest = *manifest.sha256();
    let report = IndexReport {
        reference: to.pinned(manifest).to_string(),
        manifest,
        index: file.index().name.clone(),
        version: file.index().version,
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference)?,
    }
    Ok(Outcome::Done)
}

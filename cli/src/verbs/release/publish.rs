//! `release publish`.

use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::publish::{PublishOptions, publish as send};
use casemate_registry::artifact::source::Source;
use casemate_registry::store as stores;
use serde::Serialize;

use super::store;
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

/// Publishes a release directory.
pub(crate) fn publish(args: &ReleasePublishArgs) -> anyhow::Result<Outcome> {
    let source = Source::of_release(&args.release)
        .hint("`casemate image build` makes a release directory")?;
    if !source.left_out.is_empty() {
        printer::warn(&format!("not published: {}", source.left_out.join(", ")));
    }
    let jobs = args.store.transfers.get();
    let expected = store::expected(&args.to, args.new_tag)?;
    let options = PublishOptions { jobs, expected, ..PublishOptions::default() };
    let target = stores::open(&args.to.place, &store::options(&args.store))?;
    let total = source.files.values().filter_map(|file| file.file.metadata().ok());
    let total = total.map(|meta| meta.len()).sum();
    let phase = Bars::new().phase("publish", Total::Bytes(total));
    let advance = |bytes| phase.advance(bytes);
    let done = send(&source, target.as_ref(), args.to.selector.tag(), &options, &advance)?;
    let (sent, had) = (printer::size(done.sent), printer::size(done.had));
    phase.finish(&format!("{sent} sent, {had} were there"));
    let report = Report {
        reference: args.to.pinned(done.manifest).to_string(),
        manifest: done.manifest,
        files: done.descriptor.files().len(),
        size: done.descriptor.size(),
        sent: done.sent,
        had: done.had,
        signatures: done.signatures,
    };
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference),
    }
    Ok(Outcome::Done)
}

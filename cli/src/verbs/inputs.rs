//! `image export-inputs`, and `image build --inputs`: what a recipe is built from as one bundle.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use casemate_builder::build::{self, BuildOptions};
use casemate_builder::fetch::Cache;
use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use casemate_registry::artifact::descriptor::{FileEntry, Kind};
use casemate_registry::artifact::files;
use casemate_registry::artifact::publish::{PublishOptions, publish};
use casemate_registry::artifact::pull::resolve;
use casemate_registry::artifact::source::{Source, SourceFile};
use casemate_registry::reference::{Reference, is_reference};
use casemate_registry::store as stores;
use serde::Serialize;

use super::image;
use super::release::store;
use crate::args::{ExportInputsArgs, Format, StoreArgs};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer;
use crate::progress::Bars;

/// A bundle, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    reference: String,
    manifest: Sha256Hash,
    files: usize,
    size: u64,
    sent: u64,
    had: u64,
}

/// A directory or a reference.
fn place(text: &str) -> anyhow::Result<Reference> {
    if is_reference(text) {
        return Ok(text.parse()?);
    }
    Reference::of_directory(Path::new(text)).with_context(|| format!("cannot tell where {text} is"))
}

/// Writes everything that a recipe is built from into one bundle.
pub(crate) fn export(args: &ExportInputsArgs) -> anyhow::Result<Outcome> {
    let to = place(&args.output)?;
    let expected = store::expected(&to, false)?;
    let bars = Bars::new();
    let options = BuildOptions {
        // Nothing is built.
        out: args.dir.clone(),
        cache: image::cache(&args.sources)?,
        mirrors: image::mirrors(&args.sources)?,
        fetch: image::fetch(&args.sources, args.offline),
        cargo_home: image::cargo_home(),
        run_cargo: !args.offline,
        jobs: image::jobs(&args.sources),
        platform: Platform::Snp,
        order_seed: 0,
    };
    let inputs = build::fetch_every_input(&args.dir, &options, &bars)?;
    let mut files = BTreeMap::new();
    for input in inputs.files {
        let file = options.cache.blob(input.sha256);
        files.insert(input.path, SourceFile { file, expected: Some(input.sha256) });
    }
    for (path, file) in inputs.recipe {
        files.insert(path, SourceFile { file, expected: None });
    }
    let total = files.values().filter_map(|file| file.file.metadata().ok());
    let phase = bars.phase("export", Total::Bytes(total.map(|meta| meta.len()).sum()));
    let source = Source {
        kind: Kind::Inputs,
        name: inputs.name,
        version: inputs.version,
        platform: None,
        files,
        signatures: BTreeMap::new(),
        left_out: Vec::new(),
    };
    let target = stores::open(&to.place, &store::options(&args.store))?;
    let jobs = args.store.transfers.get();
    let options = PublishOptions { jobs, expected, ..PublishOptions::default() };
    let advance = |bytes| phase.advance(bytes);
    let done = publish(&source, target.as_ref(), to.selector.tag(), &options, &advance)?;
    let (sent, had) = (printer::size(done.sent), printer::size(done.had));
    phase.finish(&format!("{} files, {sent} sent, {had} were there", source.files.len()));
    let report = Report {
        reference: to.pinned(done.manifest).to_string(),
        manifest: done.manifest,
        files: source.files.len(),
        size: done.descriptor.size(),
        sent: done.sent,
        had: done.had,
    };
    match args.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.reference)?,
    }
    Ok(Outcome::Done)
}

/// Puts into the cache what the recipe in `dir` needs, the cache lacks and the bundle has. Every
/// file is held to the hash of the recipe's own lock, so nobody need trust the bundle.
pub(super) fn take(
    dir: &Path,
    bundle: &str,
    cache: &Cache,
    args: &StoreArgs,
    bars: &Bars,
) -> anyhow::Result<()> {
    let inputs = build::inputs(dir)?;
    let lacking = inputs.files.iter().filter(|input| !cache.has(input.sha256, None));
    let wanted: BTreeMap<_, _> =
        lacking.map(|input| (input.sha256, cache.blob(input.sha256))).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let from = place(bundle)?;
    let source = stores::open(&from.place, &store::options(args))?;
    let found = resolve(source.as_ref(), &from.selector, Kind::Inputs)
        .hint("`casemate image export-inputs` makes an input bundle")?;
    let files = found.descriptor.files().values();
    let sizes = files.filter(|file| wanted.contains_key(&file.sha256())).map(FileEntry::size);
    let phase = bars.phase("inputs", Total::Bytes(sizes.sum()));
    let advance = |bytes| phase.advance(bytes);
    let jobs = args.transfers.get();
    let lacks = files::fetch(source.as_ref(), &found.descriptor, &wanted, jobs, &advance)?;
    phase.finish(&format!("{} files from {from}", wanted.len() - lacks.len()));
    let name = |sha256: &Sha256Hash| {
        inputs.files.iter().find(|input| input.sha256 == *sha256).map(|input| input.path.as_str())
    };
    if !lacks.is_empty() {
        let names: Vec<&str> = lacks.iter().filter_map(name).take(10).collect();
        let (number, names) = (lacks.len(), names.join(", "));
        printer::warn(&format!(
            "{from} was made for another lock: it lacks {number} files, such as {names}"
        ));
    }
    Ok(())
}

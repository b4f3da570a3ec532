//! Runs the recipe's stages and puts what they made where it belongs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::{BuildError, BuildOptions, Sources, tools};
use crate::fetch::{fetch, fetch_sources};
use crate::lock::Closure;
use crate::merge::Tree;
use crate::plan::BuildPlan;
use crate::progress::{Progress, Total};
use crate::recipe::{Destination, GuestPath, Stage};
use crate::stages::{
    Before, ModuleSet, SYMVERS, StageError, StageJob, SymbolVersions, VERMAGIC, check_modules,
};
use crate::steps::{self, StepError};

/// What the stages made, but for kernel modules, which are among the kernel's.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The firmware.
    pub(super) firmware: Option<Vec<u8>>,
    /// Files of the root file system: path, mode, bytes.
    pub(super) files: Vec<(GuestPath, u32, Vec<u8>)>,
}

/// The digest of the recipe's own files: the overlay, and those that stages name.
pub(super) fn own_files(sources: &Sources) -> Result<Sha256Hash, BuildError> {
    let overlay = sources.overlay.digest();
    let mut text = format!("casemate-own-files-v1\n{overlay}\n");
    let mut patched = false;
    for stage in &sources.recipe.stages {
        if let Some(patches) = StageJob::read(&sources.recipe, &sources.lock, stage)?.own_digest() {
            patched = true;
            let _ = writeln!(text, "{} {patches}", stage.name);
        }
    }
    Ok(if patched { Sha256Hash::of(text.as_bytes()) } else { overlay })
}

/// Runs all stages, in the recipe's order. Modules are checked against the kernel and put into
/// `kernel`, the merged kernel packages; so is a kernel that a stage makes.
pub(super) fn make(
    sources: &Sources,
    plan: &BuildPlan,
    kernel: &mut Tree,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Made, BuildError> {
    let recipe = &sources.recipe;
    let mut made = Made::default();
    let mut before = Before::new();
    for stage in &recipe.stages {
        let release = if stage.makes_modules() { steps::release(kernel)? } else { String::new() };
        let dir = one(sources, plan, stage, &release, &mut before, options, progress)?;
        let job = StageJob::read(recipe, &sources.lock, stage)?;
        let outputs = job.outputs(&dir)?;
        if stage.makes_modules() {
            let facts = recipe.kernel.stage.as_ref().and_then(|maker| before.get(maker));
            let facts = facts.map(|(_, dir)| dir.as_path());
            check(stage, &outputs, &release, (&dir, facts), kernel)?;
        }
        place(stage, outputs, &release, kernel, &mut made)?;
    }
    Ok(made)
}

/// Runs one stage, or finds what it made. Returns the directory of its outputs.
fn one(
    sources: &Sources,
    plan: &BuildPlan,
    stage: &Stage,
    release: &str,
    before: &mut Before,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, BuildError> {
    let BuildOptions { cache, mirrors, fetch: how, .. } = options;
    let job = StageJob::read(&sources.recipe, &sources.lock, stage)?;
    let closure = Closure::Stage(stage.name.clone());
    let root_key = plan.closure_digest(&closure);
    let key = job.key(&root_key, release, before);
    // What the command needs is there before the clock of the phase runs.
    let missing = !StageJob::place(cache, &key).is_dir();
    let root = if missing {
        if !tools::place(cache, &root_key).is_dir() {
            fetch(sources.lock.closure(&closure), cache, mirrors, how, progress)?;
        }
        let from = job.sources().iter().copied();
        fetch_sources(from, &stage.files, cache, mirrors, how, progress)?;
        Some(tools::assemble(&sources.lock, &closure, options, &root_key, progress)?)
    } else {
        None
    };
    let phase = progress.phase("stage", Total::Unknown);
    phase.detail(stage.name.as_str());
    let jobs = options.jobs.get();
    let dir = job.run(&key, release, cache, jobs, before, || -> Result<_, BuildError> {
        // Another program may have cleared the cache meanwhile.
        root.clone().ok_or_else(|| {
            let path = StageJob::place(cache, &key);
            let source = std::io::ErrorKind::NotFound.into();
            StepError::File { path, source }.into()
        })
    })?;
    before.insert(stage.name.clone(), (key, dir.clone()));
    let what = if missing { "made" } else { "found in the cache" };
    phase.finish(&format!("{} {what}", stage.name));
    Ok(dir)
}

/// Are the modules that `stage` made for the kernel `release`? Its symbols and version magic are
/// outputs of the kernel's stage in `made`, or come with the kernel's headers, which left the
/// first in `dir`, and with the kernel's own modules.
fn check(
    stage: &Stage,
    outputs: &BTreeMap<String, Vec<u8>>,
    release: &str,
    (dir, made): (&Path, Option<&Path>),
    kernel: &Tree,
) -> Result<(), BuildError> {
    let read = |path: PathBuf| {
        std::fs::read_to_string(&path).map_err(|source| StepError::File { path, source })
    };
    let fact = |dir: &Path, file: &'static str| -> Result<String, BuildError> {
        let path = dir.join(file);
        if !path.is_file() {
            return Err(StageError::NoKernelFacts { stage: stage.name.clone(), file }.into());
        }
        Ok(read(path)?)
    };
    let (symvers, magic) = match made {
        Some(made) => (fact(made, SYMVERS)?, fact(made, VERMAGIC)?.trim_end().to_owned()),
        None => (read(dir.join(SYMVERS))?, steps::version_magic(kernel, release)?),
    };
    let refused = |(file, what)| StageError::Module {
        stage: stage.name.clone(),
        file,
        release: release.to_owned(),
        what,
    };
    let symvers = SymbolVersions::parse(&symvers);
    let symvers = symvers.map_err(|line| refused((SYMVERS.to_owned(), line)))?;
    let modules: ModuleSet<'_> = stage
        .outputs
        .iter()
        .filter(|output| output.to == Destination::Module)
        .filter_map(|output| outputs.get_key_value(output.file.as_str()))
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    Ok(check_modules(&modules, &magic, &symvers).map_err(refused)?)
}

fn place(
    stage: &Stage,
    mut outputs: BTreeMap<String, Vec<u8>>,
    release: &str,
    kernel: &mut Tree,
    made: &mut Made,
) -> Result<(), BuildError> {
    for output in &stage.outputs {
        let Some(bytes) = outputs.remove(output.file.as_str()) else { continue };
        match &output.to {
            Destination::Module => {
                let path = format!("usr/lib/modules/{release}/updates/{}", output.file);
                kernel.put_file(&path, 0o644, &bytes)?;
            }
            Destination::Firmware => made.firmware = Some(bytes),
            Destination::Kernel => {
                let release = steps::release_of_image(&bytes).map_err(|what| {
                    StageError::NoKernel { stage: stage.name.clone(), what: what.to_owned() }
                })?;
                kernel.put_file(&format!("boot/vmlinuz-{release}"), 0o644, &bytes)?;
            }
            Destination::Stage => {}
            Destination::Guest(path) => {
                let bits = output.mode.map_or(0o644, |mode| u32::from(mode.bits()));
                made.files.push((path.clone(), bits, bytes));
            }
        }
    }
    Ok(())
}

//! Runs the recipe's stages and puts what they made where it belongs.

use std::fmt::Write as _;

use casemate_measurements::hash::Sha256Hash;

use super::{BuildError, BuildOptions, Sources, tools};
use crate::fetch::{fetch, fetch_sources};
use crate::lock::Closure;
use crate::merge::Tree;
use crate::plan::BuildPlan;
use crate::progress::{Progress, Total};
use crate::recipe::{Destination, GuestPath};
use crate::stages::{ModuleSet, SYMVERS, StageError, StageJob, SymbolVersions, check_modules};
use crate::steps::{self, StepError};

/// What the stages made, but for kernel modules, which are among the kernel's.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// The firmware.
    pub(super) firmware: Option<Vec<u8>>,
    /// Files of the root file system: path, mode, bytes.
    pub(super) files: Vec<(GuestPath, u32, Vec<u8>)>,
}

/// The digest of the recipe's own files: the overlay, and the patches of stages if there are any.
pub(super) fn own_files(sources: &Sources) -> Result<Sha256Hash, BuildError> {
    let overlay = sources.overlay.digest();
    let mut text = format!("casemate-own-files-v1\n{overlay}\n");
    let mut patched = false;
    for stage in &sources.recipe.stages {
        if let Some(patches) =
            StageJob::read(&sources.recipe, &sources.lock, stage)?.patches_digest()
        {
            patched = true;
            let _ = writeln!(text, "{} {patches}", stage.name);
        }
    }
    Ok(if patched { Sha256Hash::of(text.as_bytes()) } else { overlay })
}

/// Runs all stages, in the recipe's order. Modules are checked against the kernel and put into
/// `kernel`, the merged kernel packages.
pub(super) fn make(
    sources: &Sources,
    plan: &BuildPlan,
    kernel: &mut Tree,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Made, BuildError> {
    let mut made = Made::default();
    if sources.recipe.stages.is_empty() {
        return Ok(made);
    }
    let release = steps::release(kernel)?;
    for stage in &sources.recipe.stages {
        let job = StageJob::read(&sources.recipe, &sources.lock, stage)?;
        let closure = Closure::Stage(stage.name.clone());
        let root_key = plan.closure_digest(&closure);
        let key = job.key(&root_key, &release);
        let root = || -> Result<_, BuildError> {
            let BuildOptions { cache, mirrors, fetch: how, .. } = options;
            if !tools::place(cache, &root_key).is_dir() {
                fetch(sources.lock.closure(&closure), cache, mirrors, how, progress)?;
            }
            let from = job.sources().iter().copied();
            fetch_sources(from, &stage.files, cache, mirrors, how, progress)?;
            tools::assemble(&sources.lock, &closure, options, &root_key, progress)
        };
        // What the command needs is there before the clock of the phase runs.
        let missing = !StageJob::place(&options.cache, &key).is_dir();
        let root = if missing { Some(root()?) } else { None };
        let phase = progress.phase("stage", Total::Unknown);
        phase.detail(stage.name.as_str());
        let jobs = options.jobs.get();
        let dir = job.run(&key, &release, &options.cache, jobs, || -> Result<_, BuildError> {
            // Another program may have cleared the cache meanwhile.
            root.clone().ok_or_else(|| {
                let path = StageJob::place(&options.cache, &key);
                let source = std::io::ErrorKind::NotFound.into();
                StepError::File { path, source }.into()
            })
        })?;
        let outputs = job.outputs(&dir)?;
        if stage.makes_modules() {
            let read = |name: &str| {
                let path = dir.join(name);
                let wrap = |source| StepError::File { path: path.clone(), source };
                std::fs::read_to_string(&path).map_err(wrap)
            };
            let symvers = SymbolVersions::parse(&read(SYMVERS)?);
            let refused = |(file, what)| StageError::Module {
                stage: stage.name.clone(),
                file,
                release: release.clone(),
                what,
            };
            let symvers = symvers.map_err(|line| refused((SYMVERS.to_owned(), line)))?;
            let modules: ModuleSet<'_> = stage
                .outputs
                .iter()
                .filter(|output| output.to == Destination::Module)
                .filter_map(|o| outputs.get_key_value(o.file.as_str()))
                .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
                .collect();
            let reference = steps::version_magic(kernel, &release)?;
            check_modules(&modules, &reference, &symvers).map_err(refused)?;
        }
        place(stage, outputs, &release, kernel, &mut made)?;
        let what = if missing { "made" } else { "found in the cache" };
        phase.finish(&format!("{} {what}", stage.name));
    }
    Ok(made)
}

fn place(
    stage: &crate::recipe::Stage,
    mut outputs: std::collections::BTreeMap<String, Vec<u8>>,
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
            Destination::Guest(path) => {
                let bits = output.mode.map_or(0o644, |mode| u32::from(mode.bits()));
                made.files.push((path.clone(), bits, bytes));
            }
        }
    }
    Ok(())
}

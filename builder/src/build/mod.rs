//! Builds a release: from recipe and lock to a directory whose every byte follows from them.

mod inputs;
mod libraries;
mod release;
mod root;
mod stages;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_measurements::canonical::CanonicalError;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{FILE_NAME, artifact};
use casemate_measurements::platform::Platform;
use casemate_measurements::verity::Verity;

use crate::archive::Mirrors;
use crate::deb::DebError;
use crate::erofs::ImageError;
use crate::fetch::{
    Cache, CacheError, CrateSources, FetchError, FetchOptions, LockedCrate, fetch, fetch_crates,
};
use crate::initrd::cpio::CpioError;
use crate::lock::{Closure, Lock, LockError, LockedPackage};
use crate::manifest::{MeasureError, Measured, cmdline, manifest};
use crate::merge::MergeError;
use crate::plan::BuildPlan;
use crate::programs::{self, Linkage, ProgramError, Workspace};
use crate::progress::{Progress, Total};
use crate::recipe::{CrateName, Linked, Recipe, RecipeError};
use crate::sbom;
use crate::stages::StageError;
use crate::steps::{Overlay, StepError, read_overlay};

pub use inputs::{Input, Inputs, check_inputs, fetch_every_input, inputs};
use release::Release;
use root::{Compiled, Parts, initrd, root_tree};

/// How to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// The directory to write, replaced if a release is there.
    pub out: PathBuf,
    /// The cache.
    pub cache: Cache,
    /// Where packages come from.
    pub mirrors: Mirrors,
    /// How they are fetched.
    pub fetch: FetchOptions,
    /// `$CARGO_HOME` of this machine, whose downloaded crates are taken by checksum.
    pub cargo_home: Option<PathBuf>,
    /// May the machine's cargo be run to download crates?
    pub run_cargo: bool,
    /// Threads and processes at a time.
    pub jobs: NonZeroUsize,
    /// The platform that the release is for.
    pub platform: Platform,
    /// Changes the order in which packages are taken, which must not matter. For tests.
    pub order_seed: u64,
}

/// One file of a release that was built.
#[derive(Debug, Clone)]
pub struct BuiltArtifact {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
    /// How long it took to make.
    pub seconds: f64,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// The release's directory.
    pub out: PathBuf,
    /// The plan that was executed.
    pub plan: BuildPlan,
    /// Its files, the manifest included, sorted by name.
    pub artifacts: Vec<BuiltArtifact>,
    /// How long each phase took, in order.
    pub phases: Vec<(&'static str, f64)>,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its source says")]
pub enum BuildError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error(transparent)]
    Package(#[from] DebError),
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Programs(#[from] ProgramError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Initrd(#[from] CpioError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    Json(#[from] CanonicalError),
    /// The program that the initrd starts is not among the compiled ones.
    #[error("the recipe asks for the program {name:?}, the package {package} has {has:?}")]
    NoProgram { name: String, package: String, has: Vec<String> },
    /// A release was built from something else than what is here.
    #[error(
        "{what} of {} hashes to {found}, the release was built from {expected}: check out the \
         commit that it was built from",
        dir.display()
    )]
    OtherInput { what: &'static str, dir: PathBuf, found: Sha256Hash, expected: Sha256Hash },
    /// The output directory holds something else.
    #[error("{} is no release and not empty: it is not replaced", path.display())]
    NotARelease { path: PathBuf },
    /// A file of the release could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A cached image is not what it was when it was made, twice.
    #[error("the image {} does not hash to what it was made as: the disk is failing", path.display())]
    Damaged { path: PathBuf },
}

/// What is read before anything is done.
#[derive(Debug)]
struct Sources {
    recipe: Recipe,
    lock: Lock,
    overlay: Overlay,
    workspace: Workspace,
    /// The packages whose programs use the guest's C library.
    linked: BTreeMap<CrateName, Workspace>,
}

fn read(dir: &Path) -> Result<Sources, BuildError> {
    let recipe = Recipe::load(dir)?;
    let lock = Lock::load(dir)?;
    lock.check_made_for(&recipe)?;
    let mut overlay = Overlay::default();
    for dir in recipe.overlay_dirs() {
        overlay.add(&dir, read_overlay(&dir)?)?;
    }
    let source = recipe.programs_source();
    let workspace = Workspace::read(&source, recipe.programs.package.as_str())?;
    let mut linked = BTreeMap::new();
    for Linked { package, .. } in &recipe.programs.linked {
        linked.insert(package.clone(), Workspace::read(&source, package.as_str())?);
    }
    Ok(Sources { recipe, lock, overlay, workspace, linked })
}

impl Sources {
    fn plan(&self, platform: Platform) -> Result<BuildPlan, BuildError> {
        let own = stages::own_files(self)?;
        Ok(BuildPlan::new(&self.recipe, &self.lock, own, self.guest_digest(), platform))
    }

    /// Of the sources of the guest's programs.
    fn guest_digest(&self) -> Sha256Hash {
        if self.linked.is_empty() {
            return self.workspace.digest();
        }
        let mut text = format!("casemate-guest-v1\n{}\n", self.workspace.digest());
        for (package, workspace) in &self.linked {
            let _ = writeln!(text, "{} {package}", workspace.digest());
        }
        Sha256Hash::of(text.as_bytes())
    }

    /// Every package that is compiled, and how it is linked.
    fn workspaces(&self) -> impl Iterator<Item = (&Workspace, Linkage)> {
        let linked = self.linked.values().map(|workspace| (workspace, Linkage::Dynamic));
        std::iter::once((&self.workspace, Linkage::Static)).chain(linked)
    }

    /// The crates of all of them, sorted.
    fn crates(&self) -> Vec<LockedCrate> {
        let all = self.workspaces().flat_map(|(workspace, _)| workspace.crates().iter().cloned());
        all.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// Plans the build of the recipe in `dir`, and does nothing.
///
/// # Errors
/// When recipe, lock, overlay or sources are missing or malformed.
pub fn plan(dir: &Path, platform: Platform) -> Result<BuildPlan, BuildError> {
    read(dir)?.plan(platform)
}

/// Measures how long phases take.
#[derive(Debug)]
struct Clock {
    since: Instant,
    phases: Vec<(&'static str, f64)>,
}

impl Clock {
    fn lap(&mut self, phase: &'static str) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        self.phases.push((phase, seconds));
        seconds
    }
}

/// Builds the recipe in `dir`.
///
/// # Errors
/// When an input is missing, malformed or damaged, a step fails, or the release cannot be
/// written. A release that was there before is then still there.
pub fn build(
    dir: &Path,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<BuildReport, BuildError> {
    let sources = read(dir)?;
    let plan = sources.plan(options.platform)?;
    // Other builds may be at work in the cache without a lock on what they write.
    release::sweep(&options.cache.root().join("tmp"), "", Duration::from_hours(24));
    let mut release = Release::begin(&options.out)?;
    let mut clock = Clock { since: Instant::now(), phases: Vec::new() };

    let tools_key = plan.closure_digest(&Closure::Tools);
    fetch_inputs(&sources, options, &tools_key, progress)?;
    libraries::check(&sources, &plan, options, progress)?;
    clock.lap("fetch");
    let tools = tools::assemble(&sources.lock, &Closure::Tools, options, &tools_key, progress)?;
    let tools = (tools.as_path(), &tools_key);
    clock.lap("tools");
    let phase = progress.phase("programs", Total::Unknown);
    let jobs = options.jobs.get();
    let compiled = Compiled::make(&sources, tools, &options.cache, jobs)?;
    phase.finish("compiled in the tool closure");
    clock.lap("programs");

    let kernel = sources.lock.closure(&Closure::Kernel).collect::<Vec<_>>();
    let mut kernel = tools::merged(&kernel, options, progress)?;
    let made = stages::make(&sources, &plan, &mut kernel, options, progress)?;
    if !sources.recipe.stages.is_empty() {
        clock.lap("stages");
    }
    let parts = Parts::read(&sources, kernel, made, options, progress)?;
    clock.lap("unpack");
    let phase = progress.phase("merge", Total::Unknown);
    let (tree, licences) = root_tree(&sources, &parts, &compiled, tools, options, progress)?;
    phase.finish("packages merged, steps applied");
    let merged = clock.lap("merge");
    let phase = progress.phase("image", Total::Unknown);
    let epoch = sources.recipe.epoch;
    let image = release.root_image(&tree, epoch, tools, options, progress)?;
    phase.finish("erofs and hash tree");
    let seconds = clock.lap("image");
    release.made(artifact::ROOT, image.size, image.sha256, merged + seconds);

    let phase = progress.phase("measure", Total::Unknown);
    let initrd = initrd(&sources, &parts, &compiled)?;
    release.add(artifact::INITRD, &initrd)?;
    release.add(artifact::KERNEL, &parts.kernel_image)?;
    release.add(artifact::FIRMWARE, &parts.firmware)?;
    let bom = sbom::write(&sources.recipe, &sources.lock, &sources.crates(), &licences)?;
    release.add(artifact::SBOM, &bom)?;
    write_manifest(&mut release, &sources, &parts, &plan, &initrd, &image.verity)?;
    phase.finish("launch digests and manifest");
    clock.lap("measure");
    let artifacts = release.commit()?;
    clock.lap("write");
    Ok(BuildReport { out: options.out.clone(), plan, artifacts, phases: clock.phases })
}

fn write_manifest(
    release: &mut Release,
    sources: &Sources,
    parts: &Parts,
    plan: &BuildPlan,
    initrd: &[u8],
    verity: &Verity,
) -> Result<(), BuildError> {
    let line = cmdline(&sources.recipe, plan.platform, verity)?;
    release.add(artifact::CMDLINE, line.as_bytes())?;
    let measured = Measured {
        platform: plan.platform,
        firmware: &parts.firmware,
        kernel: &parts.kernel_image,
        initrd,
        verity,
    };
    let artifacts: BTreeMap<_, _> = release.artifacts();
    let manifest = manifest(&sources.recipe, &measured, artifacts, plan.inputs.clone())?;
    let bytes = manifest.to_bytes().map_err(MeasureError::from)?;
    release.add(FILE_NAME, &bytes)
}

/// Gets what the cache lacks. Tools and crates are needed only until what is made with them is
/// in the cache.
fn fetch_inputs(
    sources: &Sources,
    options: &BuildOptions,
    tools_key: &Sha256Hash,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let BuildOptions { cache, mirrors, .. } = options;
    let has_tools = tools::place(cache, tools_key).is_dir();
    let needed = |package: &&LockedPackage| {
        // What a stage alone needs is fetched when it runs.
        let needed = |closure: &Closure| match closure {
            Closure::Tools => !has_tools,
            Closure::Stage(_) => false,
            _ => true,
        };
        package.closures.iter().any(needed)
    };
    let packages = sources.lock.packages().iter().filter(needed);
    fetch(packages, cache, mirrors, &options.fetch, progress)?;
    let compiled = |(workspace, linkage)| {
        let key = programs::key(workspace, linkage, tools_key);
        cache.root().join("programs").join(key.to_string()).is_dir()
    };
    if !sources.workspaces().all(compiled) {
        let from = CrateSources {
            workspace: sources.recipe.programs_source(),
            cargo_home: options.cargo_home.clone(),
            run_cargo: options.run_cargo,
        };
        fetch_crates(&sources.crates(), cache, &from, mirrors, &options.fetch, progress)?;
    }
    Ok(())
}

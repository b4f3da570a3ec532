//! Stages: what an image has compiled from sources, each by a declared command that sees its
//! locked inputs and nothing else.
//!
//! A stage has a root of its own, made of packages of the lock, so that tools of one stage
//! change no other. What it makes is kept by the hash of all that it was made from.

mod modules;
mod source;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use crate::fetch::Cache;
use crate::lock::{Lock, LockedSource};
use crate::namespace::{NamespaceError, Program};
use crate::recipe::{OwnFile, Recipe, Stage, StageInput, StageName};
use crate::steps::{Durability, StepError, derived};

pub use modules::{ModuleSet, SymbolVersions, check as check_modules};

/// Where what stages made is kept in the cache.
const KIND: &str = "stages";
/// Version of what a command is given: another one finds nothing of an older program's.
const LAYOUT: u32 = 2;
/// The table of the kernel's exported symbols, beside the modules that were made for it.
pub(crate) const SYMVERS: &str = "Module.symvers";
/// The version magic that modules for a kernel made by a stage must have: an output of that stage.
pub(crate) const VERMAGIC: &str = "vermagic";

/// Why a stage made nothing.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// A file could not be read or written.
    #[error("stage {stage}: cannot use {}", path.display())]
    File {
        /// The stage.
        stage: StageName,
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the recipe's folder is missing.
    #[error("stage {stage}: there is no file {}, which its recipe names", path.display())]
    NoOwnFile {
        /// The stage.
        stage: StageName,
        /// The path.
        path: PathBuf,
    },
    /// An archive of a source package cannot be unpacked.
    #[error("stage {stage}: {name} does not unpack: {what}")]
    Source {
        /// The stage.
        stage: StageName,
        /// The archive.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// An input is not what the lock or recipe says.
    #[error(
        "stage {stage}: {name} in the cache has SHA-256 {found}, expected {expected}; delete it"
    )]
    Hash {
        /// The stage.
        stage: StageName,
        /// The file.
        name: String,
        /// The hash of lock or recipe.
        expected: Sha256Hash,
        /// The hash of the file.
        found: Sha256Hash,
    },
    /// The command failed.
    #[error("stage {stage}: its command failed")]
    Command {
        /// The stage.
        stage: StageName,
        /// How.
        #[source]
        source: NamespaceError,
    },
    /// The command did not make what the recipe declares.
    #[error("stage {stage}: its command left no file /work/out/{file}")]
    NoOutput {
        /// The stage.
        stage: StageName,
        /// The declared output.
        file: String,
    },
    /// The stage makes modules and its packages have no headers of the image's kernel.
    #[error(
        "stage {stage}: its packages have no /usr/src/linux-headers-{release}/{SYMVERS}\nhint: the \
         image's kernel is {release}; ask for its headers in the stage's packages and lock again, \
         so that both move together"
    )]
    NoHeaders {
        /// The stage.
        stage: StageName,
        /// The kernel's release.
        release: String,
    },
    /// The stage makes modules, and the stage that makes the kernel does not say what fits it.
    #[error(
        "stage {stage}: the kernel's stage has no output {file}\nhint: add it there with to = \
         \"stage\": modules are checked by {SYMVERS} and {VERMAGIC}"
    )]
    NoKernelFacts {
        /// The stage.
        stage: StageName,
        /// The output.
        file: &'static str,
    },
    /// The stage makes the kernel, and what it made is none.
    #[error("stage {stage}: what it made is no kernel: {what}")]
    NoKernel {
        /// The stage.
        stage: StageName,
        /// What is wrong.
        what: String,
    },
    /// A module does not fit the kernel.
    #[error("stage {stage}: {file} does not fit the kernel {release}: {what}")]
    Module {
        /// The stage.
        stage: StageName,
        /// The module's file.
        file: String,
        /// The kernel's release.
        release: String,
        /// What does not fit.
        what: String,
    },
    /// The cache could not be used.
    #[error(transparent)]
    Step(#[from] StepError),
}

/// A stage with all that decides what it makes.
#[derive(Debug)]
pub struct StageJob<'a> {
    stage: &'a Stage,
    sources: Vec<&'a LockedSource>,
    patches: Vec<(&'a OwnFile, Vec<u8>)>,
    own: Vec<(&'a OwnFile, Vec<u8>)>,
    epoch: u32,
    /// Is the kernel made by a stage, too?
    kernel_is_made: bool,
}

/// What stages before this one made: the key of each, and the directory of its outputs.
pub type Before = BTreeMap<StageName, (Sha256Hash, PathBuf)>;

impl<'a> StageJob<'a> {
    /// Reads the files of recipes' folders that `stage` names.
    ///
    /// # Errors
    /// When one is missing or unreadable.
    pub fn read(recipe: &'a Recipe, lock: &'a Lock, stage: &'a Stage) -> Result<Self, StageError> {
        let read = |file: &'a OwnFile| -> Result<_, StageError> {
            let path = file.location();
            let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => {
                    StageError::NoOwnFile { stage: stage.name.clone(), path: path.clone() }
                }
                _ => StageError::File { stage: stage.name.clone(), path: path.clone(), source },
            })?;
            Ok((file, bytes))
        };
        let sources = lock.sources().iter().filter(|source| source.stage == stage.name).collect();
        Ok(Self {
            stage,
            sources,
            patches: stage.patches.iter().map(read).collect::<Result<_, _>>()?,
            own: stage.own.iter().map(read).collect::<Result<_, _>>()?,
            epoch: recipe.epoch,
            kernel_is_made: recipe.kernel.stage.is_some(),
        })
    }

    /// The stage.
    #[must_use]
    pub const fn stage(&self) -> &'a Stage {
        self.stage
    }

    /// The source packages.
    #[must_use]
    pub fn sources(&self) -> &[&'a LockedSource] {
        &self.sources
    }

    /// The hash of the files of recipes' folders alone, if there are any.
    #[must_use]
    pub fn own_digest(&self) -> Option<Sha256Hash> {
        let mut text = String::from("casemate-patches-v1\n");
        for (file, bytes) in self.patches.iter().chain(&self.own) {
            let _ = writeln!(text, "{} {}", Sha256Hash::of(bytes), file.path());
        }
        let none = self.patches.is_empty() && self.own.is_empty();
        (!none).then(|| Sha256Hash::of(text.as_bytes()))
    }

    /// The hash of all that decides the outputs: `tools` is that of the stage's packages,
    /// `release` that of the kernel, which only a stage that makes modules is told.
    #[must_use]
    pub fn key(&self, tools: &Sha256Hash, release: &str, before: &Before) -> Sha256Hash {
        let stage = self.stage;
        let mut text = format!("casemate-stage-v{LAYOUT}\n{tools}\nepoch {}\n", self.epoch);
        if stage.makes_modules() {
            let _ = writeln!(text, "kernel {release}");
        }
        for source in &self.sources {
            let _ = writeln!(text, "source {}", source.name);
            for file in &source.files {
                let _ = writeln!(text, "{} {}", file.sha256, file.path);
            }
        }
        for file in &stage.files {
            let _ = writeln!(text, "file {} {}", file.sha256, file.name);
        }
        for (kind, files) in [("patch", &self.patches), ("own", &self.own)] {
            for (file, bytes) in files {
                let _ = writeln!(text, "{kind} {} {}", Sha256Hash::of(bytes), file.name());
            }
        }
        for input in &stage.inputs {
            let key = before.get(&input.stage).map(|(key, _)| key.to_string());
            let _ = writeln!(text, "input {} {}", key.unwrap_or_default(), input.file);
        }
        for output in &stage.outputs {
            let _ = writeln!(text, "output {}", output.file);
        }
        let _ = writeln!(text, "command {}", Sha256Hash::of(stage.script().as_bytes()));
        Sha256Hash::of(text.as_bytes())
    }

    /// Where the outputs are, once they were made.
    #[must_use]
    pub fn place(cache: &Cache, key: &Sha256Hash) -> PathBuf {
        cache.root().join(KIND).join(key.to_string())
    }

    /// Runs the command with `jobs` processes, or finds what it made. Returns the directory of
    /// the outputs. `root` makes the stage's root, and is called only if it is needed.
    ///
    /// # Errors
    /// When an input is damaged, the command fails, or leaves out a declared output.
    pub fn run<E: From<StageError> + From<StepError>>(
        &self,
        key: &Sha256Hash,
        release: &str,
        cache: &Cache,
        jobs: usize,
        before: &Before,
        root: impl FnOnce() -> Result<PathBuf, E>,
    ) -> Result<PathBuf, E> {
        derived(cache, KIND, key, Durability::Synced, |out| {
            let root = root()?;
            self.execute(&root, release, cache, jobs, before, out).map_err(E::from)
        })
    }

    fn execute(
        &self,
        root: &Path,
        release: &str,
        cache: &Cache,
        jobs: usize,
        before: &Before,
        out: &Path,
    ) -> Result<(), StageError> {
        let stage = self.stage;
        let parent = cache.root().join("tmp");
        let place = tempfile::tempdir_in(&parent).map_err(self.wrap(&parent))?;
        let dir = |name: &str| -> Result<PathBuf, StageError> {
            let dir = place.path().join(name);
            std::fs::create_dir(&dir).map_err(self.wrap(&dir))?;
            Ok(dir)
        };
        let (src, files, patches) = (dir("src")?, dir("files")?, dir("patches")?);
        let (own, input) = (dir("own")?, dir("input")?);
        let (build, made) = (dir("build")?, dir("out")?);
        for source in &self.sources {
            source::unpack(&stage.name, source, cache, &src.join(source.name.as_str()))?;
        }
        for file in &stage.files {
            let bytes = source::verified(&stage.name, file.name.as_str(), file.sha256, cache)?;
            let path = files.join(file.name.as_str());
            std::fs::write(&path, bytes).map_err(self.wrap(&path))?;
        }
        for (to, named) in [(&patches, &self.patches), (&own, &self.own)] {
            for (file, bytes) in named {
                let path = to.join(file.name());
                std::fs::write(&path, bytes).map_err(self.wrap(&path))?;
            }
        }
        for StageInput { stage, file } in &self.stage.inputs {
            let Some((_, made)) = before.get(stage) else { continue };
            let from = made.join(file.as_str());
            std::fs::copy(&from, input.join(file.as_str())).map_err(self.wrap(&from))?;
        }
        let mut program = Program::new(root, "/usr/bin/sh")
            .args(["-eu", "-c", &stage.script()])
            .env("SOURCE_DATE_EPOCH", &self.epoch.to_string())
            .env("JOBS", &jobs.max(1).to_string())
            .input(&files, "files")
            .input(&patches, "patches")
            .input(&own, "own")
            .input(&input, "input")
            .output(&src, "src")
            .output(&build, "build")
            .output(&made, "out")
            .in_dir("/work/build");
        if stage.makes_modules() {
            program = program.env("KERNEL_RELEASE", release);
        }
        let failed = |source| StageError::Command { stage: stage.name.clone(), source };
        program.run().map_err(failed)?;
        self.collect(root, release, &made, out)
    }

    /// Takes over what was declared, and for modules what they are checked against.
    fn collect(
        &self,
        root: &Path,
        release: &str,
        made: &Path,
        out: &Path,
    ) -> Result<(), StageError> {
        let stage = self.stage;
        for output in &stage.outputs {
            let from = made.join(output.file.as_str());
            // A link could lead out of what the command may see.
            let file = std::fs::symlink_metadata(&from).is_ok_and(|meta| meta.is_file());
            if !file {
                let (stage, file) = (stage.name.clone(), output.file.to_string());
                return Err(StageError::NoOutput { stage, file });
            }
            let to = out.join(output.file.as_str());
            std::fs::copy(&from, &to).map_err(self.wrap(&to))?;
        }
        if stage.makes_modules() && !self.kernel_is_made {
            let table = root.join(format!("usr/src/linux-headers-{release}/{SYMVERS}"));
            let text = std::fs::read(&table).map_err(|_| StageError::NoHeaders {
                stage: stage.name.clone(),
                release: release.to_owned(),
            })?;
            let to = out.join(SYMVERS);
            std::fs::write(&to, text).map_err(self.wrap(&to))?;
        }
        Ok(())
    }

    /// What was made, by the names of the outputs.
    ///
    /// # Errors
    /// When a file in the cache cannot be read.
    pub fn outputs(&self, dir: &Path) -> Result<BTreeMap<String, Vec<u8>>, StageError> {
        let mut outputs = BTreeMap::new();
        for output in &self.stage.outputs {
            let path = dir.join(output.file.as_str());
            let bytes = std::fs::read(&path).map_err(self.wrap(&path))?;
            outputs.insert(output.file.to_string(), bytes);
        }
        Ok(outputs)
    }

    fn wrap(&self, path: &Path) -> impl FnOnce(io::Error) -> StageError + use<> {
        let (stage, path) = (self.stage.name.clone(), path.to_owned());
        move |source| StageError::File { stage, path, source }
    }
}

#[cfg(test)]
mod tests;

//! Compiles our programs for the guest, in the tool closure and nowhere else.
//!
//! Their bytes are measured, so they depend on the sources of the one package that is asked for
//! and what it needs from the workspace, on the locked crates of these, on the tool closure, and
//! on the flags below. The rest of the workspace could change without changing them.

mod workspace;

use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use crate::fetch::{Cache, LockedCrate};
use crate::merge::MergeError;
use crate::namespace::{NamespaceError, Program};
use crate::steps::{Durability, StepError, derived};

pub use workspace::Workspace;

/// Where the sources are seen while compiling, and so in no binary: it is mapped away.
const SOURCE: &str = "/work/src";
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// How the sources are compiled, whatever their own workspace says: small and closed.
const PROFILE: &str = "[profile.release]\nopt-level = \"s\"\nlto = \"fat\"\ncodegen-units = 1\n\
                       panic = \"abort\"\nstrip = \"symbols\"\n";
const FLAGS: [&str; 2] = ["-Clink-arg=-Wl,--build-id=none", "--remap-path-prefix=/work/src=/src"];

/// Whose C library the programs of a package use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// Their own, which is in them.
    Static,
    /// The guest's, so that they can load its libraries.
    Dynamic,
}

impl Linkage {
    fn flags(self) -> Vec<&'static str> {
        let own = matches!(self, Self::Static).then_some("-Ctarget-feature=+crt-static");
        own.into_iter().chain(FLAGS).collect()
    }
}

/// Why the programs could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// A file of the workspace cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A manifest or the lock makes no sense.
    #[error("{}: {what}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A crate's archive is not what its checksum promised.
    #[error("{name} in the cache has the checksum {found}, locked is {expected}")]
    Checksum {
        /// The crate.
        name: String,
        /// The locked checksum.
        expected: Sha256Hash,
        /// The one found.
        found: Sha256Hash,
    },
    /// The compiler failed.
    #[error(transparent)]
    Compile(#[from] NamespaceError),
    /// The cache could not be used.
    #[error(transparent)]
    Step(#[from] StepError),
}

impl From<MergeError> for ProgramError {
    fn from(error: MergeError) -> Self {
        Self::Step(error.into())
    }
}

/// The hash of all that decides the binaries.
#[must_use]
pub fn key(workspace: &Workspace, linkage: Linkage, tools: &Sha256Hash) -> Sha256Hash {
    let mut text = format!("casemate-programs-v1\n{tools}\n{}\n{PROFILE}", workspace.digest());
    for flag in linkage.flags() {
        text.push_str(flag);
        text.push('\n');
    }
    Sha256Hash::of(text.as_bytes())
}

/// Compiles all binaries of the workspace's package with `jobs` processes, or finds them
/// compiled. Returns the directory that holds them.
///
/// # Errors
/// When a crate is missing from the cache or damaged, or compiling fails.
pub fn compile(
    workspace: &Workspace,
    linkage: Linkage,
    tools: (&Path, &Sha256Hash),
    cache: &Cache,
    jobs: usize,
) -> Result<PathBuf, ProgramError> {
    derived(cache, "programs", &key(workspace, linkage, tools.1), Durability::Synced, |out| {
        let parent = cache.root().join("tmp");
        let wrap = |path: &Path| {
            let path = path.to_owned();
            move |source| ProgramError::File { path, source }
        };
        let place = tempfile::tempdir_in(&parent).map_err(wrap(&parent))?;
        let (source, target) = (place.path().join("src"), place.path().join("target"));
        std::fs::create_dir(&target).map_err(wrap(&target))?;
        workspace.write(&source, PROFILE)?;
        vendor(&source.join("vendor"), workspace.crates(), cache)?;
        configure(&source, linkage).map_err(wrap(&source))?;
        Program::new(tools.0, "/usr/bin/cargo")
            .args(["build", "--release", "--offline", "--bins", "--target", TARGET])
            .args(["--package", workspace.package(), "--target-dir", "/work/target"])
            .args(["--ignore-rust-version", "--jobs", &jobs.max(1).to_string()])
            .env("CARGO_HOME", "/tmp/cargo")
            // The name "cc" is made by maintainer scripts, which are not run.
            .env("CC", "gcc")
            .env("CARGO_TERM_COLOR", "never")
            .output(&source, "src")
            .output(&target, "target")
            .in_dir(SOURCE)
            .run()?;
        let built = target.join(TARGET).join("release");
        for binary in workspace.binaries() {
            let (from, to) = (built.join(binary), out.join(binary));
            std::fs::copy(&from, &to).map_err(wrap(&from))?;
        }
        Ok(())
    })
}

/// Tells cargo where the crates are and how to link.
fn configure(source: &Path, linkage: Linkage) -> io::Result<()> {
    let flags: Vec<String> = linkage.flags().iter().map(|flag| format!("{flag:?}")).collect();
    let text = format!(
        "[source.crates-io]\nreplace-with = \"vendored\"\n\
         [source.vendored]\ndirectory = \"vendor\"\n\
         [target.{TARGET}]\nlinker = \"gcc\"\nrustflags = [{}]\n",
        flags.join(", ")
    );
    std::fs::create_dir(source.join(".cargo"))?;
    std::fs::write(source.join(".cargo/config.toml"), text)
}

/// Unpacks the crates as cargo expects a directory of vendored ones.
fn vendor(dir: &Path, crates: &[LockedCrate], cache: &Cache) -> Result<(), ProgramError> {
    let wrap = |path: &Path| {
        let path = path.to_owned();
        move |source| ProgramError::File { path, source }
    };
    std::fs::create_dir(dir).map_err(wrap(dir))?;
    for entry in crates {
        let blob = cache.blob(entry.sha256);
        let bytes = std::fs::read(&blob).map_err(wrap(&blob))?;
        let found = Sha256Hash::of(&bytes);
        if found != entry.sha256 {
            let (name, expected) = (entry.to_string(), entry.sha256);
            return Err(ProgramError::Checksum { name, expected, found });
        }
        let place = dir.join(format!("{}-{}", entry.name, entry.version));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        archive.set_preserve_permissions(false);
        archive.unpack(dir).map_err(wrap(&place))?;
        let note = place.join(".cargo-checksum.json");
        let text = format!("{{\"files\":{{}},\"package\":\"{}\"}}", entry.sha256);
        std::fs::write(&note, text).map_err(wrap(&note))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

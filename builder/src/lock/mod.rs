//! The lock: exactly which packages an image is made of, each by hash, in `image.lock`.
//!
//! For the fetch and the build it is the only word on packages: a mirror can only serve what it
//! names. It holds no mirror's host. The file is sorted, one small table per package, so that a
//! change of one package is a change of a few lines.

mod apt;
mod base;
mod kept;
mod resolve;
mod summary;
mod write;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use crate::recipe::{
    self, Architecture, ArchiveName, Fingerprint, PackageName, Place, Recipe, StageName, Step,
    Suite, Version, WordError, word,
};

pub use apt::AptError;
pub use resolve::{LockOptions, ResolveError, lock};
pub use summary::LockSummary;

/// The schema this code reads and writes.
pub const SCHEMA: u32 = 1;

/// The file name of a lock, beside the recipe.
pub const FILE_NAME: &str = "image.lock";

/// Why a lock could not be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is no lock yet.
    #[error("there is no lock {}: make one with `casemate image lock {}`", path.display(), dir.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The recipe's folder.
        dir: PathBuf,
    },
    /// The file could not be read.
    #[error("cannot read the lock {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a lock.
    #[error("{}:{place}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, column and field.
        place: Place,
        /// What is wrong there.
        message: String,
    },
    /// The file could not be written.
    #[error("cannot write the lock {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The recipe's packages, archives or keys changed after the lock was made.
    #[error(
        "the lock in {} was made for other package requests (request {locked}, the recipe now has \
         {requested}): run `casemate image lock {}`",
        dir.display(), dir.display()
    )]
    Stale {
        /// The recipe's folder.
        dir: PathBuf,
        /// The request hash that the lock holds.
        locked: Sha256Hash,
        /// The request hash of the recipe.
        requested: Sha256Hash,
    },
}

/// What a package is locked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub enum Closure {
    /// The firmware is taken out of it.
    Firmware,
    /// It is unpacked into the root file system.
    Guest,
    /// The kernel and its modules are taken out of it.
    Kernel,
    /// A stage sees it as its root.
    Stage(StageName),
    /// Its programs run while building.
    Tools,
}

impl Closure {
    /// Those that every image has, in the order of a lock.
    pub const ALL: [Self; 4] = [Self::Firmware, Self::Guest, Self::Kernel, Self::Tools];

    /// Those of `recipe`.
    #[must_use]
    pub fn of(recipe: &Recipe) -> Vec<Self> {
        let own = recipe.stages.iter().map(|stage| Self::Stage(stage.name.clone()));
        let fixed = Self::ALL.into_iter().filter(|closure| match closure {
            Self::Firmware => recipe.firmware.package.is_some(),
            Self::Kernel => recipe.kernel.package.is_some(),
            _ => true,
        });
        let mut all: Vec<Self> = fixed.chain(own).collect();
        all.sort();
        all
    }

    /// Does it hold tools alone, which are not in the image?
    #[must_use]
    pub const fn is_tools(&self) -> bool {
        matches!(self, Self::Tools | Self::Stage(_))
    }

    /// The name, as in the lock.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Firmware => "firmware".to_owned(),
            Self::Guest => "guest".to_owned(),
            Self::Kernel => "kernel".to_owned(),
            Self::Stage(name) => format!("{STAGE}{name}"),
            Self::Tools => "tools".to_owned(),
        }
    }
}

/// What the name of a stage's closure begins with.
const STAGE: &str = "stage:";

impl From<Closure> for String {
    fn from(closure: Closure) -> Self {
        closure.name()
    }
}

impl FromStr for Closure {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "firmware" => Ok(Self::Firmware),
            "guest" => Ok(Self::Guest),
            "kernel" => Ok(Self::Kernel),
            "tools" => Ok(Self::Tools),
            _ => {
                let name = text.strip_prefix(STAGE).and_then(|name| name.parse().ok());
                let expected = "firmware, guest, kernel, tools or stage:NAME";
                name.map(Self::Stage).ok_or_else(|| WordError::new(text, "a closure", expected))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Closure {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        recipe::from_text(from)
    }
}

impl fmt::Display for Closure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

word!(
    /// A file's path in an archive, relative to its root: `pool/main/b/bash/bash_5.2_amd64.deb`.
    ArchivePath, "a path in an archive",
    "relative, of letters, digits, '/', and . + - ~ _ : %, without empty parts or '..'",
    |text| text.len() <= 1024
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/.+-~_:%".contains(c))
        && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
);

/// The Release file that a suite's packages were found through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedSuite {
    /// The archive.
    pub archive: ArchiveName,
    /// The suite.
    pub name: Suite,
    /// The Release file's own date, as it writes it.
    pub date: String,
    /// SHA-256 of the signed text of the Release file.
    pub release_sha256: Sha256Hash,
    /// The primary key whose signature was verified.
    pub signer: Fingerprint,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// The name.
    pub name: PackageName,
    /// The version.
    pub version: Version,
    /// The architecture.
    pub architecture: Architecture,
    /// The archive that has it.
    pub archive: ArchiveName,
    /// The suite it was found in.
    pub suite: Suite,
    /// The file's path below the archive's root.
    pub path: ArchivePath,
    /// The file's length in bytes.
    pub size: u64,
    /// The file's SHA-256.
    pub sha256: Sha256Hash,
    /// What it is for, sorted, at least one.
    pub closures: Vec<Closure>,
}

impl LockedPackage {
    /// What the lock is sorted by; no two packages share it.
    fn key(&self) -> (&PackageName, &Version, &Architecture) {
        (&self.name, &self.version, &self.architecture)
    }

    /// Is it part of `closure`?
    #[must_use]
    pub fn is_in(&self, closure: &Closure) -> bool {
        self.closures.contains(closure)
    }
}

impl fmt::Display for LockedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.name, self.version, self.architecture)
    }
}

/// A source package that a stage is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedSource {
    /// The stage.
    pub stage: StageName,
    /// The source package's name.
    pub name: PackageName,
    /// The version.
    pub version: Version,
    /// The archive that has it.
    pub archive: ArchiveName,
    /// The suite it was found in.
    pub suite: Suite,
    /// Its files, in the order of their paths, at least one.
    pub files: Vec<LockedFile>,
}

impl LockedSource {
    fn key(&self) -> (&StageName, &PackageName) {
        (&self.stage, &self.name)
    }
}

impl fmt::Display for LockedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{} (source)", self.name, self.version)
    }
}

/// One file of a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// Its path below the archive's root.
    pub path: ArchivePath,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
}

impl LockedFile {
    /// Its name, without its folder.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.as_str().rsplit('/').next().unwrap_or_default()
    }
}

/// A validated lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    request: Sha256Hash,
    suites: Vec<LockedSuite>,
    sources: Vec<LockedSource>,
    packages: Vec<LockedPackage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    schema: u32,
    request: Sha256Hash,
    #[serde(default, rename = "suite")]
    suites: Vec<LockedSuite>,
    #[serde(default, rename = "source")]
    sources: Vec<LockedSource>,
    #[serde(default, rename = "package")]
    packages: Vec<LockedPackage>,
}

impl Lock {
    /// Makes a lock of what was solved for the request `request`; sorts it and merges the
    /// closures of a package that is named more than once.
    #[must_use]
    pub fn new(
        request: Sha256Hash,
        mut suites: Vec<LockedSuite>,
        mut packages: Vec<LockedPackage>,
    ) -> Self {
        suites.sort_by(|a, b| (&a.archive, &a.name).cmp(&(&b.archive, &b.name)));
        packages.sort_by(|a, b| a.key().cmp(&b.key()));
        packages.dedup_by(|next, first| {
            let same = next.key() == first.key() && next.sha256 == first.sha256;
            if same {
                first.closures.append(&mut next.closures);
            }
            same
        });
        for package in &mut packages {
            package.closures.sort_unstable();
            package.closures.dedup();
        }
        Self { request, suites, sources: Vec::new(), packages }
    }

    /// The same lock with source packages, sorted.
    #[must_use]
    pub fn with_sources(mut self, mut sources: Vec<LockedSource>) -> Self {
        sources.sort_by(|a, b| a.key().cmp(&b.key()));
        self.sources = sources;
        self
    }

    /// Reads and checks `dir/image.lock`.
    ///
    /// # Errors
    ///
    /// If it is missing, cannot be read, or is no lock; with line and field.
    pub fn load(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                Err(LockError::Missing { path, dir: dir.to_owned() })
            }
            Err(source) => Err(LockError::Read { path, source }),
        }
    }

    /// Checks `text` as the lock file `path`, which is not read.
    ///
    /// # Errors
    ///
    /// If it is no lock; with line and field.
    pub fn parse(path: &Path, text: &str) -> Result<Self, LockError> {
        let invalid = |place, message| LockError::Invalid { path: path.to_owned(), place, message };
        let raw: RawLock = toml::from_str(text)
            .map_err(|e| invalid(recipe::of_error(text, &e), e.message().to_owned()))?;
        let fault =
            |steps: &[Step], message: String| Err(invalid(recipe::of_steps(text, steps), message));
        if raw.schema != SCHEMA {
            let message = format!("schema {} is unknown: this casemate reads {SCHEMA}", raw.schema);
            return fault(&["schema".into()], message);
        }
        let mut hashes = BTreeSet::new();
        for (index, package) in raw.packages.iter().enumerate() {
            let at = |field: &str| [Step::from("package"), index.into(), field.into()];
            if index > 0 && raw.packages[index - 1].key() >= package.key() {
                let message = format!("{package} is out of order or stands here twice");
                return fault(&at("name"), message);
            }
            if !hashes.insert(package.sha256) {
                return fault(&at("sha256"), "two packages with one hash".to_owned());
            }
            if package.closures.is_empty()
                || package.closures.windows(2).any(|pair| pair[0] >= pair[1])
            {
                let message = "expected one or more closures, sorted, each once".to_owned();
                return fault(&at("closures"), message);
            }
        }
        for (index, source) in raw.sources.iter().enumerate() {
            let at = |field: &str| [Step::from("source"), index.into(), field.into()];
            if index > 0 && raw.sources[index - 1].key() >= source.key() {
                let message = format!("{source} is out of order or stands here twice");
                return fault(&at("name"), message);
            }
            let sorted = source.files.windows(2).all(|pair| pair[0].path < pair[1].path);
            if source.files.is_empty() || !sorted {
                return fault(&at("files"), "expected one or more files, sorted".to_owned());
            }
        }
        let RawLock { request, suites, sources, packages, .. } = raw;
        Ok(Self { request, suites, sources, packages })
    }

    /// Writes `dir/image.lock`, whole or not at all.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), LockError> {
        let path = dir.join(FILE_NAME);
        write::replace(dir, &path, self.to_text().as_bytes())
            .map_err(|source| LockError::Write { path, source })
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        write::text(self)
    }

    /// SHA-256 of [`Lock::to_text`]: one of the build's inputs.
    #[must_use]
    pub fn sha256(&self) -> Sha256Hash {
        Sha256Hash::of(self.to_text().as_bytes())
    }

    /// Refuses a lock that was made for other requests than `recipe` has.
    ///
    /// # Errors
    ///
    /// [`LockError::Stale`].
    pub fn check_made_for(&self, recipe: &Recipe) -> Result<(), LockError> {
        let requested = recipe.request_hash();
        if self.request == requested {
            return Ok(());
        }
        Err(LockError::Stale { dir: recipe.dir().to_owned(), locked: self.request, requested })
    }

    /// [`Recipe::request_hash`] of the recipe that the lock was made for.
    #[must_use]
    pub const fn request(&self) -> Sha256Hash {
        self.request
    }

    /// The Release files that were verified.
    #[must_use]
    pub fn suites(&self) -> &[LockedSuite] {
        &self.suites
    }

    /// The source packages, sorted by stage and name.
    #[must_use]
    pub fn sources(&self) -> &[LockedSource] {
        &self.sources
    }

    /// All packages, sorted by name, version and architecture.
    #[must_use]
    pub fn packages(&self) -> &[LockedPackage] {
        &self.packages
    }

    /// The packages of `closure`, sorted.
    pub fn closure<'a>(
        &'a self,
        closure: &'a Closure,
    ) -> impl Iterator<Item = &'a LockedPackage> + 'a {
        self.packages.iter().filter(move |package| package.is_in(closure))
    }
}

#[cfg(test)]
mod fake_archive;
#[cfg(test)]
mod resolve_tests;
#[cfg(test)]
mod tests;

//! Who is watched: a TOML file that names targets, and the releases and policies that it points
//! to.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_measurements::appraisal::{KnownRelease, Policy};
use casemate_measurements::roots::Roots;
use serde::Deserialize;

use super::pace::Pace;
use crate::fetch::Limits;
use crate::policy::{self, PolicyError};
use crate::release::{self, ReleaseError};
use crate::target::{Target, TargetError};
use crate::trust;

/// Most targets of one file.
pub const MAX_TARGETS: usize = 10_000;

/// A VM to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What it is called.
    pub name: String,
    /// Where it serves evidence.
    pub target: Target,
    /// The releases that it may run.
    pub releases: Arc<[KnownRelease]>,
    /// What is accepted.
    pub policy: Arc<Policy>,
    /// How often it is asked.
    pub pace: Pace,
    /// What asking may cost.
    pub limits: Limits,
}

/// Why a list of targets is refused.
#[derive(Debug, thiserror::Error)]
pub enum TargetsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The list is not TOML of the expected shape.
    #[error("{} is no list of targets", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// The list says something that cannot be.
    #[error("{}: {problem}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A target's address is none.
    #[error("{}: target {name:?}", path.display())]
    Address {
        /// The file.
        path: PathBuf,
        /// The target.
        name: String,
        /// What is wrong with the address.
        source: TargetError,
    },
    /// A release cannot be used.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A release is not to be used.
    #[error("the release {} is not accepted", path.display())]
    Refused {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Says why a release, which was read from a directory, is not to be used, if it is not.
pub type Accept<'a> = &'a dyn Fn(&Path, &KnownRelease) -> Result<(), Box<dyn Error + Send + Sync>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: u32,
    interval_seconds: Option<u32>,
    longest_seconds: Option<u32>,
    timeout_seconds: Option<u32>,
    #[serde(default)]
    releases: Vec<PathBuf>,
    policy: Option<PathBuf>,
    #[serde(default)]
    target: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    address: String,
    interval_seconds: Option<u32>,
    releases: Option<Vec<PathBuf>>,
    policy: Option<PathBuf>,
}

/// Reads a list of targets and everything that it points to. Paths are relative to the list.
/// Without a policy a target is judged by the strict one. Every release must be one that `accept`
/// accepts.
///
/// # Errors
/// When a file cannot be read, or the list, a release or a policy is refused.
pub fn read(path: &Path, roots: &Roots, accept: Accept<'_>) -> Result<Vec<Watched>, TargetsError> {
    let text = fs::read_to_string(path)
        .map_err(|source| TargetsError::Read { path: path.into(), source })?;
    let file: File = toml::from_str(&text)
        .map_err(|source| TargetsError::Toml { path: path.into(), source: source.into() })?;
    let problem = |problem: String| TargetsError::List { path: path.into(), problem };
    if file.schema != 1 {
        return Err(problem(format!("schema {}, expected 1", file.schema)));
    }
    if file.target.is_empty() || file.target.len() > MAX_TARGETS {
        let found = file.target.len();
        return Err(problem(format!("{found} targets, expected 1 to {MAX_TARGETS}")));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let (releases, policies) = (BTreeMap::new(), BTreeMap::new());
    let mut reader = Reader { folder, roots, accept, releases, policies };
    let (mut watched, mut names) = (Vec::new(), BTreeSet::new());
    for entry in &file.target {
        let name = &entry.name;
        let word = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !(1..=64).contains(&name.len()) || !name.bytes().all(word) {
            let expected = "expected 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'";
            return Err(problem(format!("target name {name:?}: {expected}")));
        }
        if !names.insert(name) {
            return Err(problem(format!("target {name:?} stands there twice")));
        }
        let releases = entry.releases.as_ref().unwrap_or(&file.releases);
        if releases.is_empty() {
            return Err(problem(format!("target {name:?} has no release: state `releases`")));
        }
        let target = entry.address.parse().map_err(|source| TargetsError::Address {
            path: path.into(),
            name: name.clone(),
            source,
        })?;
        let seconds = |value: Option<u32>, default: Duration| {
            value.map_or(default, |seconds| Duration::from_secs(seconds.max(1).into()))
        };
        let pace = Pace::default();
        let interval = entry.interval_seconds.or(file.interval_seconds);
        watched.push(Watched {
            name: name.clone(),
            target,
            releases: reader.releases(releases)?,
            policy: reader.policy(entry.policy.as_ref().or(file.policy.as_ref()))?,
            pace: Pace {
                interval: seconds(interval, pace.interval),
                longest: seconds(file.longest_seconds, pace.longest),
            },
            limits: Limits {
                total: seconds(file.timeout_seconds, Duration::from_secs(20)),
                ..Limits::default()
            },
        });
    }
    Ok(watched)
}

/// Reads each release and each policy once.
struct Reader<'a> {
    folder: &'a Path,
    roots: &'a Roots,
    accept: Accept<'a>,
    releases: BTreeMap<Vec<PathBuf>, Arc<[KnownRelease]>>,
    policies: BTreeMap<Option<PathBuf>, Arc<Policy>>,
}

impl Reader<'_> {
    fn releases(&mut self, paths: &[PathBuf]) -> Result<Arc<[KnownRelease]>, TargetsError> {
        if let Some(known) = self.releases.get(paths) {
            return Ok(Arc::clone(known));
        }
        let read = |path: &PathBuf| -> Result<KnownRelease, TargetsError> {
            let path = self.folder.join(path);
            let release = release::read(&path)?;
            (self.accept)(&path, &release)
                .map_err(|source| TargetsError::Refused { path, source })?;
            Ok(release)
        };
        let known: Arc<[KnownRelease]> =
            paths.iter().map(read).collect::<Result<Vec<_>, _>>()?.into();
        self.releases.insert(paths.to_vec(), Arc::clone(&known));
        Ok(known)
    }

    fn policy(&mut self, path: Option<&PathBuf>) -> Result<Arc<Policy>, TargetsError> {
        if let Some(policy) = self.policies.get(&path.cloned()) {
            return Ok(Arc::clone(policy));
        }
        let policy = Arc::new(match path {
            Some(path) => policy::read(&self.folder.join(path), self.roots)?,
            None => trust::policy(self.roots),
        });
        self.policies.insert(path.cloned(), Arc::clone(&policy));
        Ok(policy)
    }
}

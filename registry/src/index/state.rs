//! What a reader remembers of an index, so that nobody can hand him an older or another one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use casemate_measurements::appraisal::MinimumVersion;
use casemate_measurements::hash::Sha256Hash;

use super::file::MAX_INDEX_LEN;
use super::format::{Index, Time};
use crate::signatures;

/// How far a reader's clock may be behind, in seconds.
const TOLERANCE: u64 = 300;

/// What time it is for the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock(pub Time);

/// Why an index that enough signed is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is another index.
    #[error("this is the index {found:?}, expected {expected:?}")]
    Name {
        /// Its name.
        found: String,
        /// The name that was seen before.
        expected: String,
    },
    /// It is older.
    #[error(
        "index {name:?} has version {found}, issued {issued}, but version {seen} was seen before: \
         somebody hands out an old one"
    )]
    Rollback {
        /// The index.
        name: String,
        /// Its version.
        found: u64,
        /// When that was issued.
        issued: Time,
        /// The version seen before.
        seen: u64,
    },
    /// It is another one under the same version.
    #[error(
        "index {name:?} version {version} has SHA-256 {found}, but was seen with {seen}: two \
         indexes are signed under one version"
    )]
    Fork {
        /// The index.
        name: String,
        /// Its version.
        version: u64,
        /// Its hash.
        found: Sha256Hash,
        /// The hash seen before.
        seen: Sha256Hash,
    },
    /// It is out of date.
    #[error(
        "index {name:?} version {version} expired {expires} and it is {now}: somebody keeps newer \
         ones back, or nobody signed one"
    )]
    Frozen {
        /// The index.
        name: String,
        /// Its version.
        version: u64,
        /// Until when it held.
        expires: Time,
        /// What time it is.
        now: Time,
    },
    /// The clock is wrong.
    #[error(
        "index {name:?} version {version} was issued {issued}, but it is {now} here: set this \
         machine's clock, or nothing is known of what is out of date"
    )]
    Clock {
        /// The index.
        name: String,
        /// Its version.
        version: u64,
        /// When it was issued.
        issued: Time,
        /// What time it is.
        now: Time,
    },
    /// A release has other bytes than before.
    #[error(
        "{release} has manifest {found} in version {now} of the index, but had {seen} in \
         version {before}: a release never changes"
    )]
    Changed {
        /// Its name and version.
        release: String,
        /// The manifest now.
        found: Sha256Hash,
        /// The manifest before.
        seen: Sha256Hash,
        /// The index's version now.
        now: u64,
        /// The index's version before.
        before: u64,
    },
    /// A revocation is gone.
    #[error(
        "{manifest} was revoked in version {before} of the index ({reason}), and is not in version \
         {now}: a revocation is for good"
    )]
    Unrevoked {
        /// The manifest.
        manifest: Sha256Hash,
        /// Why it was revoked.
        reason: String,
        /// The index's version now.
        now: u64,
        /// The index's version before.
        before: u64,
    },
    /// A minimum version is lower than before.
    #[error(
        "the minimum version of {name} is {found} in version {now} of the index, but was {seen} in \
         version {before}: it never goes down"
    )]
    Lowered {
        /// Name of the image.
        name: String,
        /// The minimum now.
        found: String,
        /// The minimum before.
        seen: String,
        /// The index's version now.
        now: u64,
        /// The index's version before.
        before: u64,
    },
}

/// Whether a reader who last saw `seen` takes `found`, which enough signed.
///
/// # Errors
/// When it is older, another one, out of date, or takes back what was said before.
pub fn advance(seen: Option<&Index>, found: &Index, clock: Clock) -> Result<(), StateError> {
    let Clock(now) = clock;
    let Index { version, issued, expires, .. } = *found;
    let name = || found.name.clone();
    if let Some(seen) = seen {
        if seen.name != found.name {
            return Err(StateError::Name { found: name(), expected: seen.name.clone() });
        }
        if version < seen.version {
            let (found, seen) = (version, seen.version);
            return Err(StateError::Rollback { name: name(), found, issued, seen });
        }
        if version == seen.version && found != seen {
            let hash = |index: &Index| Sha256Hash::of(&index.to_bytes().unwrap_or_default());
            let (found, seen) = (hash(found), hash(seen));
            return Err(StateError::Fork { name: name(), version, found, seen });
        }
    }
    if now.0.saturating_add(TOLERANCE) < issued.0 {
        return Err(StateError::Clock { name: name(), version, issued, now });
    }
    if expires <= now {
        return Err(StateError::Frozen { name: name(), version, expires, now });
    }
    seen.map_or(Ok(()), |seen| keeps(seen, found))
}

/// Whether `found` says what `seen` said and does not take it back.
fn keeps(seen: &Index, found: &Index) -> Result<(), StateError> {
    let (now, before) = (found.version, seen.version);
    for old in &seen.revoked {
        if !found.revoked.iter().any(|new| new.manifest_sha256 == old.manifest_sha256) {
            let (manifest, reason) = (old.manifest_sha256, old.reason.clone());
            return Err(StateError::Unrevoked { manifest, reason, now, before });
        }
    }
    for (name, old) in &seen.minimum {
        let new = found.minimum.get(name);
        let kept =
            new.is_some_and(|new| old.parse::<MinimumVersion>().is_ok_and(|old| old.accepts(new)));
        if !kept {
            return Err(StateError::Lowered {
                name: name.clone(),
                found: new.cloned().unwrap_or_else(|| "none".to_owned()),
                seen: old.clone(),
                now,
                before,
            });
        }
    }
    let key = |name: &str, version: &str, platform| {
        found.releases.iter().find(move |entry| {
            (entry.name.as_str(), entry.version.as_str(), entry.platform)
                == (name, version, platform)
        })
    };
    for old in &seen.releases {
        if let Some(new) = key(&old.name, &old.version, old.platform)
            && new.manifest_sha256 != old.manifest_sha256
        {
            return Err(StateError::Changed {
                release: format!("{} {}", old.name, old.version),
                found: new.manifest_sha256,
                seen: old.manifest_sha256,
                now,
                before,
            });
        }
    }
    Ok(())
}

/// Why what was seen cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file cannot be read.
    #[error("cannot read {}, which says what was seen before", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged.
    #[error(
        "{} says what index was seen before, and is damaged: remove it only if you know from \
         elsewhere which version is current",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {}; what was there is unchanged", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The index is not taken.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A folder with the last index seen, a file for each name.
#[derive(Debug, Clone)]
pub struct Memory {
    dir: PathBuf,
}

impl Memory {
    /// Remembers in `dir`, which is made when it is missing.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The last index of this name.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged: nothing may be taken then.
    pub fn seen(&self, name: &str) -> Result<Option<Index>, MemoryError> {
        let path = self.path(name);
        let mut bytes = Vec::new();
        let most = MAX_INDEX_LEN as u64;
        match File::open(&path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(MemoryError::Read { path, source }),
        }
        match serde_json::from_slice::<Index>(&bytes) {
            Ok(index) if index.check().is_ok() && index.name == name => Ok(Some(index)),
            _ => Err(MemoryError::Damaged { path }),
        }
    }

    /// Takes an index that enough signed, and remembers it. Two readers at once do so one after
    /// the other.
    ///
    /// # Errors
    /// When it is not to be taken, or cannot be remembered: it is not taken then either.
    pub fn take(&self, found: &Index, clock: Clock) -> Result<(), MemoryError> {
        let path = self.path(&found.name);
        let fail = |source| MemoryError::Write { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fail)?;
        let lock = self.dir.join(format!(".{}.lock", found.name));
        let lock = OpenOptions::new().create(true).append(true).open(&lock).map_err(fail)?;
        lock.lock().map_err(fail)?;
        let seen = self.seen(&found.name)?;
        advance(seen.as_ref(), found, clock)?;
        if seen.as_ref() == Some(found) {
            return Ok(());
        }
        let bytes = found.to_bytes().map_err(|error| fail(io::Error::other(error)))?;
        signatures::replace(&path, &bytes).map_err(fail)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }
}

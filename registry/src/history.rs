//! What tags pointed to when they were last followed, so that a store that offers an older release
//! than it did before is noticed.
//!
//! Remembered are name and version of a release as its descriptor has them, which whoever asks has
//! held to the manifest before ([`crate::artifact::described::hold`]): signers sign the manifest,
//! and the descriptor is the store's. This remembers on one machine alone. A signed index tells
//! everybody.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use semver::Prerelease;
use serde::{Deserialize, Serialize};

use crate::artifact::pull::Resolved;
use crate::reference::{Place, Tag};

/// How many releases are remembered for a tag.
const MOST: usize = 256;
/// Most bytes of what is remembered for a tag.
const MAX_LEN: u64 = 1024 * 1024;

/// Why a release is refused, or nothing could be remembered.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The tag was turned back.
    #[error(
        "{place}: the tag {tag} pointed to {newer} before and now points to {older}: the store was \
         turned back to an earlier release, or its publisher withdrew the later one. Ask him; to \
         take it say --allow-rollback"
    )]
    RolledBack {
        /// The store.
        place: String,
        /// The tag.
        tag: Tag,
        /// Name, version and digest of the release that it pointed to.
        newer: String,
        /// The same of the release that it points to.
        older: String,
    },
    /// What was remembered cannot be read.
    #[error(
        "cannot read {} as what a tag pointed to before; remove it if you do not need to know",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A release that a tag pointed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    manifest: Sha256Hash,
    name: String,
    version: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (sha256:{})", self.name, self.version, self.manifest)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    schema: u32,
    /// For people: the hash that the file is named by says the same.
    tag: String,
    /// The last is the latest.
    seen: Vec<Seen>,
}

/// What tags pointed to, below one folder.
#[derive(Debug, Clone)]
pub struct History {
    root: PathBuf,
}

impl History {
    /// Remembers below `root`, which is made when it is needed.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn file(&self, place: &Place, tag: &Tag) -> PathBuf {
        let name = Sha256Hash::of(format!("{place}#{tag}").as_bytes());
        self.root.join(format!("{name}.json"))
    }

    fn load(&self, place: &Place, tag: &Tag) -> Result<Memory, HistoryError> {
        let path = self.file(place, tag);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes));
        match read {
            Ok(_) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Memory::default()),
            Err(error) => Err(error),
        }
        .map_err(|source| HistoryError::Read { path, source })
    }

    /// Holds what `tag` points to now against what it pointed to before.
    ///
    /// # Errors
    /// When it points to a release that it pointed to before the latest one, or to one of the same
    /// name and a lower version.
    pub fn check(&self, place: &Place, tag: &Tag, now: &Resolved) -> Result<(), HistoryError> {
        let memory = self.load(place, tag)?;
        let Some(latest) = memory.seen.last() else { return Ok(()) };
        let found = seen(now);
        if latest.manifest == found.manifest {
            return Ok(());
        }
        let was_there = memory.seen.iter().any(|old| old.manifest == found.manifest);
        let lower = latest.name == found.name && is_lower(&found.version, &latest.version);
        if !was_there && !lower {
            return Ok(());
        }
        Err(HistoryError::RolledBack {
            place: place.to_string(),
            tag: tag.clone(),
            newer: latest.to_string(),
            older: found.to_string(),
        })
    }

    /// Remembers what `tag` points to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn record(&self, place: &Place, tag: &Tag, now: &Resolved) -> Result<(), HistoryError> {
        let path = self.file(place, tag);
        let mut memory = self.load(place, tag)?;
        let found = seen(now);
        if memory.seen.last() == Some(&found) {
            return Ok(());
        }
        memory.seen.retain(|old| old.manifest != found.manifest);
        memory.seen.push(found);
        let over = memory.seen.len().saturating_sub(MOST);
        memory.seen.drain(..over);
        (memory.schema, memory.tag) = (1, format!("{place}#{tag}"));
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&self.root)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.root)?;
            file.write_all(&serde_json::to_vec(&memory)?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| HistoryError::Write { path: path.clone(), source })
    }
}

fn seen(now: &Resolved) -> Seen {
    let (name, version) = (now.descriptor.name(), now.descriptor.version());
    let (name, version) = (name.to_owned(), version.to_owned());
    Seen { manifest: *now.manifest.sha256(), name, version }
}

/// Whether `a` is a lower version than `b`, by the precedence of `SemVer` 2.0.0, section 11. Two
/// things are taken besides: a leading `v`, which says nothing, and any number of numbers, where
/// those that lack are 0. What is no version even so has no order.
fn is_lower(a: &str, b: &str) -> bool {
    matches!((Precedence::of(a), Precedence::of(b)), (Some(a), Some(b)) if a < b)
}

/// What orders versions: the numbers without zeros at the end, then whether and which pre-release.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Precedence(Vec<u64>, Prerelease);

impl Precedence {
    fn of(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', 'V']).unwrap_or(text);
        // What was built how has no precedence.
        let text = text.split('+').next().unwrap_or(text);
        let (numbers, prerelease) = match text.split_once('-') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (text, ""),
        };
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse().ok() } else { None }
        };
        let mut numbers: Vec<u64> = numbers.split('.').map(number).collect::<Option<_>>()?;
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some(Self(numbers, Prerelease::new(prerelease).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::artifact::blob::Blob;
    use crate::artifact::descriptor::{Descriptor, Kind};
    use crate::artifact::manifest::Manifest;

    fn release(version: &str) -> Resolved {
        let descriptor =
            Descriptor::new(Kind::Release, ("a", version), None, BTreeMap::new()).unwrap();
        let blob = Blob::of(&descriptor.to_bytes().unwrap());
        let manifest = Manifest::of_artifact(&descriptor, blob).unwrap();
        Resolved { manifest, descriptor }
    }

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let ascending = [
            "0.9",
            "1.0.0-alpha",
            "v1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc1",
            "1.0.0",
            "1.0.1",
            "v1.9",
            "1.10",
            "V2",
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(is_lower(a, b), at < other, "{a} {b}");
            }
        }
        for (a, b) in [("1", "1.0.0"), ("1.0.0+a", "1.0.0+b"), ("v1.0", "1.0")] {
            assert!(!is_lower(a, b) && !is_lower(b, a), "{a} {b}");
        }
        for none in ["", "v", "beta", "1..0", "1.0-", "1.x", "+1.0", "1.0-01", "1.0-a_b"] {
            assert!(!is_lower(none, "1.0") && !is_lower("1.0", none), "{none}");
        }
    }

    #[test]
    fn a_tag_that_is_turned_back_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(&dir.path().join("seen"));
        let place = Place::Directory { path: "/srv".into() };
        let tag: Tag = "latest".parse().unwrap();
        let [beta, one, two] = ["beta", "1", "2"].map(release);
        for next in [&beta, &two] {
            history.check(&place, &tag, next).unwrap();
            history.record(&place, &tag, next).unwrap();
        }
        history.check(&place, &tag, &two).unwrap();
        for older in [&beta, &one] {
            let error = history.check(&place, &tag, older).unwrap_err().to_string();
            assert!(error.contains("turned back") && error.contains("a 2"), "{error}");
        }
        history.check(&place, &"other".parse().unwrap(), &one).unwrap();
        // Whoever takes it knows it from then on.
        history.record(&place, &tag, &one).unwrap();
        history.check(&place, &tag, &one).unwrap();
        std::fs::write(history.file(&place, &tag), "{").unwrap();
        assert!(matches!(history.check(&place, &tag, &two), Err(HistoryError::Read { .. })));
    }
}

//! What was got once: in memory, and in a directory where one is named. Nothing in it is
//! believed for being there; whoever takes something out judges it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use casemate_measurements::bounded::Bounded;

/// Most things kept in memory: of each chip one certificate of about 1.5 KiB.
const MAX_IN_MEMORY: usize = 4096;
/// Most files of a directory; the oldest go first.
const MAX_FILES: usize = 16 * 1024;

/// Why a directory is no cache.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can be neither made nor read.
    #[error("cannot use {} as a cache of certificates", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Others may write to it, and so give an old revocation list for the newest.
    #[error(
        "{} is no cache of certificates: others may write to it (mode {mode:o}); expected a \
         directory that only its owner writes to, as `chmod go-w` makes it",
        path.display()
    )]
    Shared {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Something that was kept, and since when.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) bytes: Vec<u8>,
    since: SystemTime,
}

impl Kept {
    /// How long it was kept. What is from the future, by a clock that was wrong, is old.
    pub(crate) fn age(&self) -> Duration {
        SystemTime::now().duration_since(self.since).unwrap_or(Duration::MAX)
    }
}

#[derive(Debug)]
pub(crate) struct Store {
    memory: Mutex<Bounded<String, Kept>>,
    dir: Option<PathBuf>,
    max_files: usize,
}

impl Store {
    /// Keeps in memory, and in `dir` where one is named; it is made when missing.
    pub(crate) fn open(dir: Option<PathBuf>) -> Result<Self, StoreError> {
        if let Some(path) = &dir {
            let open = |source| StoreError::Open { path: path.clone(), source };
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(open)?;
            let mode = fs::metadata(path).map_err(open)?.mode() & 0o7777;
            if mode & 0o022 != 0 {
                return Err(StoreError::Shared { path: path.clone(), mode });
            }
        }
        let memory = Mutex::new(Bounded::new(MAX_IN_MEMORY));
        Ok(Self { memory, dir, max_files: MAX_FILES })
    }

    /// What was kept under `name`, unless it is longer than `most`.
    pub(crate) fn get(&self, name: &str, most: usize) -> Option<Kept> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = memory.get(&name.to_owned()) {
            return Some(kept);
        }
        let kept = read(&self.dir.as_ref()?.join(name), most)?;
        memory.insert(name.to_owned(), kept.clone());
        Some(kept)
    }

    /// Forgets what was kept under `name`: it is not fit.
    pub(crate) fn forget(&self, name: &str) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.remove(&name.to_owned());
        if let Some(dir) = &self.dir {
            // What cannot be removed is judged again next time.
            let _ = fs::remove_file(dir.join(name));
        }
    }

    /// Keeps `bytes`. A directory that cannot be written to costs a request another time.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let kept = Kept { bytes: bytes.to_vec(), since: SystemTime::now() };
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(name.to_owned(), kept);
        drop(memory);
        if let Some(dir) = &self.dir {
            let _ = make_room(dir, self.max_files).and_then(|()| write(dir, name, bytes));
        }
    }
}

fn read(path: &Path, most: usize) -> Option<Kept> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
    let since = metadata.modified().ok()?;
    (bytes.len() <= most).then_some(Kept { bytes, since })
}

/// Writes a file that is there whole or not at all.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(dir.join(name)).map_err(|error| error.error)?;
    Ok(())
}

/// Removes the oldest files until there is room for one more.
fn make_room(dir: &Path, max_files: usize) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        files.push((entry.metadata()?.modified()?, entry.path()));
    }
    files.sort();
    let surplus = (files.len() + 1).saturating_sub(max_files);
    files.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_kept_outlives_the_process_and_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        Store::open(Some(path.clone())).unwrap().put("name", b"bytes");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("name"))), (0o700, 0o600));
        let store = Store::open(Some(path.clone())).unwrap();
        assert_eq!(store.get("name", 5).unwrap().bytes, b"bytes");
        assert!(store.get("name", 5).unwrap().age() < Duration::from_mins(1));
        store.forget("name");
        assert!(store.get("name", 5).is_none() && fs::read_dir(&path).unwrap().next().is_none());
        assert!(Store::open(None).unwrap().get("name", 5).is_none());
    }

    #[test]
    fn what_is_too_long_or_no_file_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let store = Store::open(Some(path.clone())).unwrap();
        fs::write(path.join("long"), [0; 6]).unwrap();
        fs::create_dir(path.join("dir")).unwrap();
        assert!(store.get("long", 5).is_none());
        assert!(store.get("dir", 5).is_none());
        assert!(store.get("none", 5).is_none());
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o777, 0o1777, 0o720, 0o702] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            let refused = Store::open(Some(dir.path().into())).unwrap_err();
            assert!(refused.to_string().contains("chmod go-w"), "{refused}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Store::open(Some(file.path().into())).unwrap_err();
        assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
    }

    #[test]
    fn a_directory_does_not_grow_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let store = Store { max_files: 3, ..Store::open(Some(path.clone())).unwrap() };
        for name in ["a", "b", "c", "d", "e"] {
            store.put(name, b"x");
            assert!(path.join(name).is_file());
        }
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
    }
}

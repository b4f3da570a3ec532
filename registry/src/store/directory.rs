//! A directory of this machine as a store.
//!
//! Files get their names once their bytes are on the disk. `index.json` is changed under a lock
//! that ends with its holder.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::StoreError;
use super::layout::{Files, Loaded};
use crate::reference::Place;

/// What unfinished files are called.
const PREFIX: &str = ".casemate-";
/// Who changes the index holds this.
const LOCK: &str = ".casemate.lock";
/// An unfinished file as old as this belongs to nobody any more.
const FORGOTTEN: Duration = Duration::from_hours(24);

/// A directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Opens a file for reading, if it is there.
    fn open(&self, path: &str) -> Result<Option<File>, StoreError> {
        let path = self.root.join(path);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::File { path, what: "read it", source }),
        }
    }

    /// Writes a file whole or not at all.
    fn write(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.root.join(path);
        let folder = path.parent().unwrap_or(&self.root);
        let write = || -> io::Result<()> {
            make_folder(folder)?;
            let mut file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
            file.write_all(bytes)?;
            file.as_file().set_permissions(Permissions::from_mode(0o644))?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| StoreError::File { path: path.clone(), what: "write it", source })
    }

    fn lock(&self) -> Result<Flock<File>, StoreError> {
        let path = self.root.join(LOCK);
        let lock = || -> io::Result<Flock<File>> {
            make_folder(&self.root)?;
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
        };
        lock().map_err(|source| StoreError::File { path: path.clone(), what: "lock it", source })
    }

    /// Removes what publishers left that were killed long ago.
    fn sweep(&self) {
        for folder in [self.root.join("blobs/sha256"), self.root.clone()] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
                let changed = entry.metadata().and_then(|meta| meta.modified()).ok();
                let age = changed.and_then(|at| SystemTime::now().duration_since(at).ok());
                if ours && age.is_some_and(|age| age > FORGOTTEN) {
                    // Somebody else may remove it at the same time.
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
}

impl Files for Directory {
    fn name(&self) -> String {
        Place::Directory { path: self.root.clone() }.to_string()
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let path = self.root.join(path);
        match std::fs::metadata(&path) {
            Ok(meta) => Ok(meta.is_file().then_some(meta.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::File { path, what: "read it", source }),
        }
    }

    fn read(
        &self,
        path: &str,
        from: u64,
        _rest: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let Some(mut file) = self.open(path)? else { return Ok(None) };
        match file.seek(SeekFrom::Start(from)) {
            Ok(_) => Ok(Some(Box::new(file))),
            Err(source) => {
                Err(StoreError::File { path: self.root.join(path), what: "read it", source })
            }
        }
    }

    fn create(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if self.size(path)? == Some(bytes.len() as u64) {
            return Ok(());
        }
        self.write(path, bytes)
    }

    fn load(&self, path: &str, most: usize) -> Result<Option<Loaded>, StoreError> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(most as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|source| StoreError::File {
            path: self.root.join(path),
            what: "read it",
            source,
        })?;
        if bytes.len() > most {
            let (store, what) = (self.name(), path.to_owned());
            return Err(StoreError::TooLong { store, what, most: most as u64 });
        }
        Ok(Some(Loaded { bytes, version: None }))
    }

    fn swap(&self, path: &str, bytes: &[u8], was: Option<&Loaded>) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        let most = was.map_or(0, |was| was.bytes.len());
        let is = match self.load(path, most.max(1)) {
            Ok(loaded) => loaded,
            Err(StoreError::TooLong { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        if is.map(|is| is.bytes) != was.map(|was| was.bytes.clone()) {
            return Ok(false);
        }
        self.write(path, bytes)?;
        self.sweep();
        Ok(true)
    }
}

/// Makes a folder durably with those above it.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
        match std::fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        return File::open(parent)?.sync_all();
    }
    Ok(())
}

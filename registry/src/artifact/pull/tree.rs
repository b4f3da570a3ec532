//! The files of an artifact while their chunks arrive in any order.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, TryLockError};

use casemate_measurements::hash::Sha256Hash;

use super::PullError;
use crate::artifact::blob::{Blob, Hasher};
use crate::artifact::descriptor::{Chunk, Descriptor};
use crate::artifact::publish::hash_zeros;

/// All files of an artifact, below one directory.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    files: Vec<Growing>,
}

/// A file that grows.
#[derive(Debug)]
struct Growing {
    path: String,
    place: PathBuf,
    file: File,
    chunks: Vec<(u64, Chunk)>,
    expected: Sha256Hash,
    /// Which chunks are there.
    there: Mutex<Vec<bool>>,
    /// How many chunks were hashed, in order, and what that gave so far.
    hashed: Mutex<(usize, Hasher)>,
}

impl Tree {
    /// Makes every file with its length; what is in it stays.
    pub(super) fn open(root: &Path, descriptor: &Descriptor) -> Result<Self, PullError> {
        let mut files = Vec::new();
        for (path, entry) in descriptor.files() {
            let place = root.join(path);
            let open = || -> io::Result<File> {
                if let Some(folder) = place.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false).mode(0o644);
                let file =
                    options.custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits()).open(&place)?;
                file.set_len(entry.size())?;
                Ok(file)
            };
            let file = open().map_err(|source| PullError::Write { path: place.clone(), source })?;
            let chunks: Vec<(u64, Chunk)> = entry.chunks().collect();
            let there = Mutex::new(vec![false; chunks.len()]);
            let (path, expected) = (path.clone(), entry.sha256());
            let hashed = Mutex::new((0, Hasher::default()));
            files.push(Growing { path, place, file, chunks, expected, there, hashed });
        }
        Ok(Self { root: root.to_owned(), files })
    }

    /// Whether a chunk is there from an earlier pull.
    pub(super) fn has(&self, file: usize, index: usize, blob: &Blob) -> bool {
        let growing = &self.files[file];
        let Ok(len) = usize::try_from(blob.size) else { return false };
        let mut bytes = vec![0; len];
        let read = growing.file.read_exact_at(&mut bytes, growing.chunks[index].0);
        read.is_ok() && Blob::of(&bytes) == *blob
    }

    /// Writes a chunk.
    pub(super) fn write(&self, file: usize, index: usize, bytes: &[u8]) -> Result<(), PullError> {
        let growing = &self.files[file];
        let written = growing.file.write_all_at(bytes, growing.chunks[index].0);
        written.map_err(|source| growing.failed(source))?;
        self.done(file, index)
    }

    /// A run of zeros is there: a file begins as a hole. What an earlier pull of the same artifact
    /// left has the same holes.
    pub(super) fn zeros(&self, file: usize, index: usize) -> Result<(), PullError> {
        self.done(file, index)
    }

    /// A chunk is there: hashes on, as far as there are chunks in a row.
    pub(super) fn done(&self, file: usize, index: usize) -> Result<(), PullError> {
        let growing = &self.files[file];
        growing.there.lock().unwrap_or_else(PoisonError::into_inner)[index] = true;
        growing.hash_on()
    }

    /// The first file that is not what its descriptor says, with both hashes.
    pub(super) fn first_wrong(&self) -> Option<(String, Sha256Hash, Sha256Hash)> {
        self.files.iter().find_map(|growing| {
            let hashed = growing.hashed.lock().unwrap_or_else(PoisonError::into_inner);
            let found = hashed.1.clone().finish();
            let whole = hashed.0 == growing.chunks.len();
            (!whole || found != growing.expected)
                .then(|| (growing.path.clone(), found, growing.expected))
        })
    }

    /// Adds a small file that is not in the descriptor.
    pub(super) fn add(&self, path: &str, bytes: &[u8]) -> Result<(), PullError> {
        let place = self.root.join(path);
        let write = || -> io::Result<()> {
            if let Some(folder) = place.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&place, bytes)?;
            File::open(&place)?.sync_all()
        };
        write().map_err(|source| PullError::Write { path: place.clone(), source })
    }

    /// Waits until everything is on the disk.
    pub(super) fn sync(&self) -> Result<(), PullError> {
        for growing in &self.files {
            growing.file.sync_all().map_err(|source| growing.failed(source))?;
        }
        sync_folders(&self.root)
            .map_err(|source| PullError::Write { path: self.root.clone(), source })
    }
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

impl Growing {
    fn failed(&self, source: io::Error) -> PullError {
        PullError::Write { path: self.place.clone(), source }
    }

    /// Hashes the chunks that follow those that were hashed. One thread does, others go on: it
    /// looks again before it leaves.
    fn hash_on(&self) -> Result<(), PullError> {
        loop {
            let mut hashed = match self.hashed.try_lock() {
                Ok(hashed) => hashed,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            while self.is_there(hashed.0) {
                let (offset, chunk) = self.chunks[hashed.0];
                match chunk {
                    Chunk::Zeros(run) => hash_zeros(&mut hashed.1, run.zeros),
                    Chunk::Stored(blob) => {
                        let mut bytes = vec![0; usize::try_from(blob.size).unwrap_or(0)];
                        let read = self.file.read_exact_at(&mut bytes, offset);
                        read.map_err(|source| self.failed(source))?;
                        hashed.1.update(&bytes);
                    }
                }
                hashed.0 += 1;
            }
            let next = hashed.0;
            drop(hashed);
            if !self.is_there(next) {
                return Ok(());
            }
        }
    }

    fn is_there(&self, index: usize) -> bool {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        there.get(index).copied().unwrap_or(false)
    }
}

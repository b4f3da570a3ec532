//! Single files of an artifact, each to a place of its own, such as what a build needs of an input
//! bundle.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use casemate_measurements::hash::Sha256Hash;

use super::blob::Hasher;
use super::descriptor::{Chunk, Descriptor, FileEntry};
use super::publish::hash_zeros;
use super::pull::PullError;
use crate::store::{Store, get};

/// Writes each of `wanted` that the artifact has: whole, verified and durably, or not at all.
/// Returns the hashes of those that it lacks. `advance` is told of bytes that are dealt with.
///
/// # Errors
/// When the store fails or lies, or a file cannot be written.
pub fn fetch(
    store: &dyn Store,
    descriptor: &Descriptor,
    wanted: &BTreeMap<Sha256Hash, PathBuf>,
    jobs: usize,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Sha256Hash>, PullError> {
    let by_hash: BTreeMap<Sha256Hash, (&String, &FileEntry)> =
        descriptor.files().iter().map(|(path, file)| (file.sha256(), (path, file))).collect();
    let (mut there, mut lacking) = (Vec::new(), Vec::new());
    for (sha256, place) in wanted {
        match by_hash.get(sha256) {
            Some((path, file)) => there.push((path.as_str(), *file, place.as_path())),
            None => lacking.push(*sha256),
        }
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<PullError>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, there.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed)
                    && let Some(one) = there.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Err(error) = file(store, *one, advance) {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(lacking),
    }
}

/// The bytes of the file at `path` of an artifact, whole and verified; `None` where it has none.
///
/// # Errors
/// When the store fails or lies, or the file has more than `most` bytes.
pub fn read(
    store: &dyn Store,
    descriptor: &Descriptor,
    path: &str,
    most: u64,
) -> Result<Option<Vec<u8>>, PullError> {
    let Some(entry) = descriptor.files().get(path) else { return Ok(None) };
    if entry.size() > most {
        let (name, size) = (path.to_owned(), entry.size());
        return Err(PullError::Size { name, size, most });
    }
    let mut bytes = Vec::new();
    let fail = |source| PullError::Write { path: path.into(), source };
    put_together(store, path, entry, &mut bytes, &fail, &|_| ())?;
    Ok(Some(bytes))
}

fn file(
    store: &dyn Store,
    (path, entry, place): (&str, &FileEntry, &Path),
    advance: &(dyn Fn(u64) + Sync),
) -> Result<(), PullError> {
    let fail = |source: io::Error| PullError::Write { path: place.to_owned(), source };
    let folder = place.parent().unwrap_or(Path::new("/"));
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    put_together(store, path, entry, &mut temporary, &fail, advance)?;
    let persist = || -> io::Result<()> {
        temporary.as_file().sync_all()?;
        temporary.persist(place).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()
    };
    persist().map_err(fail)
}

/// Writes the chunks of a file, and holds the whole to its hash.
fn put_together(
    store: &dyn Store,
    path: &str,
    entry: &FileEntry,
    sink: &mut dyn Write,
    fail: &dyn Fn(io::Error) -> PullError,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<(), PullError> {
    let mut hasher = Hasher::default();
    for (_, chunk) in entry.chunks() {
        match chunk {
            Chunk::Stored(blob) => {
                let bytes = get(store, &blob)?;
                hasher.update(&bytes);
                sink.write_all(&bytes).map_err(fail)?;
            }
            Chunk::Zeros(run) => {
                hash_zeros(&mut hasher, run.zeros);
                io::copy(&mut io::Read::take(io::repeat(0), run.zeros), sink).map_err(fail)?;
            }
        }
        advance(chunk.size());
    }
    let found = hasher.finish();
    if found != entry.sha256() {
        let (store, path, expected) = (store.name(), path.to_owned(), entry.sha256());
        return Err(PullError::File { store, path, found, expected });
    }
    Ok(())
}

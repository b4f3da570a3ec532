//! Publishing: chunks first, then the descriptor, then the manifest and its signatures, the tag
//! last. Whatever ends it on the way, readers see what they saw before, and the next attempt sends
//! what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use casemate_measurements::hash::Sha256Hash;

use super::blob::{Blob, Hasher};
use super::chunk::{Chunker, Piece, Sizes};
use super::descriptor::{Chunk, Descriptor, DescriptorError, FileEntry};
use super::manifest::{Manifest, ManifestBytes, ManifestError};
use super::source::{Source, SourceFile};
use crate::reference::Tag;
use crate::store::{Expected, Store, StoreError};

/// Zeros, to hash runs of them.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what the release's manifest says.
    #[error(
        "{} has SHA-256 {found}, expected {expected} by the release's manifest: it was changed or \
         damaged after the build; nothing was published",
        path.display()
    )]
    Changed {
        /// Which.
        path: PathBuf,
        /// Its hash.
        found: Sha256Hash,
        /// The manifest's hash.
        expected: Sha256Hash,
    },
    /// The artifact breaks a bound of the format.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The manifest would be too long.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How to publish.
#[derive(Debug, Clone, Copy)]
pub struct PublishOptions {
    /// Transfers at a time.
    pub jobs: usize,
    /// What the tag must point to for it to be moved.
    pub expected: Expected,
    /// How long chunks are; without, as is fit for each file.
    pub sizes: Option<Sizes>,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self { jobs: 8, expected: Expected::Any, sizes: None }
    }
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// The digest of its manifest: what pins it.
    pub manifest: Sha256Hash,
    /// What it consists of.
    pub descriptor: Descriptor,
    /// Bytes of chunks that were sent.
    pub sent: u64,
    /// Bytes of chunks that the store had.
    pub had: u64,
    /// Signature files that were attached.
    pub signatures: usize,
}

/// Publishes `source` and points `tag` to it. `advance` is told of bytes that are dealt with.
///
/// # Errors
/// When a file cannot be read or is not what it should be, or the store fails. Then no tag moved.
pub fn publish(
    source: &Source,
    store: &dyn Store,
    tag: Option<&Tag>,
    options: &PublishOptions,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Published, PublishError> {
    let upload = Upload::new(store, advance);
    let files = upload.files(source, options)?;
    let Described { descriptor, bytes, manifest } = Described::new(source, files)?;
    put(store, &Blob::of(&bytes), &bytes)?;
    let mut referrers = Vec::new();
    for (path, bytes) in &source.signatures {
        let blob = Blob::of(bytes);
        put(store, &blob, bytes)?;
        referrers.push(Manifest::of_signature(path, blob, &manifest.entry())?);
    }
    if !referrers.is_empty() {
        put(store, &Blob::of(super::manifest::EMPTY), super::manifest::EMPTY)?;
    }
    store.commit(&manifest, &referrers, tag.map(|tag| (tag, options.expected)))?;
    Ok(Published {
        manifest: *manifest.sha256(),
        descriptor,
        sent: upload.sent.into_inner(),
        had: upload.had.into_inner(),
        signatures: referrers.len(),
    })
}

/// The digest that `source` gets in every store, cut as is fit for each file. `advance` is told of
/// bytes that are read.
///
/// # Errors
/// When a file cannot be read or is not what it should be.
pub fn digest(source: &Source, advance: &dyn Fn(u64)) -> Result<Sha256Hash, PublishError> {
    let mut files = BTreeMap::new();
    for (path, file) in &source.files {
        let entry = cut(file, None, &mut |piece| {
            advance(piece.chunk.size());
            true
        })?;
        files.extend(entry.map(|entry| (path.clone(), entry)));
    }
    Ok(*Described::new(source, files)?.manifest.sha256())
}

/// What follows from the files of an artifact.
struct Described {
    descriptor: Descriptor,
    bytes: Vec<u8>,
    manifest: ManifestBytes,
}

impl Described {
    fn new(source: &Source, files: BTreeMap<String, FileEntry>) -> Result<Self, PublishError> {
        let identity = (source.name.as_str(), source.version.as_str());
        let descriptor = Descriptor::new(source.kind, identity, source.platform, files)?;
        let bytes = descriptor.to_bytes()?;
        let manifest = Manifest::of_artifact(&descriptor, Blob::of(&bytes))?;
        Ok(Self { descriptor, bytes, manifest })
    }
}

pub(super) fn put(store: &dyn Store, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError> {
    if store.has(blob)? { Ok(()) } else { store.put(blob, bytes) }
}

/// Chunks on their way into a store.
struct Upload<'a> {
    store: &'a dyn Store,
    advance: &'a (dyn Fn(u64) + Sync),
    sent: AtomicU64,
    had: AtomicU64,
    failed: Mutex<Option<StoreError>>,
    stop: AtomicBool,
}

impl<'a> Upload<'a> {
    fn new(store: &'a dyn Store, advance: &'a (dyn Fn(u64) + Sync)) -> Self {
        let (sent, had) = (AtomicU64::new(0), AtomicU64::new(0));
        let (failed, stop) = (Mutex::new(None), AtomicBool::new(false));
        Self { store, advance, sent, had, failed, stop }
    }

    /// Cuts all files and sends their chunks, several at a time.
    fn files(
        &self,
        source: &Source,
        options: &PublishOptions,
    ) -> Result<BTreeMap<String, FileEntry>, PublishError> {
        let jobs = options.jobs.max(1);
        let (sender, receiver) = sync_channel::<Piece>(jobs);
        let receiver = Mutex::new(receiver);
        let cut = std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| self.send_all(&receiver));
            }
            let mut seen = BTreeSet::new();
            let mut files = BTreeMap::new();
            for (path, file) in &source.files {
                let Some(entry) = self.file(file, options.sizes, &sender, &mut seen)? else {
                    break;
                };
                files.insert(path.clone(), entry);
            }
            drop(sender);
            Ok::<_, PublishError>(files)
        });
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failed {
            Some(error) => Err(error.into()),
            None => cut,
        }
    }

    /// Cuts a file; `None` when sending has failed.
    fn file(
        &self,
        file: &SourceFile,
        sizes: Option<Sizes>,
        sender: &SyncSender<Piece>,
        seen: &mut BTreeSet<Blob>,
    ) -> Result<Option<FileEntry>, PublishError> {
        cut(file, sizes, &mut |piece| match piece.chunk {
            Chunk::Stored(blob) if seen.insert(blob) => {
                !self.stop.load(Ordering::Relaxed) && sender.send(piece).is_ok()
            }
            chunk => {
                (self.advance)(chunk.size());
                true
            }
        })
    }

    /// Sends chunks until there are no more, or one could not be sent.
    fn send_all(&self, receiver: &Mutex<Receiver<Piece>>) {
        loop {
            let piece = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(piece) = piece else { return };
            // What is left is taken and dropped, so that nobody waits to hand it over.
            if self.stop.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.send(&piece) {
                self.stop.store(true, Ordering::Relaxed);
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    fn send(&self, piece: &Piece) -> Result<(), StoreError> {
        let Chunk::Stored(blob) = piece.chunk else { return Ok(()) };
        let counter = if self.store.has(&blob)? {
            &self.had
        } else {
            self.store.put(&blob, &piece.bytes)?;
            &self.sent
        };
        counter.fetch_add(blob.size, Ordering::Relaxed);
        (self.advance)(blob.size);
        Ok(())
    }
}

/// Cuts a file and hands over its pieces, until one is not taken: then `None`.
fn cut(
    file: &SourceFile,
    sizes: Option<Sizes>,
    take: &mut dyn FnMut(Piece) -> bool,
) -> Result<Option<FileEntry>, PublishError> {
    let fail = |source| PublishError::Read { path: file.file.clone(), source };
    let mut hasher = Hasher::default();
    let (mut chunks, mut size) = (Vec::new(), 0);
    let opened = File::open(&file.file).map_err(fail)?;
    let len = opened.metadata().map_err(fail)?.len();
    for piece in Chunker::new(opened, sizes.unwrap_or_else(|| Sizes::of_file(len))) {
        let piece = piece.map_err(fail)?;
        hasher.update(&piece.bytes);
        if let Chunk::Zeros(run) = piece.chunk {
            hash_zeros(&mut hasher, run.zeros);
        }
        size += piece.chunk.size();
        chunks.push(piece.chunk);
        if !take(piece) {
            return Ok(None);
        }
    }
    let found = hasher.finish();
    match file.expected {
        Some(expected) if expected != found => {
            Err(PublishError::Changed { path: file.file.clone(), found, expected })
        }
        _ => Ok(Some(FileEntry::new(found, size, chunks))),
    }
}

/// Hashes `len` zeros.
pub(super) fn hash_zeros(hasher: &mut Hasher, mut len: u64) {
    while len > 0 {
        let part = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..part]);
        len -= part as u64;
    }
}

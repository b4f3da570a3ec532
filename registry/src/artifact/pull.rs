//! Pulling: into a directory beside the one that is asked for, which takes its place once every
//! byte is there, verified and on the disk.
//!
//! Chunks come from what is on this machine already, else from the store, several at a time, each
//! held to its hash before it is written; each file is held to its own while it grows. What an
//! interrupted pull left is looked at again and what is right is kept.

mod replace;
mod tree;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use casemate_measurements::hash::Sha256Hash;

use super::blob::Blob;
use super::described::{Contradiction, Unreadable};
use super::descriptor::{Chunk, Descriptor, DescriptorError, Kind};
use super::local::LocalChunks;
use super::manifest::{BUNDLE_TYPE, Entry, MAX_LEN, ManifestBytes, ManifestError};
use super::source::{MAX_SIGNATURE, MAX_SIGNATURES, MAX_SIGNATURES_LEN, is_signature};
use crate::reference::Selector;
use crate::store::{Store, StoreError, get};

use replace::Workplace;
use tree::Tree;

/// Why nothing was pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The store has no such artifact.
    #[error("{store} has no {selector}{}", listed(tags))]
    None {
        /// The store.
        store: String,
        /// What was asked for.
        selector: Selector,
        /// What it has.
        tags: Vec<String>,
    },
    /// The store failed, or lied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The manifest is refused.
    #[error("{store}: the manifest sha256:{digest} is refused")]
    Manifest {
        /// The store.
        store: String,
        /// The manifest.
        digest: Sha256Hash,
        /// Why.
        source: ManifestError,
    },
    /// The descriptor is refused.
    #[error("{store}: the descriptor of sha256:{digest} is refused")]
    Descriptor {
        /// The store.
        store: String,
        /// The manifest.
        digest: Sha256Hash,
        /// Why.
        source: DescriptorError,
    },
    /// It is another kind of artifact.
    #[error("{store}: sha256:{digest} is an {found}, expected a {expected}")]
    Kind {
        /// The store.
        store: String,
        /// The manifest.
        digest: Sha256Hash,
        /// What it is.
        found: Kind,
        /// What was asked for.
        expected: Kind,
    },
    /// It is longer than allowed.
    #[error(
        "{name} has {size} bytes, at most {most} are pulled; if that is what you want, say \
         --max-size"
    )]
    Size {
        /// The artifact.
        name: String,
        /// Its length.
        size: u64,
        /// What is allowed.
        most: u64,
    },
    /// A file made of right chunks is another than its descriptor says.
    #[error(
        "{store}: {path} has SHA-256 {found} when put together, expected {expected} by its \
         descriptor: whoever published it made the descriptor wrongly; nothing was changed here"
    )]
    File {
        /// The store.
        store: String,
        /// The file.
        path: String,
        /// Its hash.
        found: Sha256Hash,
        /// The descriptor's hash.
        expected: Sha256Hash,
    },
    /// The manifest of a release is refused.
    #[error(transparent)]
    Unreadable(Box<Unreadable>),
    /// The descriptor of a release says something else than its manifest.
    #[error(transparent)]
    Contradiction(Box<Contradiction>),
    /// A store has too many signatures of an artifact, or they are too long.
    #[error(
        "{store}: the signatures of sha256:{digest} are refused: {limit}. Whoever publishes there \
         has to remove what nobody needs"
    )]
    Signatures {
        /// The store.
        store: String,
        /// The artifact's manifest.
        digest: Sha256Hash,
        /// The limit, and what was found.
        limit: String,
    },
    /// The directory holds something else.
    #[error("{} is not empty and no earlier release: it is not replaced", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// Another pull is at work on the same.
    #[error("another pull of the same is at work in {}; wait for it", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
    /// Something cannot be written.
    #[error("cannot write {}; what was there before is unchanged", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn listed(tags: &[String]) -> String {
    match tags {
        [] => ": it has no tags".to_owned(),
        tags => format!(": it has {}", tags.join(", ")),
    }
}

/// An artifact that was found in a store.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Its manifest.
    pub manifest: ManifestBytes,
    /// What it consists of.
    pub descriptor: Descriptor,
}

/// How to pull.
#[derive(Debug, Clone, Copy)]
pub struct PullOptions {
    /// Transfers at a time.
    pub jobs: usize,
    /// Most bytes of the artifact.
    pub max_size: u64,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { jobs: 8, max_size: 64 << 30 }
    }
}

/// What a pull did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulled {
    /// Bytes of chunks that came from the store.
    pub fetched: u64,
    /// Bytes of chunks that were on this machine.
    pub reused: u64,
    /// Signature files.
    pub signatures: usize,
}

/// Finds an artifact. Nothing is written.
///
/// # Errors
/// When there is none, or it is malformed or of another kind.
pub fn resolve(
    store: &dyn Store,
    selector: &Selector,
    expected: Kind,
) -> Result<Resolved, PullError> {
    let Some(manifest) = store.manifest(selector)? else {
        // An error about the list would hide what is wrong.
        let tags = store.tags().unwrap_or_default();
        let tags = tags.iter().take(20).map(ToString::to_string).collect();
        return Err(PullError::None { store: store.name(), selector: selector.clone(), tags });
    };
    let digest = *manifest.sha256();
    let wrong = |source| PullError::Manifest { store: store.name(), digest, source };
    let blob = manifest.read().and_then(|read| read.descriptor()).map_err(wrong)?;
    let bytes = get(store, &blob)?;
    let descriptor = Descriptor::from_bytes(&bytes).map_err(|source| PullError::Descriptor {
        store: store.name(),
        digest,
        source,
    })?;
    let found = descriptor.kind();
    if found != expected {
        return Err(PullError::Kind { store: store.name(), digest, found, expected });
    }
    Ok(Resolved { manifest, descriptor })
}

/// Pulls an artifact that was found into the directory `out`, which it replaces if an earlier
/// release is there. `advance` is told of bytes that are dealt with.
///
/// # Errors
/// When the store fails or lies, or something cannot be written. Then `out` is what it was.
pub fn pull(
    store: &dyn Store,
    resolved: &Resolved,
    out: &Path,
    local: &LocalChunks,
    options: &PullOptions,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Pulled, PullError> {
    let (descriptor, size) = (&resolved.descriptor, resolved.descriptor.size());
    if size > options.max_size {
        let name = format!("{} {}", descriptor.name(), descriptor.version());
        return Err(PullError::Size { name, size, most: options.max_size });
    }
    let workplace = Workplace::open(out, resolved.manifest.sha256())?;
    let tree = Tree::open(workplace.path(), descriptor)?;
    let download = Download {
        store,
        tree: &tree,
        local,
        advance,
        resumed: workplace.is_resumed(),
        fetched: AtomicU64::new(0),
        reused: AtomicU64::new(0),
        failed: Mutex::new(None),
        stop: AtomicBool::new(false),
    };
    download.run(descriptor, options.jobs.max(1))?;
    let (fetched, reused) = (download.fetched.into_inner(), download.reused.into_inner());
    if let Some((path, found, expected)) = tree.first_wrong() {
        // What is there now can never become right.
        workplace.discard();
        return Err(PullError::File { store: store.name(), path, found, expected });
    }
    let signatures = signatures(store, &resolved.manifest)?;
    for (path, bytes) in &signatures {
        tree.add(path, bytes)?;
    }
    tree.sync()?;
    workplace.put_in_place()?;
    Ok(Pulled { fetched, reused, signatures: signatures.len() })
}

/// The signature files that refer to an artifact, by path. A list that is too long is an error,
/// never a shorter one.
///
/// # Errors
/// When the store fails or lies, or has more than is read of one artifact's signatures.
pub fn signatures(
    store: &dyn Store,
    manifest: &ManifestBytes,
) -> Result<BTreeMap<String, Vec<u8>>, PullError> {
    let subject = manifest.entry();
    let mut budget = Budget { store, artifact: *manifest.sha256(), left: MAX_SIGNATURES_LEN };
    let mut entries = store.referrers(&subject)?;
    entries.retain(Entry::may_be_signature);
    if entries.len() > MAX_SIGNATURES {
        let limit = format!("{} are listed, at most {MAX_SIGNATURES} are read", entries.len());
        return Err(budget.refused(limit));
    }
    let mut found = BTreeMap::new();
    for entry in &entries {
        let digest = entry.sha256().unwrap_or(Sha256Hash::ZERO);
        let wrong = |source| PullError::Manifest { store: store.name(), digest, source };
        let manifest = referrer(&mut budget, entry)?.read().map_err(wrong)?;
        if manifest.subject().is_none_or(|found| found.digest != subject.digest) {
            continue;
        }
        let layers = manifest.layers();
        for layer in layers {
            if let Some(path) = signature_path(layer, &found) {
                if layers.len() > 1 {
                    let limit = format!(
                        "the manifest sha256:{digest} has {} layers, expected one for each \
                         signature",
                        layers.len()
                    );
                    return Err(budget.refused(limit));
                }
                let blob = layer.blob(MAX_SIGNATURE).map_err(wrong)?;
                budget.take(blob.size)?;
                found.insert(path, get(store, &blob)?);
            }
        }
    }
    Ok(found)
}

/// How many bytes may still be read of what refers to an artifact.
pub(super) struct Budget<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) artifact: Sha256Hash,
    pub(super) left: u64,
}

impl Budget<'_> {
    fn take(&mut self, size: u64) -> Result<(), PullError> {
        let Some(left) = self.left.checked_sub(size) else {
            let most = MAX_SIGNATURES_LEN >> 20;
            return Err(self.refused(format!("they have more than {most} MiB together")));
        };
        self.left = left;
        Ok(())
    }

    fn refused(&self, limit: String) -> PullError {
        let (store, digest) = (self.store.name(), self.artifact);
        PullError::Signatures { store, digest, limit }
    }
}

/// The manifest that a list of referrers names.
pub(super) fn referrer(budget: &mut Budget<'_>, entry: &Entry) -> Result<ManifestBytes, PullError> {
    let store = budget.store;
    let wrong =
        |source| PullError::Manifest { store: store.name(), digest: Sha256Hash::ZERO, source };
    let blob = entry.blob(MAX_LEN as u64).map_err(wrong)?;
    budget.take(blob.size)?;
    let missing = || StoreError::Missing {
        store: store.name(),
        what: format!("manifest sha256:{}, which its list of signatures names,", blob.sha256),
    };
    let found = store.manifest(&Selector::Digest(blob.sha256))?.ok_or_else(missing)?;
    if found.bytes().len() as u64 != blob.size {
        let (store, what) = (store.name(), format!("manifest sha256:{}", blob.sha256));
        let reason = format!("it has {} bytes, listed with {}", found.bytes().len(), blob.size);
        return Err(StoreError::Malformed { store, what, reason }.into());
    }
    Ok(found)
}

/// Where a signature goes, if it is one: its title, else a name that other programs' bundles get.
fn signature_path(layer: &Entry, taken: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let short = layer.sha256()?.to_string()[..16].to_owned();
    let titled = layer.title().filter(|title| is_signature(title)).map(str::to_owned);
    match titled {
        Some(path) if !taken.contains_key(&path) => Some(path),
        None if layer.media_type != BUNDLE_TYPE => None,
        _ => Some(format!("signatures/{short}.sigstore.json")),
    }
}

/// Where a chunk belongs: the file's number and the chunk's number in it.
type Spot = (usize, usize);

/// A pull at work.
struct Download<'a> {
    store: &'a dyn Store,
    tree: &'a Tree,
    local: &'a LocalChunks,
    advance: &'a (dyn Fn(u64) + Sync),
    /// Whether an earlier pull left something.
    resumed: bool,
    fetched: AtomicU64,
    reused: AtomicU64,
    failed: Mutex<Option<PullError>>,
    stop: AtomicBool,
}

impl Download<'_> {
    fn run(&self, descriptor: &Descriptor, jobs: usize) -> Result<(), PullError> {
        let mut spots: BTreeMap<Blob, Vec<Spot>> = BTreeMap::new();
        // In the order of the first file that needs it, so that files are hashed as they grow.
        let mut order = Vec::new();
        for (number, file) in descriptor.files().values().enumerate() {
            for (index, (_, chunk)) in file.chunks().enumerate() {
                match chunk {
                    Chunk::Zeros(run) => {
                        self.tree.zeros(number, index)?;
                        (self.advance)(run.zeros);
                    }
                    Chunk::Stored(blob) => {
                        let wanted = spots.entry(blob).or_default();
                        if wanted.is_empty() {
                            order.push(blob);
                        }
                        wanted.push((number, index));
                    }
                }
            }
        }
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.min(order.len()) {
                scope.spawn(|| {
                    while !self.stop.load(Ordering::Relaxed)
                        && let Some(blob) = order.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if let Err(error) = self.chunk(blob, &spots[blob]) {
                            self.stop.store(true, Ordering::Relaxed);
                            let mut failed =
                                self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.get_or_insert(error);
                        }
                    }
                });
            }
        });
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        failed.map_or(Ok(()), Err)
    }

    /// Gets a chunk and writes it wherever it belongs.
    fn chunk(&self, blob: &Blob, spots: &[Spot]) -> Result<(), PullError> {
        let mut bytes = None;
        for &(file, index) in spots {
            if self.resumed && self.tree.has(file, index, blob) {
                self.tree.done(file, index)?;
            } else {
                if bytes.is_none() {
                    bytes = Some(self.bytes(blob)?);
                }
                if let Some(bytes) = &bytes {
                    self.tree.write(file, index, bytes)?;
                }
            }
            (self.advance)(blob.size);
        }
        if bytes.is_none() {
            self.reused.fetch_add(blob.size, Ordering::Relaxed);
        }
        Ok(())
    }

    fn bytes(&self, blob: &Blob) -> Result<Vec<u8>, PullError> {
        if let Some(bytes) = self.local.get(blob) {
            self.reused.fetch_add(blob.size, Ordering::Relaxed);
            return Ok(bytes);
        }
        let bytes = get(self.store, blob)?;
        self.fetched.fetch_add(blob.size, Ordering::Relaxed);
        Ok(bytes)
    }
}

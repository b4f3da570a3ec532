//! Releases that were pulled, by the digest of their manifest: what `run` and `verify` take when
//! they are given a reference.
//!
//! A release that is named by digest and is here is taken without asking anybody. One that is
//! named by tag is looked up each time: only the store knows what the tag points to.

use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use crate::artifact::described;
use crate::artifact::descriptor::{self, Descriptor, Kind};
use crate::artifact::local::LocalChunks;
use crate::artifact::pull::{PullError, PullOptions, Pulled, Resolved, pull, resolve, signatures};
use crate::history::{History, HistoryError};
use crate::reference::{Reference, Selector};
use crate::store::{self, Store, StoreError};

/// How many descriptors are looked at for chunks that are here already.
const MOST_LOCAL: usize = 64;

/// Why a release cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be pulled.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tag was turned back.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The cache cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a release is fetched.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// How stores are talked to.
    pub store: store::Options,
    /// How it is pulled.
    pub pull: PullOptions,
    /// Whether a tag may point to an earlier release than before.
    pub allow_rollback: bool,
}

/// A release that is on this machine.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Its directory.
    pub path: PathBuf,
    /// The digest that pins it.
    pub manifest: Sha256Hash,
    /// What was moved; `None` when it was here.
    pub pulled: Option<Pulled>,
}

/// Releases by digest, below one folder.
#[derive(Debug, Clone)]
pub struct ReleaseCache {
    root: PathBuf,
}

impl ReleaseCache {
    /// The releases in the cache whose folder is `cache`.
    #[must_use]
    pub fn new(cache: &Path) -> Self {
        Self { root: cache.join("releases") }
    }

    /// What tags pointed to.
    #[must_use]
    pub fn history(&self) -> History {
        History::new(&self.root.join("seen"))
    }

    /// Where the release with this digest is, if it is.
    #[must_use]
    pub fn find(&self, manifest: &Sha256Hash) -> Option<PathBuf> {
        let path = self.place(manifest);
        path.is_dir().then_some(path)
    }

    fn place(&self, manifest: &Sha256Hash) -> PathBuf {
        self.root.join(format!("sha256-{manifest}"))
    }

    fn note(&self, manifest: &Sha256Hash) -> PathBuf {
        self.root.join(format!("sha256-{manifest}.descriptor.json"))
    }

    /// The chunks of the releases that are here.
    #[must_use]
    pub fn chunks(&self) -> LocalChunks {
        let mut local = LocalChunks::default();
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        let notes = names.iter().filter_map(|name| {
            name.strip_prefix("sha256-")?.strip_suffix(".descriptor.json")?.parse().ok()
        });
        for manifest in notes.take(MOST_LOCAL) {
            let Ok(bytes) = std::fs::read(self.note(&manifest)) else { continue };
            if let Ok(descriptor) = Descriptor::from_bytes(&bytes) {
                local.add_artifact(&self.place(&manifest), &descriptor);
            }
        }
        local
    }

    /// Fetches the release that `reference` names, unless it is here. `begin` is told how long it
    /// is, `advance` of bytes that are dealt with.
    ///
    /// # Errors
    /// When the store fails or lies, or the tag was turned back.
    pub fn fetch(
        &self,
        reference: &Reference,
        options: &FetchOptions,
        begin: &dyn Fn(&Resolved),
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Fetched, CacheError> {
        if let Selector::Digest(manifest) = &reference.selector
            && let Some(path) = self.find(manifest)
        {
            return Ok(Fetched { path, manifest: *manifest, pulled: None });
        }
        let store = store::open(&reference.place, &options.store)?;
        let found = self.look_up(store.as_ref(), reference, options.allow_rollback)?;
        let fetched = self.keep(store.as_ref(), &found, options, begin, advance)?;
        if let Some(tag) = reference.selector.tag() {
            self.history().record(&reference.place, tag, &found)?;
        }
        Ok(fetched)
    }

    /// Fetches a release that was found, unless it is here; then signatures that were attached
    /// since are added.
    ///
    /// # Errors
    /// When the store fails or lies, or the cache cannot be written.
    pub fn keep(
        &self,
        store: &dyn Store,
        found: &Resolved,
        options: &FetchOptions,
        begin: &dyn Fn(&Resolved),
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Fetched, CacheError> {
        let manifest = *found.manifest.sha256();
        let path = self.place(&manifest);
        let pulled = if path.is_dir() {
            add_signatures(store, found, &path)?;
            None
        } else {
            begin(found);
            let local = self.chunks();
            let pulled = pull(store, found, &path, &local, &options.pull, advance)?;
            let note = self.note(&manifest);
            let bytes = found.descriptor.to_bytes().unwrap_or_default();
            debug_assert!(bytes.len() <= descriptor::MAX_LEN);
            std::fs::write(&note, bytes)
                .map_err(|source| CacheError::Write { path: note, source })?;
            Some(pulled)
        };
        Ok(Fetched { path, manifest, pulled })
    }

    /// Finds what `reference` names, and refuses a descriptor that is not of the release's manifest,
    /// and a tag that was turned back.
    ///
    /// # Errors
    /// When the store fails or lies, or the tag was turned back.
    pub fn look_up(
        &self,
        store: &dyn Store,
        reference: &Reference,
        allow_rollback: bool,
    ) -> Result<Resolved, CacheError> {
        let found = resolve(store, &reference.selector, Kind::Release)?;
        described::hold(store, &found)?;
        // Who names the digest has decided himself.
        if let Selector::Tag(tag) = &reference.selector
            && !allow_rollback
        {
            self.history().check(&reference.place, tag, &found)?;
        }
        Ok(found)
    }
}

/// Adds signatures that were attached since the release was pulled.
fn add_signatures(store: &dyn Store, found: &Resolved, dir: &Path) -> Result<(), CacheError> {
    for (path, bytes) in signatures(store, &found.manifest)? {
        let place = dir.join(path);
        if place.exists() {
            continue;
        }
        let write = || -> io::Result<()> {
            let folder = place.parent().unwrap_or(dir);
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            io::Write::write_all(&mut file, &bytes)?;
            file.as_file().sync_all()?;
            file.persist(&place).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|source| CacheError::Write { path: place.clone(), source })?;
    }
    Ok(())
}

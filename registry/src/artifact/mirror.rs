//! Copying an artifact with its signatures from one store to another: the digest stays the same.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::blob::Blob;
use super::manifest::ManifestBytes;
use super::pull::{Budget, PullError, Resolved, referrer};
use super::source::MAX_SIGNATURES_LEN;
use crate::reference::Tag;
use crate::store::{Expected, Store, StoreError, get};

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mirrored {
    /// Bytes that were copied.
    pub sent: u64,
    /// Bytes that were there.
    pub had: u64,
    /// Manifests that refer to the artifact.
    pub referrers: usize,
}

/// Copies `artifact` of `from` to `to` with its signatures, then points `tag` to it. The hash of
/// everything is compared on the way.
///
/// # Errors
/// When a store fails, `from` lies, or it lists what it does not have. Then no tag moved.
pub fn mirror(
    (from, artifact): (&dyn Store, &Resolved),
    to: &dyn Store,
    tag: Option<(&Tag, Expected)>,
    jobs: usize,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Mirrored, PullError> {
    let wrong = |manifest: &ManifestBytes| {
        let (store, digest) = (from.name(), *manifest.sha256());
        move |source| PullError::Manifest { store, digest, source }
    };
    let mut blobs = BTreeSet::new();
    let manifest = &artifact.manifest;
    blobs.extend(manifest.read().and_then(|read| read.blobs()).map_err(wrong(manifest))?);
    let mut referrers = Vec::new();
    let left = MAX_SIGNATURES_LEN;
    let mut budget = Budget { store: from, artifact: *manifest.sha256(), left };
    for entry in from.referrers(&manifest.entry())? {
        let referrer = referrer(&mut budget, &entry)?;
        blobs.extend(referrer.read().and_then(|read| read.blobs()).map_err(wrong(&referrer))?);
        referrers.push(referrer);
    }
    let mut done = copy(from, to, &blobs.into_iter().collect::<Vec<_>>(), jobs, advance)?;
    to.commit(manifest, &referrers, tag)?;
    done.referrers = referrers.len();
    Ok(done)
}

fn copy(
    from: &dyn Store,
    to: &dyn Store,
    blobs: &[Blob],
    jobs: usize,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Mirrored, StoreError> {
    let (sent, had) = (AtomicU64::new(0), AtomicU64::new(0));
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed: Mutex<Option<StoreError>> = Mutex::new(None);
    let one = |blob: &Blob| -> Result<(), StoreError> {
        let counter = if to.has(blob)? {
            &had
        } else {
            to.put(blob, &get(from, blob)?)?;
            &sent
        };
        counter.fetch_add(blob.size, Ordering::Relaxed);
        advance(blob.size);
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, blobs.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed)
                    && let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    if let Err(error) = one(blob) {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(Mirrored { sent: sent.into_inner(), had: had.into_inner(), referrers: 0 }),
    }
}

//! Turns unpacked packages into one file tree: sorted, each path once, whatever the order in
//! which packages were read.
//!
//! The rule is that packages never overlap. Two packages with one path, or with different modes
//! for one directory, are an error that names both, because which of them would win depends on
//! an order that nobody wrote down.

mod scan;
mod tree;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use casemate_measurements::hash::Sha256Hash;

pub use scan::{Scanned, scan};
pub use tree::{Content, Kind, Node, Owner, Source, Tree, canonical};
pub use write::{write_directory, write_tar};

/// Why packages do not make a tree.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// An unpacked package could not be read.
    #[error("cannot read {} of {package}", path.display())]
    Read {
        /// The package.
        package: String,
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A package holds something that an image must not hold.
    #[error("{package} holds {what}: {path:?}")]
    Entry {
        /// The package.
        package: String,
        /// The path.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// Two packages want one path.
    #[error("{first} and {second} both hold /{path}")]
    Conflict {
        /// The path.
        path: String,
        /// The package that sorts first.
        first: String,
        /// The other.
        second: String,
    },
    /// A path goes through something that is no directory.
    #[error("/{path} of {owner} lies below /{parent}, which is no directory")]
    Parent {
        /// The path.
        path: String,
        /// Whose it is.
        owner: String,
        /// The path above it.
        parent: String,
    },
    /// A path that a step needs is not there.
    #[error("/{path} is not in the tree: {needed}")]
    Missing {
        /// The path.
        path: String,
        /// Who needs it, and for what.
        needed: String,
    },
    /// The tree could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A package to merge: a tar archive in the cache.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name, for errors.
    pub name: String,
    /// SHA-256 of the package it was unpacked from: with an offset, the identity of a file.
    pub sha256: Sha256Hash,
    /// The plain tar archive.
    pub tar: PathBuf,
}

/// Merges `packages` with `jobs` threads. `seed` changes the order in which they are taken,
/// which must not change the result; zero is their own order.
///
/// # Errors
/// When a package is unreadable, malformed, or overlaps another.
pub fn merge(packages: &[Package], jobs: usize, seed: u64) -> Result<Tree, MergeError> {
    let order = shuffled(packages.len(), seed);
    let next = AtomicUsize::new(0);
    let mut scanned: Vec<(usize, Result<_, MergeError>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.clamp(1, packages.len().max(1)))
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    while let Some(&at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                        done.push((at, scan(&packages[at])));
                    }
                    done
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    });
    if scanned.len() != packages.len() {
        return Err(MergeError::Missing {
            path: String::new(),
            needed: "a scanning thread panicked".to_owned(),
        });
    }
    scanned.sort_by_key(|(at, _)| order.iter().position(|o| o == at));
    let mut tree = Tree::default();
    for package in packages {
        let open = std::fs::File::open(&package.tar).map_err(|source| MergeError::Read {
            package: package.name.clone(),
            path: package.tar.clone(),
            source,
        })?;
        tree.add_source(Source {
            name: package.name.clone(),
            identity: package.sha256,
            file: Arc::new(open),
        });
    }
    for (at, entries) in scanned {
        for entry in entries? {
            tree.insert_packaged(at, entry)?;
        }
    }
    tree.finish()?;
    Ok(tree)
}

/// The numbers below `len` in an order that depends on `seed` alone.
fn shuffled(len: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut state = seed;
    for at in (1..len).rev().filter(|_| seed != 0) {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let below = usize::try_from(state >> 33).unwrap_or(0) % (at + 1);
        order.swap(at, below);
    }
    order
}

#[cfg(test)]
mod tests;

//! What programs of the tool closure made, kept in the cache by the hash of their inputs.

use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::StepError;
use crate::fetch::Cache;

/// Who answers for the bytes after a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// They are on disk before the directory appears.
    Synced,
    /// Whoever reads them checks them against a hash.
    CheckedOnUse,
}

/// The directory `<kind>/<key>` of the cache, made by `make` in a temporary place if it is not
/// there. It appears whole or not at all; of two builds at once the first wins.
///
/// # Errors
/// When `make` fails or the cache cannot be written.
pub fn derived<E: From<StepError>>(
    cache: &Cache,
    kind: &str,
    key: &Sha256Hash,
    durability: Durability,
    make: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<PathBuf, E> {
    let wrap = |path: &Path| {
        let path = path.to_owned();
        move |source| E::from(StepError::File { path, source })
    };
    let dir = cache.root().join(kind);
    std::fs::create_dir_all(&dir).map_err(wrap(&dir))?;
    let place = dir.join(key.to_string());
    if place.is_dir() {
        return Ok(place);
    }
    let parent = cache.root().join("tmp");
    let temporary = tempfile::tempdir_in(&parent).map_err(wrap(&parent))?;
    let fresh = temporary.path().join("new");
    std::fs::create_dir(&fresh).map_err(wrap(&fresh))?;
    make(&fresh)?;
    if durability == Durability::Synced {
        sync(&fresh).map_err(wrap(&fresh))?;
    }
    match std::fs::rename(&fresh, &place) {
        Ok(()) => {}
        Err(_) if place.is_dir() => {}
        Err(error) => return Err(wrap(&place)(error)),
    }
    Ok(place)
}

/// Writes what the file system of `dir` still holds in memory to disk.
fn sync(dir: &Path) -> io::Result<()> {
    let handle = std::fs::File::open(dir)?;
    nix::unistd::syncfs(&handle).map_err(io::Error::from)
}

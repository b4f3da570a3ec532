//! Debian packages: what one says of itself, and its files as a plain tar archive.
//!
//! Nothing here trusts a package before its hash is checked: [`unpack`] hashes the very bytes it
//! unpacks and refuses what is not the locked package.

mod archive;
mod control;
mod unpack;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

pub use archive::Malformed;
pub use control::{Control, Paragraph, paragraphs};
pub use unpack::{UnpackedPackage, unpack, unpack_all};

use archive::{Broken, Parts};

/// Why a package could not be read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// The file could not be read.
    #[error("cannot read the package {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not in the cache.
    #[error("{package} is not in the cache: {} is missing", path.display())]
    Missing {
        /// The package.
        package: String,
        /// The file.
        path: PathBuf,
    },
    /// It is no package.
    #[error("{} is no Debian package: {malformed}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// In what way.
        malformed: Malformed,
    },
    /// Its bytes are not those of the lock.
    #[error(
        "{package} in the cache is damaged: {} has SHA-256 {found}, expected {expected}; delete it",
        path.display()
    )]
    Hash {
        /// The package.
        package: String,
        /// The file.
        path: PathBuf,
        /// The hash of the lock.
        expected: Sha256Hash,
        /// The hash of the file.
        found: Sha256Hash,
    },
    /// The unpacked files could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn broken(path: &Path, broken: Broken) -> DebError {
    match broken {
        Broken::Io(source) => DebError::Read { path: path.to_owned(), source },
        Broken::Malformed(malformed) => DebError::Malformed { path: path.to_owned(), malformed },
    }
}

/// Reads the control file of the package in the file `path`.
///
/// # Errors
///
/// If the file cannot be read or is no package.
pub fn read_control(path: &Path) -> Result<Control, DebError> {
    let file =
        File::open(path).map_err(|source| DebError::Read { path: path.to_owned(), source })?;
    Parts::open(BufReader::new(file))
        .and_then(|mut parts| parts.control())
        .map(Control::new)
        .map_err(|error| broken(path, error))
}

#[cfg(test)]
pub(crate) mod tests;

//! Reads a release's manifest, which is all that verifying a VM needs of a release.
//!
//! Nothing is said here about who made the release: whoever names the directory vouches for it.
//! The manifest is held to itself, the other files are not opened.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::appraisal::KnownRelease;
use casemate_measurements::manifest::{self, Manifest, ManifestError};

/// Why no manifest was read.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The directory is none.
    #[error("{} is no release: expected a directory with a {}", path.display(), manifest::FILE_NAME)]
    Directory {
        /// The path given.
        path: PathBuf,
    },
    /// The manifest cannot be read.
    #[error("cannot read {} as a manifest; a release has it beside its artifacts", path.display())]
    Read {
        /// The manifest's path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The manifest is refused.
    #[error("{} is refused; take the release from its publisher again", path.display())]
    Manifest {
        /// The manifest's path.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ManifestError>,
    },
}

/// Reads and checks the manifest of the release in `directory`.
///
/// # Errors
/// When `directory` is no directory, or its manifest cannot be read or is refused.
pub fn read(directory: &Path) -> Result<KnownRelease, ReleaseError> {
    let path = directory.join(manifest::FILE_NAME);
    KnownRelease::new(read_manifest(directory)?)
        .map_err(|source| ReleaseError::Manifest { path, source: source.into() })
}

/// Reads and checks the manifest of the release in `directory`.
///
/// # Errors
/// When `directory` is no directory, or its manifest cannot be read or is refused.
pub fn read_manifest(directory: &Path) -> Result<Manifest, ReleaseError> {
    if !directory.is_dir() {
        return Err(ReleaseError::Directory { path: directory.into() });
    }
    open_manifest(directory)
}

/// Path and bytes of the manifest that `path` is, or of the release that is directory `path`.
/// They are not checked.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn manifest_bytes(path: &Path) -> Result<(PathBuf, Vec<u8>), ReleaseError> {
    let path = if path.is_dir() { path.join(manifest::FILE_NAME) } else { path.to_owned() };
    match read_file(&path) {
        Ok(bytes) => Ok((path, bytes)),
        Err(source) => Err(ReleaseError::Read { path, source }),
    }
}

/// Reads and checks the manifest that `path` is, or of the release that is directory `path`.
///
/// # Errors
/// When there is none, it cannot be read or is refused.
pub fn open_manifest(path: &Path) -> Result<Manifest, ReleaseError> {
    let (path, bytes) = manifest_bytes(path)?;
    Manifest::from_bytes(&bytes)
        .map_err(|source| ReleaseError::Manifest { path, source: source.into() })
}

/// Reads a regular file, one byte further than a manifest may go.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(manifest::MAX_LEN + 1).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_failure_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(manifest::FILE_NAME);
        let shown = file.display().to_string();
        let error = read_manifest(&dir.path().join("absent")).unwrap_err();
        assert!(matches!(&error, ReleaseError::Directory { .. }), "{error}");

        let error = read_manifest(dir.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Read { .. }) && error.to_string().contains(&shown));
        assert!(matches!(read_manifest(&file), Err(ReleaseError::Directory { .. })));

        fs::write(&file, "{}").unwrap();
        let error = read_manifest(dir.path()).unwrap_err();
        assert!(matches!(&error, ReleaseError::Manifest { .. }), "{error}");
        assert!(error.to_string().contains(&shown), "{error}");

        fs::write(&file, vec![b' '; manifest::MAX_LEN + 100]).unwrap();
        let error = read_manifest(dir.path()).unwrap_err();
        let ReleaseError::Manifest { source, .. } = error else { panic!("{error}") };
        let ManifestError::TooLong { len } = *source else { panic!("{source}") };
        assert_eq!(len, manifest::MAX_LEN + 1);

        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(matches!(read_manifest(dir.path()), Err(ReleaseError::Read { .. })));
    }
}

//! The files of a release that are published: its manifest, and whatever signs it. Nothing else
//! of the directory is ever served.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{self, Manifest};

/// How names of Sigstore bundles end.
const BUNDLE: &str = ".sigstore.json";
/// The folder in which `casemate release sign` and `attest` put them.
const SIGNATURES: &str = "signatures";
/// Most bytes of a file beside the manifest.
const MAX_FILE: usize = 4 * 1024 * 1024;
/// Most files.
const MAX_FILES: usize = 64;

/// Why a file is not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("{} has more than {most} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How long it may be.
        most: usize,
    },
    /// The manifest is not the one that the VM was started from.
    #[error(
        "{} has SHA-256 {found}, expected {expected}: the release was replaced since the launch",
        path.display()
    )]
    Replaced {
        /// The manifest.
        path: PathBuf,
        /// Its hash.
        found: Box<Sha256Hash>,
        /// The hash at the launch.
        expected: Box<Sha256Hash>,
    },
    /// The manifest is refused.
    #[error("{} is no manifest of a release", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<manifest::ManifestError>,
    },
}

/// The bytes of the manifest that a VM was started from.
pub(crate) fn manifest_bytes(dir: &Path, expected: &Sha256Hash) -> Result<Vec<u8>, FileError> {
    let path = dir.join(manifest::FILE_NAME);
    let bytes = read(&path, manifest::MAX_LEN)?;
    let found = Sha256Hash::of(&bytes);
    if found == *expected {
        return Ok(bytes);
    }
    Err(FileError::Replaced { path, found: Box::new(found), expected: Box::new(*expected) })
}

/// The manifest that a VM was started from.
pub(crate) fn manifest(dir: &Path, expected: &Sha256Hash) -> Result<Manifest, FileError> {
    let bytes = manifest_bytes(dir, expected)?;
    Manifest::from_bytes(&bytes).map_err(|source| FileError::Manifest {
        path: dir.join(manifest::FILE_NAME),
        source: Box::new(source),
    })
}

/// The names of the published files, sorted; a name is a path below the release, of at most two
/// parts.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let files = |dir: &Path, keep: &dyn Fn(&str) -> bool| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(4 * MAX_FILES);
        let regular = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let names = regular.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| is_plain(name) && keep(name)).collect()
    };
    let mut all = files(dir, &|name| name == manifest::FILE_NAME || name.ends_with(BUNDLE));
    let signatures = files(&dir.join(SIGNATURES), &|name| name.ends_with(BUNDLE));
    all.extend(signatures.into_iter().map(|name| format!("{SIGNATURES}/{name}")));
    all.sort();
    all.truncate(MAX_FILES);
    all
}

/// A published file; `None` when there is none of that name.
pub(crate) fn file(
    dir: &Path,
    name: &str,
    manifest_sha256: &Sha256Hash,
) -> Result<Option<Vec<u8>>, FileError> {
    if !names(dir).iter().any(|known| known == name) {
        return Ok(None);
    }
    if name == manifest::FILE_NAME {
        return manifest_bytes(dir, manifest_sha256).map(Some);
    }
    read(&dir.join(name), MAX_FILE).map(Some)
}

/// A name that is the same in a path, in a URL and on a terminal.
fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

fn read(path: &Path, most: usize) -> Result<Vec<u8>, FileError> {
    let fail = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(fail)?;
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > most {
        return Err(FileError::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_manifest_and_its_signatures_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("signatures")).unwrap();
        for name in
            ["manifest.json", "release.sigstore.json", "root.img", "id.pem", ".x.sigstore.json"]
        {
            fs::write(at(name), name).unwrap();
        }
        fs::write(at("signatures/rebuilder.manifest.sigstore.json"), "signed").unwrap();
        fs::write(at("signatures/key.pem"), "secret").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link.sigstore.json")).unwrap();
        let signed = "signatures/rebuilder.manifest.sigstore.json";
        let expected = ["manifest.json", "release.sigstore.json", signed];
        assert_eq!(names(dir.path()), expected);
        let hash = Sha256Hash::of(b"manifest.json");
        let get = |name: &str| file(dir.path(), name, &hash).unwrap();
        assert_eq!(get("manifest.json").unwrap(), b"manifest.json");
        assert_eq!(get(signed).unwrap(), b"signed");
        for name in [
            "root.img",
            "../etc/passwd",
            "signatures/../root.img",
            "link.sigstore.json",
            "signatures/key.pem",
            "",
            "signatures/",
        ] {
            assert_eq!(get(name), None, "{name}");
        }
        let other = file(dir.path(), "manifest.json", &Sha256Hash::of(b"other"));
        assert!(matches!(other, Err(FileError::Replaced { .. })));
    }
}

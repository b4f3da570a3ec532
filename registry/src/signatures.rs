//! `signatures/` of a release directory: a file for each signer and thing signed, read with
//! bounds, written whole or not at all.
//!
//! `<signer>.manifest.sigstore.json` signs the manifest and with it every file of the release,
//! `<signer>.provenance.sigstore.json` says from what it was built. `<signer>` keeps signers apart
//! and proves nothing: who signed is in the bundle.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::attestation::MAX_BUNDLE_LEN;
use crate::sign::Signed;

/// Name of the folder in a release directory.
pub const FOLDER: &str = "signatures";
/// Most files that are read.
const MAX_FILES: usize = 128;
/// What their names end in.
const SUFFIX: &str = ".sigstore.json";

/// What a bundle signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The manifest.
    Manifest,
    /// From what the release was built.
    Provenance,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Provenance => "provenance",
        }
    }
}

/// Why signatures cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The folder or a file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are too many.
    #[error("{} has more than {MAX_FILES} signatures: remove those that nobody needs", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("cannot write {}; what was there is unchanged", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the bundles of a kind, sorted by name: names and bytes, as they are. Of one that is too
/// long, one byte more than is allowed.
///
/// # Errors
/// When the folder or a file cannot be read. A release without signatures has none.
pub fn read(release: &Path, kind: Kind) -> Result<Vec<(String, Vec<u8>)>, FilesError> {
    let folder = release.join(FOLDER);
    let fail = |path: &Path, source| FilesError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(fail(&folder, source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|source| fail(&folder, source))?.file_name();
        let Some(name) = name.to_str() else { continue };
        if signer(name, kind).is_some() {
            names.push(name.to_owned());
        }
        if names.len() > MAX_FILES {
            return Err(FilesError::TooMany { path: folder });
        }
    }
    names.sort();
    let bundle = |name: String| {
        let path = folder.join(&name);
        match read_file(&path) {
            Ok(bytes) => Ok((format!("{FOLDER}/{name}"), bytes)),
            Err(source) => Err(fail(&path, source)),
        }
    };
    names.into_iter().map(bundle).collect()
}

/// What stands for the signer in the name of a file of this kind.
fn signer(name: &str, kind: Kind) -> Option<&str> {
    let signer = name.strip_suffix(SUFFIX)?.strip_suffix(kind.name())?.strip_suffix('.')?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (!signer.is_empty() && signer.len() <= 64 && signer.bytes().all(plain)).then_some(signer)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BUNDLE_LEN as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a bundle into the release's folder of signatures; a signer's older one is replaced.
/// Returns its path.
///
/// # Errors
/// When it cannot be written.
pub fn write(release: &Path, kind: Kind, signed: &Signed) -> Result<PathBuf, FilesError> {
    let folder = release.join(FOLDER);
    let path = folder.join(format!("{}.{}{SUFFIX}", signed.signer, kind.name()));
    let made = DirBuilder::new().recursive(true).mode(0o755).create(&folder);
    let written = made.and_then(|()| replace(&path, &signed.bundle));
    written.map_err(|source| FilesError::Write { path: path.clone(), source })?;
    Ok(path)
}

/// Puts `bytes` where `path` is: after a crash the old file or the new one is there, whole.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new().prefix(".casemate.").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_kinds_are_not_read() {
        let name = "0123456789abcdef.manifest.sigstore.json";
        assert_eq!(signer(name, Kind::Manifest), Some("0123456789abcdef"));
        assert_eq!(signer(name, Kind::Provenance), None);
        for other in [
            ".manifest.sigstore.json",
            "a/b.manifest.sigstore.json",
            "A.manifest.sigstore.json",
            ".casemate.x.manifest.sigstore.json",
            "a.manifest.sigstore.json.tmp",
            "amanifest.sigstore.json",
        ] {
            assert_eq!(signer(other, Kind::Manifest), None, "{other}");
        }
    }

    #[test]
    fn a_signer_replaces_only_himself() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), Kind::Manifest).unwrap(), []);
        let signed = |signer: &str, bundle: &[u8]| Signed {
            bundle: bundle.to_vec(),
            signer: signer.to_owned(),
            who: String::new(),
        };
        for (signer, bundle) in [("b", b"1"), ("a", b"2"), ("b", b"3")] {
            write(dir.path(), Kind::Manifest, &signed(signer, bundle)).unwrap();
        }
        write(dir.path(), Kind::Provenance, &signed("a", b"4")).unwrap();
        let found = read(dir.path(), Kind::Manifest).unwrap();
        let name = |signer: &str| format!("signatures/{signer}.manifest.sigstore.json");
        assert_eq!(found, [(name("a"), b"2".to_vec()), (name("b"), b"3".to_vec())]);
        let long = signed("c", &vec![b' '; MAX_BUNDLE_LEN + 9]);
        write(dir.path(), Kind::Manifest, &long).unwrap();
        assert_eq!(read(dir.path(), Kind::Manifest).unwrap()[2].1.len(), MAX_BUNDLE_LEN + 1);
        for number in 0..MAX_FILES {
            let path = dir.path().join(format!("{FOLDER}/x{number}.provenance{SUFFIX}"));
            fs::write(path, "").unwrap();
        }
        let error = read(dir.path(), Kind::Provenance).unwrap_err();
        assert!(matches!(error, FilesError::TooMany { .. }), "{error}");
    }
}

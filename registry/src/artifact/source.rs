//! What of a release directory is published: what its manifest names, the manifest, ID blocks, and
//! signature files. Nothing else leaves the machine by accident.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::id_block::release::FILE_NAME as ID_BLOCKS;
use casemate_measurements::manifest::{self, Manifest, ManifestError};
use casemate_measurements::platform::Platform;

use super::descriptor::{Kind, is_path};

/// The folder of signature files.
const SIGNATURES: &str = "signatures";
/// What Sigstore bundles are called.
const BUNDLE: &str = ".sigstore.json";
/// Most bytes of a signature file.
pub const MAX_SIGNATURE: u64 = 4 * 1024 * 1024;
/// Most signature files.
pub const MAX_SIGNATURES: usize = 256;
/// Most bytes of all that is read of the signatures of one release: the files, and the manifests
/// that name them.
pub const MAX_SIGNATURES_LEN: u64 = 64 * 1024 * 1024;

/// Why a directory cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It has no manifest, so it is no release.
    #[error("{} is no release directory: it has no {}", path.display(), manifest::FILE_NAME)]
    NotARelease {
        /// The directory.
        path: PathBuf,
    },
    /// Something cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is refused.
    #[error("{} is no manifest of a release", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ManifestError>,
    },
    /// A signature file is too long to be one.
    #[error("{} has {size} bytes: no signature file has more than {MAX_SIGNATURE}", path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// Its length.
        size: u64,
    },
    /// There are too many signature files, or they are too long together.
    #[error(
        "{} has more than {MAX_SIGNATURES} signature files, or more than {} MiB of them",
        path.display(),
        MAX_SIGNATURES_LEN >> 20
    )]
    Many {
        /// The directory.
        path: PathBuf,
    },
}

/// A file to publish.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Where it lies.
    pub file: PathBuf,
    /// The hash that it must have, where that is known.
    pub expected: Option<Sha256Hash>,
}

/// An artifact that is still plain files.
#[derive(Debug, Clone)]
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The platform that a release is for.
    pub platform: Option<Platform>,
    /// Its files by their path in the artifact.
    pub files: BTreeMap<String, SourceFile>,
    /// Signature files by path.
    pub signatures: BTreeMap<String, Vec<u8>>,
    /// What lies beside them and is not published.
    pub left_out: Vec<String>,
}

impl Source {
    /// The release in `dir`. Its artifacts are held to its manifest when they are published.
    ///
    /// # Errors
    /// When `dir` is no release, or something cannot be read.
    pub fn of_release(dir: &Path) -> Result<Self, SourceError> {
        let path = dir.join(manifest::FILE_NAME);
        let bytes = match read(&path, manifest::MAX_LEN as u64) {
            Err(SourceError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(SourceError::NotARelease { path: dir.to_owned() });
            }
            other => other?,
        };
        let manifest = Manifest::from_bytes(&bytes)
            .map_err(|source| SourceError::Manifest { path, source: Box::new(source) })?;
        let mut files = BTreeMap::new();
        let mut add = |name: &str, expected| {
            files.insert(name.to_owned(), SourceFile { file: dir.join(name), expected });
        };
        for (name, artifact) in &manifest.artifacts {
            add(name, Some(artifact.sha256));
        }
        add(manifest::FILE_NAME, Some(Sha256Hash::of(&bytes)));
        if dir.join(ID_BLOCKS).is_file() {
            add(ID_BLOCKS, None);
        }
        let (mut signatures, mut left_out) = (BTreeMap::new(), Vec::new());
        for name in names(dir)? {
            if is_signature(&name) {
                signatures.insert(name.clone(), signature(&dir.join(&name))?);
            } else if name == SIGNATURES {
                for inner in names(&dir.join(&name))? {
                    let path = format!("{SIGNATURES}/{inner}");
                    if is_signature(&path) {
                        signatures.insert(path.clone(), signature(&dir.join(&path))?);
                    } else {
                        left_out.push(path);
                    }
                }
            } else if !files.contains_key(&name) {
                left_out.push(name);
            }
        }
        // Each is named by a manifest of a few hundred bytes, which readers count too.
        let len: u64 = signatures.values().map(|bytes| bytes.len() as u64 + 4096).sum();
        if signatures.len() > MAX_SIGNATURES || len > MAX_SIGNATURES_LEN {
            return Err(SourceError::Many { path: dir.to_owned() });
        }
        let release = manifest.release;
        Ok(Self {
            kind: Kind::Release,
            name: release.name,
            version: release.version,
            platform: Some(release.platform),
            files,
            signatures,
            left_out,
        })
    }
}

/// Whether a file of a release directory is one of its signatures.
#[must_use]
pub fn is_signature(path: &str) -> bool {
    let inner = path.strip_prefix(SIGNATURES).and_then(|rest| rest.strip_prefix('/'));
    let bundle = !path.contains('/') && path.len() > BUNDLE.len() && path.ends_with(BUNDLE);
    is_path(path) && (bundle || inner.is_some_and(|name| !name.contains('/')))
}

fn names(dir: &Path) -> Result<Vec<String>, SourceError> {
    let fail = |source| SourceError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn signature(path: &Path) -> Result<Vec<u8>, SourceError> {
    let bytes = read(path, MAX_SIGNATURE)?;
    if bytes.len() as u64 > MAX_SIGNATURE {
        let (path, size) = (path.to_owned(), bytes.len() as u64);
        return Err(SourceError::Long { path, size });
    }
    Ok(bytes)
}

/// Reads at most one byte more than `most`, so that what is too long is seen to be.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, SourceError> {
    use std::io::Read as _;
    let fail = |source| SourceError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

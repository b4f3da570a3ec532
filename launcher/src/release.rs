//! Whether a release directory is what its manifest says: every file by length and SHA-256, and
//! the law of its digests against the very firmware, kernel, initrd and command line.
//!
//! For whoever launches. It does not decide whether the manifest is the right one: that is its
//! signature's matter.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_measurements::firmware::{Firmware, FirmwareError};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::id_block::release::{self as id_blocks, IdBlocks, IdBlocksError};
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError, require_bzimage};
use casemate_measurements::law::{Law, LawError};
use casemate_measurements::manifest::{self, Artifact, Manifest, ManifestError, artifact};
use sha2::{Digest as _, Sha256};

const BUFFER_LEN: usize = 256 * 1024;

/// Why a release directory is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A file cannot be read.
    #[error("cannot read {} of the release", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is refused.
    #[error("{} is no manifest of a release", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<ManifestError>,
    },
    /// An artifact is not a regular file.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
    /// An artifact has another length than the manifest says.
    #[error("{} has {found} bytes, expected {expected} by the manifest", path.display())]
    Size {
        /// Which file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The manifest's length.
        expected: u64,
    },
    /// An artifact has other bytes than the manifest says.
    #[error(
        "{} has SHA-256 {found}, expected {expected} by the manifest: the file was changed or \
         damaged after the build; fetch or build the release again",
        path.display()
    )]
    Hash {
        /// Which file.
        path: PathBuf,
        /// Its hash.
        found: Sha256Hash,
        /// The manifest's hash.
        expected: Sha256Hash,
    },
    /// The firmware cannot be measured.
    #[error("{} cannot be measured", path.display())]
    Firmware {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: FirmwareError,
    },
    /// The kernel cannot be measured.
    #[error("{} cannot be measured", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: KernelHashesError,
    },
    /// Firmware and kernel cannot be measured together.
    #[error("{} and the kernel cannot be measured together", path.display())]
    Measure {
        /// The firmware.
        path: PathBuf,
        /// Why.
        source: LawError,
    },
    /// The ID blocks are malformed.
    #[error("{} is refused", path.display())]
    IdBlocks {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<IdBlocksError>,
    },
    /// The manifest's law is not the one of these files.
    #[error(
        "the law in {} is not the one of the release's own firmware, kernel, initrd and command \
         line: its launch digests would be of something else",
        path.display()
    )]
    Law {
        /// The manifest.
        path: PathBuf,
    },
}

/// A release directory that was held to its manifest.
#[derive(Debug, Clone)]
pub struct Release {
    dir: PathBuf,
    manifest: Manifest,
    manifest_sha256: Sha256Hash,
    id_blocks: Option<IdBlocks>,
}

impl Release {
    /// Reads the manifest and holds every artifact to it. Files are read as streams: a release
    /// of any size takes little memory.
    ///
    /// # Errors
    /// When the manifest is refused, or a file is missing or has other bytes than it says.
    pub fn open(dir: &Path) -> Result<Self, ReleaseError> {
        let dir = std::path::absolute(dir)
            .map_err(|source| ReleaseError::Read { path: dir.to_owned(), source })?;
        let path = dir.join(manifest::FILE_NAME);
        let bytes = read(&path, manifest::MAX_LEN)?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|source| ReleaseError::Manifest {
            path: path.clone(),
            source: Box::new(source),
        })?;
        for (name, artifact) in &manifest.artifacts {
            check_artifact(&dir.join(name), artifact)?;
        }
        let id_blocks = read_id_blocks(&dir)?;
        let manifest_sha256 = Sha256Hash::of(&bytes);
        let release = Self { dir, manifest, manifest_sha256, id_blocks };
        if release.measure()? != release.manifest.law {
            return Err(ReleaseError::Law { path });
        }
        Ok(release)
    }

    /// The law of the files as they are.
    fn measure(&self) -> Result<Law, ReleaseError> {
        let path = self.path(artifact::FIRMWARE);
        let bytes = read(&path, casemate_measurements::firmware::MAX_LEN)?;
        let firmware = Firmware::parse(&bytes)
            .map_err(|source| ReleaseError::Firmware { path: path.clone(), source })?;
        let kernel = self.path(artifact::KERNEL);
        require_bzimage(&head(&kernel)?)
            .map_err(|source| ReleaseError::Kernel { path: kernel, source })?;
        let sha256 = |name: &str| self.manifest.artifacts[name].sha256;
        let hashes = KernelHashes::from_digests(
            sha256(artifact::KERNEL),
            sha256(artifact::INITRD),
            self.manifest.boot.cmdline.as_bytes(),
        );
        Law::new(&firmware, &hashes).map_err(|source| ReleaseError::Measure { path, source })
    }

    /// Where the release lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of manifest.json.
    #[must_use]
    pub fn manifest_sha256(&self) -> &Sha256Hash {
        &self.manifest_sha256
    }

    /// Its ID blocks, as they were read: a launch holds them to the manifest.
    #[must_use]
    pub fn id_blocks(&self) -> Option<&IdBlocks> {
        self.id_blocks.as_ref()
    }

    /// The path of an artifact.
    #[must_use]
    pub fn path(&self, artifact: &str) -> PathBuf {
        self.dir.join(artifact)
    }
}

/// The ID blocks of the release, where it was signed.
fn read_id_blocks(dir: &Path) -> Result<Option<IdBlocks>, ReleaseError> {
    let path = dir.join(id_blocks::FILE_NAME);
    let bytes = match read(&path, id_blocks::MAX_LEN) {
        Ok(bytes) => bytes,
        Err(ReleaseError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    IdBlocks::from_bytes(&bytes)
        .map(Some)
        .map_err(|source| ReleaseError::IdBlocks { path, source: Box::new(source) })
}

/// Reads at most one byte more than `most`, so that what is too long is seen to be.
fn read(path: &Path, most: usize) -> Result<Vec<u8>, ReleaseError> {
    let fail = |source| ReleaseError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// The first kilobyte of a file.
fn head(path: &Path) -> Result<Vec<u8>, ReleaseError> {
    read(path, 1023)
}

fn check_artifact(path: &Path, expected: &Artifact) -> Result<(), ReleaseError> {
    let fail = |source| ReleaseError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(ReleaseError::NotAFile { path: path.to_owned() });
    }
    if metadata.len() != expected.size {
        let (found, expected) = (metadata.len(), expected.size);
        return Err(ReleaseError::Size { path: path.to_owned(), found, expected });
    }
    let found = hash(&mut file).map_err(fail)?;
    if found != expected.sha256 {
        let expected = expected.sha256;
        return Err(ReleaseError::Hash { path: path.to_owned(), found, expected });
    }
    Ok(())
}

/// SHA-256 of all that a reader gives.
pub(crate) fn hash(reader: &mut impl Read) -> io::Result<Sha256Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(Sha256Hash::from_bytes(hasher.finalize().into())),
            Ok(len) => hasher.update(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

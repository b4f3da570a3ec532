//! A release directory, signed and verified.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{self, Manifest, ManifestError, artifact};
use sha2::{Digest as _, Sha256};

use crate::attestation::{
    PROVENANCE_PREDICATE, ProvenanceError, Statement, StatementError, build_definition, provenance,
};
use crate::sign::{SignError, Signer};
use crate::signatures::{self, FilesError, Kind};
use crate::verify::{self, Expected, Identity, Judgement, Policy, Predicate, Provenance};

/// Most bytes of a bill of materials.
const MAX_SBOM_LEN: u64 = 64 * 1024 * 1024;

/// Why a release cannot be signed or judged.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A file of it cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its manifest is refused.
    #[error("{} is refused", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: Box<ManifestError>,
    },
    /// A file is not what the manifest says.
    #[error(
        "{} has {found_size} bytes with SHA-256 {found}, expected {expected_size} bytes with \
         {expected} by the manifest: take the release from its publisher again",
        path.display()
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Its hash.
        found: Sha256Hash,
        /// Its length.
        found_size: u64,
        /// The manifest's hash.
        expected: Sha256Hash,
        /// The manifest's length.
        expected_size: u64,
    },
    /// Its signatures cannot be read or written.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A statement cannot be made.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Its provenance cannot be stated.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),
    /// Nothing was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// How much of a release is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The manifest and the signatures: what verifying a VM needs. The other files need not be
    /// there, and provenance is not judged.
    Manifest,
    /// Every file is hashed.
    Files,
}

/// A release directory whose manifest was read.
#[derive(Debug)]
pub struct Release {
    dir: PathBuf,
    manifest: Manifest,
    bytes: Vec<u8>,
}

/// Whether a release is signed by enough.
#[derive(Debug)]
pub struct Verified {
    /// SHA-256 of manifest.json.
    pub manifest_sha256: Sha256Hash,
    /// Who signed the manifest.
    pub manifest: Judgement,
    /// Who said from what it was built; `None` where only the manifest was looked at.
    pub provenance: Option<Judgement>,
}

impl Verified {
    /// Whether enough signed.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.manifest.is_trusted()
    }
}

impl Release {
    /// Reads the manifest of the release in `dir` and holds it to itself.
    ///
    /// # Errors
    /// When it cannot be read or is refused.
    pub fn open(dir: &Path) -> Result<Self, ReleaseError> {
        let path = dir.join(manifest::FILE_NAME);
        let bytes = read(&path, manifest::MAX_LEN as u64)?;
        let manifest = Manifest::from_bytes(&bytes)
            .map_err(|source| ReleaseError::Manifest { path, source: source.into() })?;
        Ok(Self { dir: dir.to_owned(), manifest, bytes })
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of manifest.json.
    #[must_use]
    pub fn manifest_sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.bytes)
    }

    /// The bill of materials.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn sbom(&self) -> Result<Vec<u8>, ReleaseError> {
        read(&self.dir.join(artifact::SBOM), MAX_SBOM_LEN)
    }

    /// Holds every file to the manifest.
    ///
    /// # Errors
    /// When one cannot be read or has other bytes.
    pub fn check_files(&self) -> Result<(), ReleaseError> {
        for (name, expected) in &self.manifest.artifacts {
            let path = self.dir.join(name);
            let fail = |source| ReleaseError::Read { path: path.clone(), source };
            let (found_size, found) = File::open(&path).and_then(hash).map_err(fail)?;
            if (found_size, found) != (expected.size, expected.sha256) {
                return Err(ReleaseError::File {
                    path,
                    found,
                    found_size,
                    expected: expected.sha256,
                    expected_size: expected.size,
                });
            }
        }
        Ok(())
    }

    /// Signs the release: its manifest, and from what `builder` (a URI) built it. Every file is
    /// held to the manifest first. Returns the files written and who signed.
    ///
    /// # Errors
    /// When a file is not the manifest's, or nothing can be signed.
    pub fn sign(
        &self,
        signer: &Signer,
        builder: &str,
    ) -> Result<(Vec<PathBuf>, String), ReleaseError> {
        self.check_files()?;
        let about = Statement::of_manifest(&self.manifest)?;
        let origin = provenance(&self.manifest, &self.sbom()?, builder)?;
        // Both are signed before one is written.
        let (about, origin) = (signer.sign(&about)?, signer.sign(&origin)?);
        let who = about.who.clone();
        let written = [(Kind::Provenance, origin), (Kind::Manifest, about)]
            .map(|(kind, signed)| signatures::write(&self.dir, kind, &signed));
        Ok((written.into_iter().collect::<Result<_, _>>()?, who))
    }

    /// Judges the signatures of the release.
    ///
    /// # Errors
    /// When a file cannot be read or is not the manifest's. Signatures that prove nothing are no
    /// error: they do not count.
    pub fn verify(&self, policy: &Policy, depth: Depth) -> Result<Verified, ReleaseError> {
        let bundles = signatures::read(&self.dir, Kind::Manifest)?;
        let (origin, counted) = match depth {
            Depth::Manifest => (None, None),
            Depth::Files => {
                self.check_files()?;
                let definition = build_definition(&self.manifest, &self.sbom()?)?;
                let origin = Expected {
                    predicate_type: PROVENANCE_PREDICATE,
                    subjects: &verify::subjects(&self.manifest, &self.bytes),
                    predicate: &Definition(definition),
                };
                let found = signatures::read(&self.dir, Kind::Provenance)?;
                let origin = verify::judge(&found, &origin, policy, None);
                let stated =
                    origin.bundles.iter().filter_map(|judged| judged.outcome.as_ref().ok());
                let stated: BTreeSet<Identity> =
                    stated.map(|proof| proof.identity.clone()).collect();
                let required = policy.provenance() == Provenance::Required;
                (Some(origin), required.then_some(stated))
            }
        };
        let (manifest, bytes) = (&self.manifest, &self.bytes);
        Ok(Verified {
            manifest_sha256: self.manifest_sha256(),
            manifest: verify::judge_manifest(manifest, bytes, &bundles, policy, counted.as_ref()),
            provenance: origin,
        })
    }
}

/// The provenance's build definition is the one that manifest and bill of materials give.
#[derive(Debug)]
struct Definition(serde_json::Value);

impl Predicate for Definition {
    fn check(&self, statement: &Statement) -> Result<(), StatementError> {
        if statement.predicate().get("buildDefinition") == Some(&self.0) {
            return Ok(());
        }
        Err(StatementError::Definition)
    }
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, ReleaseError> {
    let mut bytes = Vec::new();
    // One byte more than is allowed tells what is too long from what just fits.
    let read = File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(ReleaseError::Read { path: path.to_owned(), source }),
    }
}

fn hash(mut file: impl Read) -> io::Result<(u64, Sha256Hash)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, Sha256Hash::from_bytes(hasher.finalize().into())));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

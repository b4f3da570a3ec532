//! What a page says of a release, read from its directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Manifest, artifact};
use serde_json::Value;

use super::changes::Packages;
use crate::artifact::source::{Source, SourceError};
use crate::release::{Depth, ReleaseError};
use crate::signatures::{self, Kind};
use crate::verify::{Judgement, Policy};

/// Most bytes of a bill of materials.
const MAX_SBOM: u64 = 64 * 1024 * 1024;
/// Most characters of a text that a signature file says of itself.
const MAX_TEXT: usize = 200;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// A release cannot be read.
    #[error(transparent)]
    Release(#[from] SourceError),
    /// Its signatures cannot be judged.
    #[error(transparent)]
    Signatures(#[from] ReleaseError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bill of materials is another than the manifest says, or none.
    #[error("{} is not the bill of materials of its release: {reason}", path.display())]
    Sbom {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A page cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a signature file says of itself; nothing of it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureFile {
    /// Its path in the release directory.
    pub path: String,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
    /// The type of what it signs.
    pub predicate: String,
    /// A hint at the key, or that there is a certificate.
    pub signer: String,
}

/// A release as a page shows it.
#[derive(Debug)]
pub struct Release {
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's bytes.
    pub(super) manifest_bytes: Vec<u8>,
    /// The manifest's SHA-256.
    pub manifest_sha256: Sha256Hash,
    /// Who of those whom a policy names signed it; `None` without a policy.
    pub(super) judgement: Option<Judgement>,
    /// Signature files, by path.
    pub signatures: Vec<SignatureFile>,
    /// Those of them that sign the manifest, by path.
    pub(super) bundles: BTreeMap<String, Vec<u8>>,
    /// Versions by package.
    pub(super) packages: Packages,
}

impl Release {
    /// Reads the release in `dir`: manifest, bill of materials and signature files, which are judged
    /// by `policy`. The other files are not opened.
    ///
    /// # Errors
    /// When one of them cannot be read or is malformed.
    pub fn read(dir: &Path, policy: Option<&Policy>) -> Result<Self, PageError> {
        let source = Source::of_release(dir)?;
        let path = dir.join(casemate_measurements::manifest::FILE_NAME);
        let bytes = read(&path, casemate_measurements::manifest::MAX_LEN as u64)?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|error| {
            PageError::Release(SourceError::Manifest { path, source: Box::new(error) })
        })?;
        let path = dir.join(artifact::SBOM);
        let sbom = read(&path, MAX_SBOM)?;
        let expected = manifest.artifacts.get(artifact::SBOM).map(|file| file.sha256);
        let wrong =
            |reason: &str| PageError::Sbom { path: path.clone(), reason: reason.to_owned() };
        if expected != Some(Sha256Hash::of(&sbom)) {
            return Err(wrong("its hash is not the one in the manifest"));
        }
        let sbom: Value = serde_json::from_slice(&sbom).map_err(|_| wrong("it is no JSON"))?;
        let judgement = match policy {
            None => None,
            Some(policy) => {
                let release = crate::release::Release::open(dir)?;
                Some(release.verify(policy, Depth::Manifest)?.manifest)
            }
        };
        let signatures = source.signatures.iter();
        // Those that count, and no others that lie about.
        let bundles = signatures::read(dir, Kind::Manifest).map_err(ReleaseError::from)?;
        Ok(Self {
            manifest_sha256: Sha256Hash::of(&bytes),
            manifest_bytes: bytes,
            manifest,
            judgement,
            bundles: bundles.into_iter().collect(),
            signatures: signatures.map(|(path, bytes)| signature(path, bytes)).collect(),
            packages: packages(&sbom),
        })
    }
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, PageError> {
    let fail = |source| PageError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

fn packages(sbom: &Value) -> Packages {
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for component in sbom["components"].as_array().into_iter().flatten() {
        let text = |field: &str| component[field].as_str().unwrap_or_default().to_owned();
        // `pkg:deb/…` and `pkg:cargo/…` may have the same name.
        let kind = text("purl")
            .strip_prefix("pkg:")
            .and_then(|purl| purl.split_once('/').map(|(kind, _)| kind.to_owned()));
        let name = match kind {
            Some(kind) => format!("{} ({kind})", text("name")),
            None => text("name"),
        };
        packages.entry(name).or_default().push(text("version"));
    }
    for versions in packages.values_mut() {
        versions.sort();
    }
    packages
}

fn signature(path: &str, bytes: &[u8]) -> SignatureFile {
    let bundle: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let payload = bundle["dsseEnvelope"]["payload"].as_str();
    let payload = payload.and_then(|text| STANDARD.decode(text).ok());
    let statement: Value =
        payload.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let short = |value: &Value| -> Option<String> {
        value.as_str().map(|text| text.chars().take(MAX_TEXT).collect())
    };
    let material = &bundle["verificationMaterial"];
    let certificate = material["certificate"]["rawBytes"]
        .as_str()
        .or_else(|| material["x509CertificateChain"]["certificates"][0]["rawBytes"].as_str())
        .and_then(|text| STANDARD.decode(text).ok())
        .map(|der| format!("certificate with SHA-256 {}", Sha256Hash::of(&der)));
    let key = short(&material["publicKey"]["hint"]).map(|hint| format!("key {hint}"));
    SignatureFile {
        path: path.to_owned(),
        sha256: Sha256Hash::of(bytes),
        predicate: short(&statement["predicateType"]).unwrap_or_else(|| "not told".to_owned()),
        signer: certificate.or(key).unwrap_or_else(|| "not told".to_owned()),
    }
}

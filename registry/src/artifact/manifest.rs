//! OCI manifests: how an artifact looks to registries and to their other clients.
//!
//! The config of an artifact's manifest is its descriptor, its layers are the chunks. A file of one
//! chunk carries its path as title, so that `oras pull` writes it; the chunks of a longer one are
//! titled `PATH.chunks/OFFSET`. The bytes follow from the descriptor, so that one artifact has one
//! digest in every store. A signature's manifest names the artifact's as its subject.

use std::collections::BTreeMap;

use casemate_measurements::canonical;
use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use super::blob::{Blob, MAX_BLOB};
use super::descriptor::{self, Chunk, Descriptor, Kind};

/// Most bytes of a manifest: what registries take.
pub const MAX_LEN: usize = 4 * 1024 * 1024;
/// Media type of manifests.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of lists of manifests.
pub const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of descriptors.
pub const DESCRIPTOR_TYPE: &str = "application/vnd.casemate.descriptor.v1+json";
/// Media type of files.
pub const FILE_TYPE: &str = "application/vnd.casemate.file.v1";
/// Media type of chunks of files.
pub const CHUNK_TYPE: &str = "application/vnd.casemate.chunk.v1";
/// Media type of Sigstore bundles, and artifact type of the manifests that carry one.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The same for signatures of other forms.
pub const SIGNATURE_TYPE: &str = "application/vnd.casemate.signature.v1";
/// Artifact type of signed indexes, and media type of the file.
pub const INDEX_ARTIFACT_TYPE: &str = "application/vnd.casemate.index.v1";
/// Media type of the config of a manifest that has none.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The config of a manifest that has none.
pub const EMPTY: &[u8] = b"{}";
/// The path of the file of a signed index.
const INDEX_TITLE: &str = "index.json";
/// The annotation that holds a file's path.
const TITLE: &str = "org.opencontainers.image.title";

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not JSON of the expected shape.
    #[error("not an OCI manifest")]
    Malformed(#[from] serde_json::Error),
    /// It could not be written.
    #[error("the manifest could not be written")]
    Write(#[from] canonical::CanonicalError),
    /// It is too long for registries.
    #[error(
        "the manifest has {len} bytes, registries take {MAX_LEN}: the artifact has too many chunks"
    )]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It is of something else.
    #[error(
        "the manifest is of {found:?}, expected one of casemate, whose config is {DESCRIPTOR_TYPE}"
    )]
    OtherArtifact {
        /// The config's media type.
        found: String,
    },
    /// It is of no signed index.
    #[error(
        "the manifest is of {found:?} with {layers} layers, expected {INDEX_ARTIFACT_TYPE} with \
         one: a signed index, as `casemate release publish INDEX.json` publishes it"
    )]
    NoIndex {
        /// The artifact type, or else the config's media type.
        found: String,
        /// How many layers.
        layers: usize,
    },
    /// It names a blob in no way that is supported, or one that is too long.
    #[error(
        "the manifest names {digest:?} of {size} bytes: expected sha256 and at most {most} bytes"
    )]
    Blob {
        /// What it is named by, shortened.
        digest: String,
        /// Its length.
        size: u64,
        /// The most bytes.
        most: u64,
    },
}

/// An OCI descriptor: something by its digest. What others wrote into it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its media type.
    pub media_type: String,
    /// Its digest, `sha256:` and hex.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// What kind of artifact a manifest is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What other programs say of it.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

impl Entry {
    /// Names a blob.
    #[must_use]
    pub fn new(media_type: &str, blob: Blob) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: format!("sha256:{}", blob.sha256),
            size: blob.size,
            artifact_type: None,
            annotations: BTreeMap::new(),
            rest: serde_json::Map::new(),
        }
    }

    fn titled(media_type: &str, blob: Blob, title: String) -> Self {
        let annotations = BTreeMap::from([(TITLE.to_owned(), title)]);
        Self { annotations, ..Self::new(media_type, blob) }
    }

    /// Its SHA-256, if that is what it is named by.
    #[must_use]
    pub fn sha256(&self) -> Option<Sha256Hash> {
        self.digest.strip_prefix("sha256:")?.parse().ok()
    }

    /// Whether a manifest that it names may carry a signature, by the kind that it states.
    #[must_use]
    pub fn may_be_signature(&self) -> bool {
        let kind = self.artifact_type.as_deref();
        kind.is_none_or(|kind| kind == BUNDLE_TYPE || kind == SIGNATURE_TYPE)
    }

    /// The path that it says it has.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.annotations.get(TITLE).map(String::as_str)
    }

    /// The blob that it names.
    ///
    /// # Errors
    /// When it is named by another hash, or longer than `most`.
    pub fn blob(&self, most: u64) -> Result<Blob, ManifestError> {
        match self.sha256() {
            Some(sha256) if self.size <= most => Ok(Blob { sha256, size: self.size }),
            _ => {
                let digest = self.digest.chars().take(80).collect();
                Err(ManifestError::Blob { digest, size: self.size, most })
            }
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Entry,
    layers: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Entry>,
}

/// A manifest as it is stored, with its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBytes {
    bytes: Vec<u8>,
    sha256: Sha256Hash,
}

impl ManifestBytes {
    /// Takes the bytes of one.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let sha256 = Sha256Hash::of(&bytes);
        Self { bytes, sha256 }
    }

    fn of(wire: &Wire) -> Result<Self, ManifestError> {
        let bytes = canonical::to_vec(wire)?;
        if bytes.len() > MAX_LEN {
            return Err(ManifestError::TooLong { len: bytes.len() });
        }
        Ok(Self::new(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Their SHA-256: the digest that references pin.
    #[must_use]
    pub fn sha256(&self) -> &Sha256Hash {
        &self.sha256
    }

    /// How lists name it.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let blob = Blob { sha256: self.sha256, size: self.bytes.len() as u64 };
        let artifact_type =
            serde_json::from_slice::<Wire>(&self.bytes).ok().and_then(|wire| wire.artifact_type);
        Entry { artifact_type, ..Entry::new(MANIFEST_TYPE, blob) }
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(&self) -> Result<Manifest, ManifestError> {
        if self.bytes.len() > MAX_LEN {
            return Err(ManifestError::TooLong { len: self.bytes.len() });
        }
        Ok(Manifest(serde_json::from_slice(&self.bytes)?))
    }
}

/// A manifest that was read.
#[derive(Debug, Clone)]
pub struct Manifest(Wire);

impl Manifest {
    /// The manifest of the artifact that `descriptor` describes, whose bytes are `blob`.
    ///
    /// # Errors
    /// When it would be too long for registries.
    pub fn of_artifact(
        descriptor: &Descriptor,
        blob: Blob,
    ) -> Result<ManifestBytes, ManifestError> {
        let mut layers = Vec::new();
        for (path, file) in descriptor.files() {
            for (offset, chunk) in file.chunks() {
                match chunk {
                    Chunk::Stored(blob) if file.is_whole() => {
                        layers.push(Entry::titled(FILE_TYPE, blob, path.clone()));
                    }
                    Chunk::Stored(blob) => {
                        let title = format!("{path}.chunks/{offset:012x}");
                        layers.push(Entry::titled(CHUNK_TYPE, blob, title));
                    }
                    Chunk::Zeros(_) => {}
                }
            }
        }
        ManifestBytes::of(&Wire {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: Some(artifact_type(descriptor.kind()).to_owned()),
            config: Entry::new(DESCRIPTOR_TYPE, blob),
            layers,
            subject: None,
        })
    }

    /// The manifest of a signature file of the artifact `subject`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of_signature(
        path: &str,
        blob: Blob,
        subject: &Entry,
    ) -> Result<ManifestBytes, ManifestError> {
        let is_bundle = path.ends_with(".sigstore.json");
        let kind = if is_bundle { BUNDLE_TYPE } else { SIGNATURE_TYPE };
        ManifestBytes::of(&Wire {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: Some(kind.to_owned()),
            config: Entry::new(EMPTY_TYPE, Blob::of(EMPTY)),
            layers: vec![Entry::titled(kind, blob, path.to_owned())],
            subject: Some(Entry { artifact_type: None, ..subject.clone() }),
        })
    }

    /// The manifest of the signed index whose file is `blob`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of_index(blob: Blob) -> Result<ManifestBytes, ManifestError> {
        ManifestBytes::of(&Wire {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            artifact_type: Some(INDEX_ARTIFACT_TYPE.to_owned()),
            config: Entry::new(EMPTY_TYPE, Blob::of(EMPTY)),
            layers: vec![Entry::titled(INDEX_ARTIFACT_TYPE, blob, INDEX_TITLE.to_owned())],
            subject: None,
        })
    }

    /// The blob of the signed index, of at most `most` bytes.
    ///
    /// # Errors
    /// When it is the manifest of something else, or the index is longer.
    pub fn index(&self, most: u64) -> Result<Blob, ManifestError> {
        match (self.kind(), &self.0.layers[..]) {
            (INDEX_ARTIFACT_TYPE, [layer]) => layer.blob(most),
            (found, layers) => {
                let (found, layers) = (found.chars().take(80).collect(), layers.len());
                Err(ManifestError::NoIndex { found, layers })
            }
        }
    }

    /// The artifact type, else the config's media type.
    fn kind(&self) -> &str {
        self.0.artifact_type.as_ref().unwrap_or(&self.0.config.media_type)
    }

    /// The descriptor's blob.
    ///
    /// # Errors
    /// When it is the manifest of something else.
    pub fn descriptor(&self) -> Result<Blob, ManifestError> {
        let config = &self.0.config;
        if config.media_type != DESCRIPTOR_TYPE {
            let found = self.kind().chars().take(80).collect();
            return Err(ManifestError::OtherArtifact { found });
        }
        config.blob(descriptor::MAX_LEN as u64)
    }

    /// The config and the layers.
    ///
    /// # Errors
    /// When one is named by another hash than SHA-256 or too long.
    pub fn blobs(&self) -> Result<Vec<Blob>, ManifestError> {
        let config = self.0.config.blob(descriptor::MAX_LEN as u64)?;
        let layers = self.0.layers.iter().map(|layer| layer.blob(MAX_BLOB));
        std::iter::once(Ok(config)).chain(layers).collect()
    }

    /// The layers.
    #[must_use]
    pub fn layers(&self) -> &[Entry] {
        &self.0.layers
    }

    /// What it refers to.
    #[must_use]
    pub fn subject(&self) -> Option<&Entry> {
        self.0.subject.as_ref()
    }
}

/// The artifact type of what a descriptor describes.
#[must_use]
pub fn artifact_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Release => "application/vnd.casemate.release.v1",
        Kind::Inputs => "application/vnd.casemate.inputs.v1",
    }
}

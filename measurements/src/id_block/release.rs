//! The ID blocks of a release: `id-blocks.json` beside the manifest, one signature per row of
//! its table.
//!
//! What a block states follows from the manifest and the row, and the keys are the same for all,
//! so the file holds keys and signatures alone. Canonical JSON.

use serde::{Deserialize, Serialize};

use super::key::sign_checked;
use super::{AUTH_LEN, BLOCK_LEN, Endorsement, IdBlock, PublicKey, SignError, Signature, Signer};
use crate::canonical::{self, CanonicalError};
use crate::hash::{LaunchDigest, Sha256Hash, Sha384Hash};
use crate::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use crate::manifest::{MAX_REFERENCE_VALUES, Manifest, ReferenceValue};

/// Name of the file in a release directory.
pub const FILE_NAME: &str = "id-blocks.json";
/// Most bytes of the file.
pub const MAX_LEN: usize = 16 * 1024 * 1024;

/// Why the ID blocks of a release are refused.
#[derive(Debug, thiserror::Error)]
pub enum IdBlocksError {
    /// They are not canonical JSON of the expected shape.
    #[error("{FILE_NAME} is malformed")]
    Malformed(#[from] CanonicalError),
    /// The file is too long.
    #[error("{FILE_NAME} has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The file is of another version.
    #[error("{FILE_NAME} has schema {found}, expected {}", IdBlocks::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// They were signed for another manifest.
    #[error(
        "{FILE_NAME} is for the manifest with SHA-256 {found}, expected {expected}: sign the \
         release again"
    )]
    OtherManifest {
        /// The manifest that they were signed for.
        found: Sha256Hash,
        /// The release's.
        expected: Sha256Hash,
    },
    /// The rows are others than the manifest's.
    #[error(
        "{FILE_NAME} has {found} rows that are not the {expected} of the manifest, one each in \
         its order: sign the release again"
    )]
    Rows {
        /// How many rows.
        found: usize,
        /// How many rows the manifest has.
        expected: usize,
    },
    /// A key is none of the manifest's.
    #[error("the {what} has the digest {found}, expected by the manifest {}", list(expected))]
    Key {
        /// ID key or author key.
        what: &'static str,
        /// Its digest, or `none`.
        found: String,
        /// The digests that the manifest names.
        expected: Vec<Sha384Hash>,
    },
    /// A signature is not of the key over the block.
    #[error("the ID block for {shape} is not signed by the ID key")]
    Signature {
        /// Which row.
        shape: Shape,
    },
    /// The author did not sign the ID key.
    #[error("the ID key is not signed by the author key")]
    Endorsement,
    /// Nobody signed.
    #[error("the ID blocks cannot be signed")]
    Sign(#[from] SignError),
}

fn list(keys: &[Sha384Hash]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// The author's word for the ID key, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Author {
    key: PublicKey,
    signature: Signature,
}

/// One row: the signature over the block of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    vcpus: VcpuCount,
    cpu_model: CpuModel,
    guest_features: GuestFeatures,
    vmm: Vmm,
    signature: Signature,
}

impl Row {
    const fn shape(&self) -> Shape {
        let Self { vcpus, cpu_model, guest_features, vmm, .. } = *self;
        Shape { vmm, cpu_model, guest_features, vcpus }
    }
}

/// The ID blocks of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdBlocks {
    schema: u32,
    manifest_sha256: Sha256Hash,
    id_key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    author: Option<Author>,
    signatures: Vec<Row>,
}

/// What a launch of one shape is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchBlock {
    /// The ID block.
    pub block: [u8; BLOCK_LEN],
    /// The ID authentication information.
    pub auth: Box<[u8; AUTH_LEN]>,
    /// Whether an author key is in it.
    pub author_key_enabled: bool,
}

/// The block that a manifest's VM with `digest` is started with.
#[must_use]
pub fn block(manifest: &Manifest, launch_digest: LaunchDigest) -> IdBlock {
    let identity = manifest.id_block.clone().unwrap_or_default();
    IdBlock {
        launch_digest,
        family_id: identity.family_id,
        image_id: identity.image_id,
        guest_svn: identity.guest_svn,
        policy: manifest.guest_policy,
    }
}

impl IdBlocks {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// Signs a block for each row of a manifest, and with an author key also the ID key.
    /// `progress` is told after each row how many are signed.
    ///
    /// # Errors
    /// When a signer fails, or the manifest names other keys.
    pub fn sign(
        manifest: &Manifest,
        manifest_sha256: Sha256Hash,
        id_key: &dyn Signer,
        author: Option<&dyn Signer>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self, IdBlocksError> {
        let public = id_key.public_key();
        check_keys(manifest, public, author.map(Signer::public_key))?;
        let author = author.map(|author| Endorsement::new(public, author)).transpose()?;
        let mut signatures = Vec::with_capacity(manifest.reference_values.len());
        for ReferenceValue { vcpus, cpu_model, guest_features, vmm, measurement } in
            manifest.reference_values.iter().copied()
        {
            let signature = sign_checked(id_key, &block(manifest, measurement).digest())?;
            signatures.push(Row { vcpus, cpu_model, guest_features, vmm, signature });
            progress(signatures.len());
        }
        Ok(Self {
            schema: Self::SCHEMA,
            manifest_sha256,
            id_key: public.clone(),
            author: author
                .map(|Endorsement { author_key: key, signature }| Author { key, signature }),
            signatures,
        })
    }

    /// Reads the file. What it says is checked by [`IdBlocks::check`].
    ///
    /// # Errors
    /// When it is too long, not canonical, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdBlocksError> {
        if bytes.len() > MAX_LEN {
            return Err(IdBlocksError::TooLong { len: bytes.len() });
        }
        let blocks: Self = canonical::from_slice(bytes)?;
        if blocks.schema != Self::SCHEMA {
            return Err(IdBlocksError::Schema { found: blocks.schema });
        }
        if blocks.signatures.len() > MAX_REFERENCE_VALUES {
            let (found, expected) = (blocks.signatures.len(), MAX_REFERENCE_VALUES);
            return Err(IdBlocksError::Rows { found, expected });
        }
        Ok(blocks)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// When they would be too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdBlocksError> {
        let bytes = canonical::to_vec(self)?;
        if bytes.len() > MAX_LEN {
            return Err(IdBlocksError::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    /// The ID key.
    #[must_use]
    pub const fn id_key(&self) -> &PublicKey {
        &self.id_key
    }

    /// The author key.
    #[must_use]
    pub fn author_key(&self) -> Option<&PublicKey> {
        self.author.as_ref().map(|author| &author.key)
    }

    /// Holds everything but the signatures over blocks to a manifest: whose blocks these are,
    /// which rows, which keys, and the author's signature.
    ///
    /// # Errors
    /// When something differs, naming it.
    pub fn check_frame(
        &self,
        manifest: &Manifest,
        manifest_sha256: &Sha256Hash,
    ) -> Result<(), IdBlocksError> {
        if self.manifest_sha256 != *manifest_sha256 {
            let (found, expected) = (self.manifest_sha256, *manifest_sha256);
            return Err(IdBlocksError::OtherManifest { found, expected });
        }
        let rows = &manifest.reference_values;
        if !self.signatures.iter().map(Row::shape).eq(rows.iter().map(ReferenceValue::shape)) {
            let (found, expected) = (self.signatures.len(), rows.len());
            return Err(IdBlocksError::Rows { found, expected });
        }
        check_keys(manifest, &self.id_key, self.author_key())?;
        match &self.author {
            Some(author) if !author.key.verifies(&self.id_key.digest(), &author.signature) => {
                Err(IdBlocksError::Endorsement)
            }
            _ => Ok(()),
        }
    }

    /// Holds everything to a manifest, each signature included.
    ///
    /// # Errors
    /// When something differs, naming it.
    pub fn check(
        &self,
        manifest: &Manifest,
        manifest_sha256: &Sha256Hash,
    ) -> Result<(), IdBlocksError> {
        self.check_frame(manifest, manifest_sha256)?;
        for (row, value) in self.signatures.iter().zip(&manifest.reference_values) {
            let digest = block(manifest, value.measurement).digest();
            if !self.id_key.verifies(&digest, &row.signature) {
                return Err(IdBlocksError::Signature { shape: row.shape() });
            }
        }
        Ok(())
    }

    /// What a launch of a shape is given; `None` when the shape is not listed. Whether it would
    /// be accepted is for [`super::verify`] to say.
    #[must_use]
    pub fn launch(&self, manifest: &Manifest, shape: &Shape) -> Option<LaunchBlock> {
        let row = self.signatures.iter().find(|row| row.shape() == *shape)?;
        let value = manifest.find(shape)?;
        let author = self.author.as_ref().map(|Author { key, signature }| Endorsement {
            author_key: key.clone(),
            signature: *signature,
        });
        let auth = super::auth_bytes(&self.id_key, &row.signature, author.as_ref());
        Some(LaunchBlock {
            block: block(manifest, value.measurement).to_bytes(),
            auth: Box::new(auth),
            author_key_enabled: author.is_some(),
        })
    }
}

/// Holds the keys to those that a manifest names.
fn check_keys(
    manifest: &Manifest,
    id_key: &PublicKey,
    author: Option<&PublicKey>,
) -> Result<(), IdBlocksError> {
    let Some(identity) = &manifest.id_block else { return Ok(()) };
    let author = author.map(PublicKey::digest);
    for (what, found, expected) in [
        ("ID key", Some(id_key.digest()), &identity.id_keys),
        ("author key", author, &identity.author_keys),
    ] {
        if !expected.is_empty() && !found.is_some_and(|found| expected.contains(&found)) {
            let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
            return Err(IdBlocksError::Key { what, found, expected: expected.clone() });
        }
    }
    Ok(())
}

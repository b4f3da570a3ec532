//! The releases that a verifier holds.

use crate::hash::Sha256Hash;
use crate::manifest::{Manifest, ManifestError, Release};

/// A release that a verifier holds: its manifest, held to itself once, and what names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRelease {
    manifest: Manifest,
    sha256: Sha256Hash,
}

impl KnownRelease {
    /// Takes a manifest.
    ///
    /// # Errors
    /// When two places of it contradict each other, naming both.
    pub fn new(manifest: Manifest) -> Result<Self, ManifestError> {
        let sha256 = Sha256Hash::of(&manifest.to_bytes()?);
        Ok(Self { manifest, sha256 })
    }

    /// The manifest.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it is called.
    #[must_use]
    pub const fn release(&self) -> &Release {
        &self.manifest.release
    }

    /// SHA-256 of the manifest's canonical bytes.
    #[must_use]
    pub const fn sha256(&self) -> &Sha256Hash {
        &self.sha256
    }
}

//! The public halves of keys that sign releases, and what they signed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::hash::Sha256Hash;
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use sigstore_verify::types::DerPublicKey;

/// Why there is no public key.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// The text is none.
    #[error("no public key of P-256 or P-384: expected PEM, `BEGIN PUBLIC KEY`")]
    NoKey,
    /// It cannot be encoded.
    #[error("cannot encode the key")]
    Encode(#[source] p256::pkcs8::spki::Error),
}

/// A key that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    sha256: Sha256Hash,
    point: Point,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Reads PEM.
    ///
    /// # Errors
    /// When it is no public key of one of the two curves.
    pub fn from_pem(text: &str) -> Result<Self, PublicKeyError> {
        let text = text.trim();
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_public_key_pem(text) {
            return Self::of_p256(key);
        }
        match p384::ecdsa::VerifyingKey::from_public_key_pem(text) {
            Ok(key) => Self::of_p384(key),
            Err(_) => Err(PublicKeyError::NoKey),
        }
    }

    /// Writes PEM.
    ///
    /// # Errors
    /// Never for a key that was read.
    pub fn to_pem(&self) -> Result<String, PublicKeyError> {
        let pem = match &self.point {
            Point::P256(key) => key.to_public_key_pem(LineEnding::LF),
            Point::P384(key) => key.to_public_key_pem(LineEnding::LF),
        };
        pem.map_err(PublicKeyError::Encode)
    }

    pub(crate) fn of_p256(key: p256::ecdsa::VerifyingKey) -> Result<Self, PublicKeyError> {
        let spki = key.to_public_key_der().map_err(PublicKeyError::Encode)?;
        Ok(Self::new(spki.as_bytes(), Point::P256(key)))
    }

    pub(crate) fn of_p384(key: p384::ecdsa::VerifyingKey) -> Result<Self, PublicKeyError> {
        let spki = key.to_public_key_der().map_err(PublicKeyError::Encode)?;
        Ok(Self::new(spki.as_bytes(), Point::P384(key)))
    }

    fn new(spki: &[u8], point: Point) -> Self {
        Self { spki: spki.to_vec(), sha256: Sha256Hash::of(spki), point }
    }

    /// SHA-256 of its `SubjectPublicKeyInfo`: what it is called.
    #[must_use]
    pub const fn sha256(&self) -> &Sha256Hash {
        &self.sha256
    }

    /// What a bundle says to find it by.
    pub(crate) fn hint(&self) -> String {
        STANDARD.encode(self.sha256.as_bytes())
    }

    /// Its `SubjectPublicKeyInfo`.
    pub(crate) fn to_der(&self) -> DerPublicKey {
        DerPublicKey::new(self.spki.clone())
    }

    /// The same as bytes.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The curve, as web browsers call it.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) const fn curve(&self) -> &'static str {
        match self.point {
            Point::P256(_) => "P-256",
            Point::P384(_) => "P-384",
        }
    }

    /// Whether it signed `message`: ECDSA with the hash of its curve's size, the signature in DER.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.point {
            Point::P256(key) => p256::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Point::P384(key) => p384::ecdsa::Signature::from_der(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

//! Keys that sign releases: P-256, as Sigstore's programs use, or P-384, as ID blocks use, in a PEM
//! file or a PKCS#11 token.

use std::fmt;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::{Sha256Hash, Sha384Hash};
use casemate_measurements::id_block::Signer;
use p256::ecdsa::signature::Signer as _;
use p256::elliptic_curve::rand_core::OsRng;
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use sigstore_verify::types::bundle::{
    MediaType, PublicKeyIdentifier, VerificationMaterial, VerificationMaterialContent,
};
use sigstore_verify::types::{
    Bundle, DsseEnvelope, DsseSignature, KeyId, PayloadBytes, SignatureBytes, SignatureContent,
};

use super::SignError;
use crate::attestation::PAYLOAD_TYPE;
use crate::keys::file::{self, FileError, FileKey, SEC1};
use crate::keys::token::Held;
use crate::keys::uri::SCHEME;
use crate::keys::{self, OpenError, TokenDefaults, TokenKey};
use crate::public_key::{PublicKey, PublicKeyError};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The token or file gives none.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error(
        "{} holds no private key of P-256 or P-384: expected PEM, `BEGIN PRIVATE KEY` or `BEGIN \
         EC PRIVATE KEY` (`casemate release keygen` makes one)",
        path.display()
    )]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// Its public half is none.
    #[error(transparent)]
    Public(#[from] PublicKeyError),
    /// A key cannot be encoded.
    #[error("cannot encode the key: {problem}")]
    Encode {
        /// Why not.
        problem: String,
    },
}

fn encode(error: &dyn fmt::Display) -> KeyError {
    KeyError::Encode { problem: error.to_string() }
}

/// A key that signs.
pub struct SigningKey {
    public: PublicKey,
    private: Private,
}

enum Private {
    P256(p256::ecdsa::SigningKey),
    P256InToken(Held),
    P384(Box<dyn Signer>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Opens a key by what a person wrote: a path, or a URI that starts with `pkcs11:`.
    ///
    /// # Errors
    /// When there is no such key, or its holder refuses.
    pub fn open(text: &str, defaults: &TokenDefaults) -> Result<Self, KeyError> {
        let path = Path::new(text);
        if text.starts_with(SCHEME) {
            return Self::of_token(text, defaults);
        }
        if text.contains(':') && !path.exists() {
            return Self::of_signer(keys::open(text, defaults)?);
        }
        let text = file::read(path)?;
        let p256 = match text.find(SEC1) {
            Some(at) => p256::SecretKey::from_sec1_pem(text[at..].trim_end()).ok(),
            None => p256::SecretKey::from_pkcs8_pem(text.trim()).ok(),
        };
        if let Some(key) = p256 {
            let private = p256::ecdsa::SigningKey::from(&key);
            let public = PublicKey::of_p256(*private.verifying_key())?;
            return Ok(Self { public, private: Private::P256(private) });
        }
        let key = file::parse(&text).and_then(|key| FileKey::new(&key));
        let key = key.ok_or_else(|| KeyError::NoKey { path: path.to_owned() })?;
        Self::of_signer(Box::new(key))
    }

    fn of_token(text: &str, defaults: &TokenDefaults) -> Result<Self, KeyError> {
        let uri = text.parse().map_err(OpenError::Uri)?;
        let held = Held::open(&uri, defaults).map_err(OpenError::Token)?;
        if let Ok(key) = p256::ecdsa::VerifyingKey::from_sec1_bytes(held.point()) {
            return Ok(Self {
                public: PublicKey::of_p256(key)?,
                private: Private::P256InToken(held),
            });
        }
        let key = TokenKey::new(held, "P-256 or P-384").map_err(OpenError::Token)?;
        Self::of_signer(Box::new(key))
    }

    fn of_signer(signer: Box<dyn Signer>) -> Result<Self, KeyError> {
        let point = signer.public_key().to_sec1();
        let key =
            p384::ecdsa::VerifyingKey::from_sec1_bytes(&point).map_err(|error| encode(&error))?;
        Ok(Self { public: PublicKey::of_p384(key)?, private: Private::P384(signer) })
    }

    /// Its public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a payload: no certificate, no log, no clock, so the same bytes each time, but for
    /// keys in tokens.
    ///
    /// # Errors
    /// When the token refuses.
    pub(super) fn sign(&self, payload: Vec<u8>) -> Result<Bundle, SignError> {
        let unsigned = DsseSignature::new(SignatureBytes::new(Vec::new()), KeyId::default());
        let mut envelope = DsseEnvelope::new(PAYLOAD_TYPE, PayloadBytes::new(payload), unsigned);
        let message = envelope.pae();
        let signature = match &self.private {
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(&message);
                signature.to_der().as_bytes().to_vec()
            }
            Private::P256InToken(held) => {
                let raw = held.sign(Sha256Hash::of(&message).as_bytes());
                let raw = raw.map_err(|error| SignError::Key(error.into()))?;
                let signature = p256::ecdsa::Signature::from_slice(&raw)
                    .map_err(|error| SignError::Key(error.into()))?;
                signature.to_der().as_bytes().to_vec()
            }
            Private::P384(signer) => {
                let raw = signer.sign(&Sha384Hash::of(&message)).map_err(SignError::Key)?.to_raw();
                let signature = p384::ecdsa::Signature::from_slice(&raw)
                    .map_err(|error| SignError::Key(error.into()))?;
                signature.to_der().as_bytes().to_vec()
            }
        };
        envelope.signature.sig = SignatureBytes::new(signature);
        let hint = PublicKeyIdentifier::new(self.public.hint());
        Ok(Bundle::new(
            MediaType::Bundle0_3,
            VerificationMaterial::new(VerificationMaterialContent::PublicKey(hint)),
            SignatureContent::DsseEnvelope(envelope),
        ))
    }
}

/// A new key, as it was written.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The private key: PKCS#8, mode 0600.
    pub private: PathBuf,
    /// The public key: `SubjectPublicKeyInfo`.
    pub public: PathBuf,
    /// What it is called.
    pub sha256: Sha256Hash,
}

/// Makes a key of P-256 in `path` and writes its public half beside it, with `.pub` behind the name.
///
/// # Errors
/// When one of both is already there or cannot be written.
pub fn generate(path: &Path) -> Result<Generated, KeyError> {
    let key = p256::SecretKey::random(&mut OsRng);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| encode(&error))?;
    let half = PublicKey::of_p256(key.public_key().into())?;
    let public = file::write_pair(path, &private, &half.to_pem()?)?;
    Ok(Generated { private: path.to_owned(), public, sha256: *half.sha256() })
}

//! Signs statements: with a key that is at hand, or without one, as who an identity provider says
//! the signer is. The result is a Sigstore bundle that `cosign` reads too.

mod key;
#[cfg(feature = "keyless")]
mod keyless;

use std::error::Error;

use casemate_measurements::hash::Sha256Hash;
use sigstore_verify::types::Bundle;

use crate::attestation::{Statement, StatementError};

pub use key::{Generated, KeyError, SigningKey, generate};
#[cfg(feature = "keyless")]
pub use keyless::{Keyless, KeylessError, Services, Token};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The statement cannot be written.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The key does not sign.
    #[error("the key does not sign")]
    Key(#[source] Box<dyn Error + Send + Sync>),
    #[cfg(feature = "keyless")]
    /// A service does not vouch for the signer.
    #[error(transparent)]
    Keyless(#[from] KeylessError),
    /// The bundle cannot be written.
    #[error("the bundle cannot be written")]
    Write(#[source] Box<dyn Error + Send + Sync>),
}

/// Who signs.
#[derive(Debug)]
pub enum Signer {
    /// Whoever has a key.
    Key(Box<SigningKey>),
    #[cfg(feature = "keyless")]
    /// Whoever an identity provider says it is.
    Keyless(Box<Keyless>),
}

/// A signed statement.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The bundle, as JSON.
    pub bundle: Vec<u8>,
    /// Tells signers apart: the beginning of a hash of the key, or of issuer and identity.
    pub signer: String,
    /// Who signed, for people.
    pub who: String,
}

impl Signer {
    /// Signs a statement.
    ///
    /// # Errors
    /// When the key or a service refuses.
    pub fn sign(&self, statement: &Statement) -> Result<Signed, SignError> {
        let payload = statement.to_bytes()?;
        let (bundle, signer, who) = match self {
            Self::Key(key) => {
                let public = key.public();
                let who = format!("key {}", public.sha256());
                (key.sign(payload)?, short(public.sha256()), who)
            }
            #[cfg(feature = "keyless")]
            Self::Keyless(keyless) => {
                let (bundle, issuer, subject) = keyless.sign(&payload)?;
                let id = Sha256Hash::of(format!("{issuer}\n{subject}").as_bytes());
                (bundle, short(&id), format!("{subject} ({issuer})"))
            }
        };
        Ok(Signed { bundle: json(&bundle)?, signer, who })
    }
}

fn short(hash: &Sha256Hash) -> String {
    hash.to_string().chars().take(16).collect()
}

fn json(bundle: &Bundle) -> Result<Vec<u8>, SignError> {
    let text = bundle.to_json().map_err(|error| SignError::Write(error.into()))?;
    Ok(text.into_bytes())
}

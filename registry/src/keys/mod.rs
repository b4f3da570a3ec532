//! Private keys, wherever they are held: in a PEM file or in a token behind PKCS#11. [`open`] gives
//! those of P-384, which ID blocks are signed with.
//!
//! Whoever signs with P-384 takes a [`Signer`] and does not learn which. A further kind of holder,
//! such as a key management service, is a module here with a type that implements it, a line in
//! [`open`], and for P-256 a variant of what [`crate::sign::SigningKey`] holds.

pub(crate) mod file;
pub(crate) mod token;
pub(crate) mod uri;

use std::ffi::OsString;
use std::path::Path;

use casemate_measurements::id_block::Signer;

pub use file::{FileError, FileKey, Generated, generate};
pub use token::{TokenError, TokenKey};
pub use uri::{TokenUri, UriError};

/// What a PKCS#11 URI may leave out.
#[derive(Debug, Clone, Default)]
pub struct TokenDefaults {
    /// The module where the URI has no `module-path`.
    pub module: Option<std::path::PathBuf>,
    /// The PIN where the URI has neither `pin-value` nor `pin-source`.
    pub pin: Option<String>,
}

impl TokenDefaults {
    /// The defaults that the environment names.
    #[must_use]
    pub fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            module: variable("PKCS11_MODULE_PATH").map(Into::into),
            pin: variable("CASEMATE_PKCS11_PIN").and_then(|pin| pin.into_string().ok()),
        }
    }
}

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file holds none, or not safely.
    #[error(transparent)]
    File(#[from] FileError),
    /// The URI is malformed.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The token does not give it.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No such holder of keys is known.
    #[error("{scheme}: is no kind of key: expected a PEM file or a pkcs11: URI")]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
}

/// Opens a key by what a person wrote: a path, or a URI that starts with `pkcs11:`.
///
/// # Errors
/// When there is no such key, or its holder refuses.
pub fn open(text: &str, defaults: &TokenDefaults) -> Result<Box<dyn Signer>, OpenError> {
    if text.starts_with(uri::SCHEME) {
        let uri: TokenUri = text.parse()?;
        return Ok(Box::new(TokenKey::open(&uri, defaults)?));
    }
    match text.split_once(':') {
        // A path may have a colon; one that is there is meant.
        Some((scheme, _)) if !scheme.contains('/') && !Path::new(text).exists() => {
            Err(OpenError::Scheme { scheme: scheme.chars().take(40).collect() })
        }
        _ => Ok(Box::new(FileKey::open(Path::new(text))?)),
    }
}

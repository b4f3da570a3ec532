//! Sigstore bundles, read with bounds.

use sigstore_verify::types::{Bundle, DsseEnvelope, SignatureContent};

use super::statement::{Statement, StatementError};

/// Most bytes of a bundle: a manifest of its greatest length fits.
pub const MAX_BUNDLE_LEN: usize = 16 * 1024 * 1024;
/// The type of every payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The one version that is read.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Why bytes are no bundle around a statement.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// They are too many.
    #[error("{len} bytes, expected at most {MAX_BUNDLE_LEN}")]
    TooLong {
        /// How many.
        len: usize,
    },
    /// They are no bundle.
    #[error("this is no Sigstore bundle")]
    Malformed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is of another version.
    #[error("the bundle is {found:?}, expected {MEDIA_TYPE:?}")]
    Version {
        /// Its media type.
        found: &'static str,
    },
    /// It signs a file, not a statement.
    #[error("the bundle signs a file: expected a DSSE envelope around an in-toto statement")]
    NoEnvelope,
    /// The envelope holds something else.
    #[error("the envelope's payloadType is {found:?}, expected {PAYLOAD_TYPE:?}")]
    PayloadType {
        /// What it is, shortened.
        found: String,
    },
    /// It holds no statement.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// A bundle and the statement in it. Nobody has looked at its signature yet.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedStatement {
    bundle: Bundle,
    statement: Statement,
}

impl SignedStatement {
    /// Reads a bundle.
    ///
    /// # Errors
    /// When it is too long, malformed, of another version, or signs something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE_LEN {
            return Err(BundleError::TooLong { len: bytes.len() });
        }
        let text = str::from_utf8(bytes).map_err(|error| BundleError::Malformed(error.into()))?;
        let bundle =
            Bundle::from_json(text).map_err(|error| BundleError::Malformed(error.into()))?;
        if bundle.media_type().as_str() != MEDIA_TYPE {
            return Err(BundleError::Version { found: bundle.media_type().as_str() });
        }
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(BundleError::NoEnvelope);
        };
        if envelope.payload_type != PAYLOAD_TYPE {
            let found = envelope.payload_type.chars().take(80).collect();
            return Err(BundleError::PayloadType { found });
        }
        let statement = Statement::from_bytes(envelope.payload.as_bytes())?;
        Ok(Self { bundle, statement })
    }

    /// The statement.
    #[must_use]
    pub const fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The bundle.
    pub(crate) const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What is signed, and the signature.
    pub(crate) fn envelope(&self) -> Option<&DsseEnvelope> {
        match &self.bundle.content {
            SignatureContent::DsseEnvelope(envelope) => Some(envelope),
            _ => None,
        }
    }
}

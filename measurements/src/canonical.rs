//! Canonical JSON (RFC 8785): one value, one sequence of bytes, so that its hash means something.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why canonical JSON could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// The value has no JSON form (a non-string key, a number outside binary64).
    #[error("cannot write canonical JSON")]
    Write(#[source] serde_json::Error),
    /// The bytes are not JSON of the expected shape.
    #[error("not the expected JSON")]
    Read(#[source] serde_json::Error),
    /// The bytes are JSON of the expected shape but not spelled canonically.
    #[error(
        "JSON is not canonical (RFC 8785) at byte {at}: keys must be sorted, without whitespace, \
         each once"
    )]
    NotCanonical {
        /// Offset of the first byte that differs from the canonical spelling.
        at: usize,
    },
}

/// Writes `value` as canonical JSON, without a newline at the end.
///
/// # Errors
/// When `value` has no JSON form.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    serde_json_canonicalizer::to_vec(value).map_err(CanonicalError::Write)
}

/// Reads canonical JSON and refuses every other spelling of the same value.
///
/// # Errors
/// When `bytes` are not JSON of the shape `T`, or not canonical.
pub fn from_slice<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, CanonicalError> {
    let value: T = serde_json::from_slice(bytes).map_err(CanonicalError::Read)?;
    let canonical = to_vec(&value)?;
    if canonical == bytes {
        return Ok(value);
    }
    let at = canonical.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    Err(CanonicalError::NotCanonical { at })
}

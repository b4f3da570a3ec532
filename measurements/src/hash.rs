//! Digests and other fixed-length byte strings, each a type of its own.
//!
//! All are written as lower-case hex in every format of casemate. Upper case, whitespace and a
//! wrong length are refused, so that one value has one spelling.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha384};

/// Why a text is not a value of one of this module's types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: expected {expected} lower-case hex digits")]
pub struct HexError {
    /// The refused text, shortened to 140 characters.
    text: String,
    /// What was expected, in the words of the field.
    what: &'static str,
    /// The number of hex digits of a well-formed value.
    expected: usize,
}

/// Decodes exactly `N` bytes of lower-case hex.
fn decode<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], HexError> {
    let mut bytes = [0_u8; N];
    let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if lower && hex::decode_to_slice(text, &mut bytes).is_ok() {
        return Ok(bytes);
    }
    Err(HexError { text: text.chars().take(140).collect(), what, expected: N * 2 })
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero: how reports write that there is none.
            pub const ZERO: Self = Self([0; $len]);

            /// Takes the bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let digits = 2 * $len;
                schemars::json_schema!({
                    "type": "string",
                    "pattern": format!("^[0-9a-f]{{{digits}}}$"),
                    "description": concat!("Lower-case hex: ", $what)
                })
            }
        }

        impl FromStr for $name {
            type Err = HexError;

            fn from_str(text: &str) -> Result<Self, HexError> {
                decode(text, $what).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = HexError;

            fn try_from(text: String) -> Result<Self, HexError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                hex::encode(value.0)
            }
        }
    };
}

fixed_bytes!(
    /// A SHA-256 digest: of an artifact, a package, a public key, a launch config.
    Sha256Hash, 32, "a SHA-256 digest"
);
fixed_bytes!(
    /// A SHA-384 digest that is not a launch digest: the chain's intermediate values, key digests.
    Sha384Hash, 48, "a SHA-384 digest"
);
fixed_bytes!(
    /// The SEV-SNP launch digest: the field MEASUREMENT of an attestation report.
    LaunchDigest, 48, "a launch digest"
);
fixed_bytes!(
    /// What a verifier sends so that evidence cannot be replayed: 32 random bytes.
    Nonce, 32, "a nonce"
);
fixed_bytes!(
    /// `HOST_DATA` of a report: for casemate the SHA-256 of the canonical launch config.
    HostData, 32, "HOST_DATA"
);
fixed_bytes!(
    /// `REPORT_DATA` of a report: nonce, then the hash of the binding.
    ReportData, 64, "REPORT_DATA"
);
fixed_bytes!(
    /// `CHIP_ID` of a report: 64 bytes; Turin fills only the first eight.
    ChipId, 64, "a CHIP_ID"
);

fixed_bytes!(
    /// `FAMILY_ID` of an ID block and of a report.
    FamilyId, 16, "a FAMILY_ID"
);
fixed_bytes!(
    /// `IMAGE_ID` of an ID block and of a report.
    ImageId, 16, "an IMAGE_ID"
);

impl Default for FamilyId {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Default for ImageId {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Sha256Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl Sha384Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha384::digest(bytes).into())
    }
}

impl From<Sha256Hash> for HostData {
    fn from(hash: Sha256Hash) -> Self {
        Self(hash.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_spelling() {
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256Hash::of(b""), text.parse().unwrap());
        for wrong in
            ["", "e3", &text.to_uppercase(), &format!(" {text}"), &text[1..], &format!("{text}00")]
        {
            let error = wrong.parse::<Sha256Hash>().unwrap_err().to_string();
            assert!(error.contains("64 lower-case hex digits"), "{error}");
        }
    }

    #[test]
    fn json_is_the_hex_text() {
        let digest = LaunchDigest::from_bytes([0xab; 48]);
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(48)));
        assert_eq!(serde_json::from_str::<LaunchDigest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<LaunchDigest>("\"ab\"").is_err());
    }
}

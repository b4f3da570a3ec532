//! Evidence: what a guest answers to a nonce. The guest states; it never judges.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::Nonce;
use crate::platform::Platform;

/// TCP port on which the agent serves evidence over TLS.
pub const PORT: u16 = 8443;
/// Path of the evidence; the query is `nonce=<64 hex digits>`.
pub const PATH: &str = "/v1/evidence";
/// Most bytes of evidence that a verifier reads.
pub const MAX_LEN: usize = 4 * 1024 * 1024;
/// Length of an SEV-SNP attestation report.
pub const REPORT_LEN: usize = 1184;

/// Bytes that JSON carries as base64 (RFC 4648, padded).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Base64Bytes(pub Vec<u8>);

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Base64Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Base64Bytes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "contentEncoding": "base64" })
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What `GET /v1/evidence?nonce=` answers, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Version of this format: [`Evidence::SCHEMA`].
    pub schema: u32,
    /// Who signed the report. A claim: the certificate chain decides.
    pub platform: Platform,
    /// The verifier's nonce, echoed.
    pub nonce: Nonce,
    /// The attestation report, 1184 bytes.
    pub report: Base64Bytes,
    /// The certificate table as the host gave it (GHCB, document 56421, "SNP Extended Guest
    /// Request": entries of GUID, offset, length, then the certificates); empty without one.
    pub certificates: Base64Bytes,
    /// The exact bytes of the [`crate::binding::Binding`] that `REPORT_DATA` hashes.
    pub binding: String,
    /// The exact bytes of the [`crate::launch_config::LaunchConfig`] that `HOST_DATA` hashes.
    pub launch_config: String,
    /// The exact bytes of the GPU evidence; absent without GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_evidence: Option<String>,
}

impl Evidence {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;
}

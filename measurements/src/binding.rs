//! What one report binds together: the nonce, the TLS key, the SSH host key, the launch config
//! and the GPU evidence.
//!
//! `REPORT_DATA = nonce[32] || SHA-256("casemate-binding-v1\0" || binding)`, where `binding` is
//! the exact bytes of the JSON that the evidence carries. A verifier hashes what it received,
//! never what it would have written.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hash::{Nonce, ReportData, Sha256Hash};

/// Domain separator of the binding's hash.
pub const BINDING_DOMAIN: &[u8] = b"casemate-binding-v1\0";
/// Domain separator of the nonce that GPUs are asked with.
pub const GPU_NONCE_DOMAIN: &[u8] = b"casemate-gpu-v1\0";

/// What a report binds, as the JSON object `binding` of the evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// SHA-256 of the DER `SubjectPublicKeyInfo` of the key that serves TLS.
    pub tls_spki_sha256: Sha256Hash,
    /// The SSH host key as sshd presents it: `ssh-ed25519 <base64>`, no comment.
    pub ssh_host_key: String,
    /// SHA-256 of the exact bytes of the GPU evidence; absent without GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_evidence_sha256: Option<Sha256Hash>,
    /// SHA-256 of the canonical launch config, which must equal `HOST_DATA`.
    pub launch_config_sha256: Sha256Hash,
}

/// `REPORT_DATA` for a nonce and the exact bytes of a binding.
#[must_use]
pub fn report_data(nonce: &Nonce, binding: &[u8]) -> ReportData {
    let hash = Sha256::new().chain_update(BINDING_DOMAIN).chain_update(binding).finalize();
    let mut bytes = [0_u8; ReportData::LEN];
    bytes[..32].copy_from_slice(nonce.as_bytes());
    bytes[32..].copy_from_slice(&hash);
    ReportData::from_bytes(bytes)
}

/// The nonce that GPUs are asked with, so that their evidence belongs to this one.
#[must_use]
pub fn gpu_nonce(nonce: &Nonce, tls_spki: &Sha256Hash) -> Nonce {
    let hash = Sha256::new()
        .chain_update(GPU_NONCE_DOMAIN)
        .chain_update(nonce.as_bytes())
        .chain_update(tls_spki.as_bytes())
        .finalize();
    Nonce::from_bytes(hash.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_data_is_nonce_then_domain_separated_hash() {
        let nonce = Nonce::from_bytes([7; 32]);
        let data = report_data(&nonce, b"{}");
        assert_eq!(data.as_bytes()[..32], [7; 32]);
        assert_eq!(&data.as_bytes()[32..], Sha256Hash::of(b"casemate-binding-v1\0{}").as_bytes());
        assert_ne!(report_data(&nonce, b"{ }"), data);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let hash = "00".repeat(32);
        let text = format!(
            r#"{{"tls_spki_sha256":"{hash}","ssh_host_key":"k","launch_config_sha256":"{hash}","x":1}}"#
        );
        assert!(serde_json::from_str::<Binding>(&text).is_err());
    }
}

//! A message for the Reference Value Provider Service of Confidential Containers' trustee
//! (`rvps/src/lib.rs`, `Message`; `rvps/src/extractors/sample`): `rvps-tool register --path FILE`
//! takes it, and `query_reference_value("snp_launch_measurement")` of a policy then gives the
//! list. Digests are base64 there, as trustee's verifier for SNP puts `measurement` in its claims.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{ExportError, Subject, entries};
use crate::manifest::ReferenceValue;

/// The name that trustee's policies look the digests up by.
pub const REFERENCE_VALUE: &str = "snp_launch_measurement";

/// The JSON message, on one line.
///
/// # Errors
/// When there are no rows.
pub fn rvps(_: Subject<'_>, rows: &[ReferenceValue]) -> Result<String, ExportError> {
    let digests: Vec<String> =
        entries(rows)?.iter().map(|entry| STANDARD.encode(entry.measurement.as_bytes())).collect();
    let payload = json!({ REFERENCE_VALUE: digests }).to_string();
    let message =
        json!({"version": "0.1.0", "type": "sample", "payload": STANDARD.encode(payload)});
    Ok(message.to_string())
}

//! The entry of one version in the `measurements:` list that sek8s validators load (`chutes-api`,
//! `_load_tee_measurements`; written by `chutes_cvm.measurement.generate_measurements`): the
//! section `snp` with a list `hardware` of digests.
//!
//! Left to the operator are `expected_gpus` and `gpu_count`, which no launch digest knows, and
//! `fingerprints`, which the validator gives to registered hosts. There is no `acpi_sha256`: the
//! host's ACPI tables are no part of a casemate command line.

use std::fmt::Write as _;

use super::{ExportError, Subject, entries};
use crate::manifest::ReferenceValue;

/// The YAML document.
///
/// # Errors
/// When there are no rows.
pub fn sek8s_yaml(subject: Subject<'_>, rows: &[ReferenceValue]) -> Result<String, ExportError> {
    let Subject { name, version } = subject;
    // A JSON string is a double-quoted scalar of YAML.
    let quoted = |text: &str| serde_json::to_string(text);
    let mut yaml = format!("version: {}\nsnp:\n  hardware:\n", quoted(version)?);
    for entry in entries(rows)? {
        let label = quoted(&format!("{name} [{}]", entry.label()))?;
        // Writing to a String cannot fail.
        let _ = write!(
            yaml,
            "  - name: {label}\n    measurement: \"{}\"\n    fingerprints: []\n",
            entry.measurement
        );
    }
    Ok(yaml)
}

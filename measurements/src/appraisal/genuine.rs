//! Genuine? Did a security processor that is trusted say this, now, about whom the verifier
//! talks to?

use crate::binding::{self, Binding};
use crate::certificates::CertificateTable;
use crate::chain::{EndorsedKey, VerifiedReport};
use crate::evidence::{Evidence, MAX_LEN};
use crate::hash::{HostData, Sha256Hash};
use crate::report::Report;
use crate::tcb::Product;

use super::verdict::{CheckName, Recorder, platform_text};
use super::{Appraiser, Session};

/// What genuine evidence states.
pub(super) struct Claim {
    pub(super) evidence: Evidence,
    pub(super) report: VerifiedReport,
    pub(super) product: Product,
}

/// Why bytes are no evidence.
#[derive(Debug, thiserror::Error)]
enum EvidenceError {
    #[error("{0} bytes, expected at most {MAX_LEN}")]
    TooLong(usize),
    #[error("not the expected JSON")]
    Json(#[source] serde_json::Error),
    #[error("schema {found}, expected {}", Evidence::SCHEMA)]
    Schema { found: u32 },
}

fn parse(bytes: &[u8]) -> Result<Evidence, EvidenceError> {
    if bytes.len() > MAX_LEN {
        return Err(EvidenceError::TooLong(bytes.len()));
    }
    let evidence: Evidence = serde_json::from_slice(bytes).map_err(EvidenceError::Json)?;
    if evidence.schema != Evidence::SCHEMA {
        return Err(EvidenceError::Schema { found: evidence.schema });
    }
    Ok(evidence)
}

/// Judges, recording every check; `None` when there is no verified report.
pub(super) fn judge(
    appraiser: &Appraiser<'_>,
    bytes: &[u8],
    session: &Session,
    recorder: &mut Recorder,
) -> Option<Claim> {
    let evidence =
        recorder.step(CheckName::Evidence, "evidence of schema 1", parse(bytes), |_| {
            format!("{} bytes", bytes.len())
        })?;
    let platform = evidence.platform;
    recorder.simulated = platform == crate::platform::Platform::Simulated;
    let expected = &appraiser.policy.platform;
    let trusted = expected.accepts(&platform).unwrap_or(true);
    let text = platform_text(platform);
    let trusted = recorder.record(CheckName::Platform, trusted, expected, &text);
    let fresh = recorder.equal(CheckName::Nonce, &session.nonce, &evidence.nonce);
    if !trusted || !fresh {
        return None;
    }
    let (report, product) = verify(appraiser, &evidence, recorder)?;
    let ssh_host_key = judge_binding(&evidence, &report, session, recorder);
    recorder.ssh_host_key = ssh_host_key;
    Some(Claim { evidence, report, product })
}

/// From bytes to a report whose signature leads to a trusted root.
fn verify(
    appraiser: &Appraiser<'_>,
    evidence: &Evidence,
    recorder: &mut Recorder,
) -> Option<(VerifiedReport, Product)> {
    let report = recorder.step(
        CheckName::Report,
        "a report of version 2, 3 or 5",
        Report::parse(&evidence.report.0),
        |report| format!("version {}", report.version().number()),
    )?;
    let expected = format!("a chain to a root trusted for {}", evidence.platform);
    let table = match CertificateTable::parse(&evidence.certificates.0) {
        Ok(table) => table,
        Err(error) => {
            recorder.record(CheckName::Chain, false, &expected, &error);
            return None;
        }
    };
    let (platform, now) = (evidence.platform, appraiser.now);
    let key = EndorsedKey::verify(&table, &report, platform, appraiser.roots, now);
    let key = recorder.step(CheckName::Chain, &expected, key, |key| {
        format!("{} of {} under {}", key.role(), key.product(), key.root())
    })?;
    let endorsed = key.endorsed_tcb().map_or_else(|error| error.to_string(), |tcb| tcb.to_string());
    recorder.step(CheckName::EndorsedTcb, &endorsed, key.check_tcb(&report), ToString::to_string);
    match key.check_chip(&report) {
        Ok(false) => recorder.skip(
            CheckName::Chip,
            &"a chip",
            "a provider's key (VLEK) is endorsed for no chip",
        ),
        result => {
            let chip = report.chip_id();
            recorder
                .step(CheckName::Chip, "the chip of the certificate", result, |_| chip.to_string());
        }
    }
    let expected = format!("a signature of the {}", key.role());
    let verified =
        recorder.step(CheckName::Signature, &expected, key.verify_report(report), |_| {
            "valid over the bytes received".to_owned()
        })?;
    Some((verified, key.product()))
}

/// What the report binds together; the SSH host key of a binding that holds.
fn judge_binding(
    evidence: &Evidence,
    report: &VerifiedReport,
    session: &Session,
    recorder: &mut Recorder,
) -> Option<String> {
    let report = report.report();
    let half = |bytes: &[u8]| hex::encode(bytes);
    let expected = binding::report_data(&session.nonce, evidence.binding.as_bytes());
    let found = report.report_data();
    let (expected, found) = (expected.as_bytes(), found.as_bytes());
    recorder.equal(CheckName::ReportNonce, &half(&expected[..32]), &half(&found[..32]));
    let bound =
        recorder.equal(CheckName::ReportBinding, &half(&expected[32..]), &half(&found[32..]));
    if !bound {
        return None;
    }
    let parsed: Result<Binding, _> = serde_json::from_str(&evidence.binding);
    let binding = recorder.step(CheckName::Binding, "a binding", parsed, |_| {
        format!("{} bytes", evidence.binding.len())
    })?;
    recorder.equal(CheckName::TlsKey, &session.tls_spki_sha256, &binding.tls_spki_sha256);
    let config = Sha256Hash::of(evidence.launch_config.as_bytes());
    recorder.equal(CheckName::LaunchConfigBound, &binding.launch_config_sha256, &config);
    recorder.equal(CheckName::HostData, &HostData::from(config), &report.host_data());
    let text = |hash: Option<Sha256Hash>| hash.map_or("none".to_owned(), |hash| hash.to_string());
    let gpu = evidence.gpu_evidence.as_ref().map(|gpu| Sha256Hash::of(gpu.as_bytes()));
    let (expected, found) = (text(binding.gpu_evidence_sha256), text(gpu));
    recorder.equal(CheckName::GpuEvidenceBound, &expected, &found);
    Some(binding.ssh_host_key)
}

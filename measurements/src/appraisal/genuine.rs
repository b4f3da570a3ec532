//! Genuine? Did a security processor that is trusted say this, now, about whom the verifier
//! talks to?

use crate::binding::{self, Binding};
use crate::certificates::CertificateTable;
use crate::chain::VerifiedReport;
use crate::evidence::{Evidence, MAX_LEN};
use crate::gpu::device::Device;
use crate::hash::{HostData, Sha256Hash};
use crate::tcb::Product;

use super::basis::Judged;
use super::gpu;
use super::verdict::{CheckName, Recorder, platform_text};
use super::{Appraiser, Session};

/// What genuine evidence states.
pub(super) struct Claim {
    pub(super) evidence: Evidence,
    pub(super) report: VerifiedReport,
    pub(super) product: Product,
    /// Whether a revocation list was at hand.
    pub(super) had_list: bool,
    pub(super) gpus: Vec<Device>,
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
    recorder: &mut Recorder<'_>,
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
    let table = CertificateTable::parse(&evidence.certificates.0);
    let judged = appraiser.basis.judge(&evidence.report.0, table, platform, recorder)?;
    let Judged { report, product, had_list } = judged;
    let ssh_host_key = judge_binding(&evidence, &report, session, recorder);
    recorder.ssh_host_key = ssh_host_key;
    let nonce = binding::gpu_nonce(&session.nonce, &session.tls_spki_sha256);
    let believed = appraiser.basis.believed(platform);
    let gpus = gpu::genuine(believed, evidence.gpu_evidence.as_deref(), &nonce, recorder);
    Some(Claim { evidence, report, product, had_list, gpus })
}

/// What the report binds together; the SSH host key of a binding that holds.
fn judge_binding(
    evidence: &Evidence,
    report: &VerifiedReport,
    session: &Session,
    recorder: &mut Recorder<'_>,
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

//! Judges GPU evidence by itself, without the VM that it belongs to: that the devices are
//! genuine and what state they are in, not whose they are.

use std::fmt;

use serde::Serialize;

use crate::chain::UnixTime;
use crate::gpu_evidence::GpuEvidence;
use crate::hash::Nonce;
use crate::platform::Platform;
use crate::roots::Roots;

use super::gpu::{self, Believed, GpuError, SecondOpinion};
use super::policy::GpuPolicy;
use super::verdict::{Check, CheckName, Outcome, Question, Recorder, write_checks};

/// A verifier of GPU evidence by itself.
#[derive(Debug, Clone, Copy)]
pub struct GpuAppraiser<'a> {
    /// What is accepted.
    pub policy: &'a GpuPolicy,
    /// Whom to believe, and the manifests to compare with.
    pub roots: &'a Roots,
    /// Whether simulated roots count.
    pub platform: Platform,
    /// The verifier's time.
    pub now: UnixTime,
}

/// The verdict on GPU evidence by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuVerdict {
    schema: u32,
    /// One sentence for a person.
    summary: String,
    simulated: bool,
    genuine: bool,
    acceptable: bool,
    checks: Vec<Check>,
}

impl GpuAppraiser<'_> {
    /// Judges the bytes of GPU evidence that was asked for with `nonce`.
    #[must_use]
    pub fn appraise(&self, evidence: &str, nonce: &Nonce) -> GpuVerdict {
        self.appraise_with(evidence, nonce, None)
    }

    /// As [`GpuAppraiser::appraise`], with what another verifier says of the same evidence.
    #[must_use]
    pub fn appraise_with(
        &self,
        evidence: &str,
        nonce: &Nonce,
        opinion: Option<&SecondOpinion>,
    ) -> GpuVerdict {
        let Self { policy, roots, platform, now } = *self;
        let believed = Believed { roots, platform, now, opinion };
        let mut recorder = Recorder::default();
        let devices = gpu::genuine(believed, Some(evidence), nonce, &mut recorder);
        let names = [CheckName::GpuCertificates, CheckName::GpuReports, CheckName::GpuNonce];
        let genuine = names.iter().all(|name| recorder.passed(*name));
        if genuine {
            gpu::unpromised(policy, &devices, &mut recorder);
            gpu::state(believed, policy, &devices, &mut recorder);
        }
        let simulated = platform == Platform::Simulated;
        let checks = recorder.into_checks();
        let failed = checks.iter().find(|check| check.outcome == Outcome::Failed);
        let acceptable = genuine && failed.is_none();
        let mark = if simulated { "SIMULATED, proves nothing: " } else { "" };
        let summary = match failed {
            None => format!("{mark}genuine and acceptable: {} devices", devices.len()),
            Some(check) => {
                let not = match check.question {
                    Question::Genuine => "not genuine",
                    Question::Acceptable => "genuine but not acceptable",
                };
                format!("{mark}{not}: {}: {}", check.name.text(), check.found)
            }
        };
        GpuVerdict { schema: GpuVerdict::SCHEMA, summary, simulated, genuine, acceptable, checks }
    }
}

impl GpuVerdict {
    /// The version of the format that this code writes.
    pub const SCHEMA: u32 = 1;

    /// Every check that was reached.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// One check.
    #[must_use]
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// 0 accepted, 2 not genuine, 3 genuine but not acceptable.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match (self.genuine, self.acceptable) {
            (true, true) => 0,
            (false, _) => 2,
            (true, false) => 3,
        }
    }

    /// One sentence for a person.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }
}

impl fmt::Display for GpuVerdict {
    /// A line for each check and one for the answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_checks(f, self.simulated, &self.checks)?;
        writeln!(f, "{}", self.summary)
    }
}

/// Why text is no GPU evidence.
#[derive(Debug, thiserror::Error)]
#[error("neither GPU evidence nor the list that NVIDIA's collector writes")]
pub struct ForeignError(#[source] GpuError);

/// Reads GPU evidence, or the list of `arch`, `evidence` and `certificate` that NVIDIA's own
/// collector writes, and gives the former.
///
/// # Errors
/// When it is neither.
pub fn read_foreign(text: &str) -> Result<String, ForeignError> {
    let read = |text: String| gpu::parse(&text).map(|_| text).map_err(ForeignError);
    if !text.trim_start().starts_with('[') {
        return read(text.to_owned());
    }
    let list: serde_json::Value =
        serde_json::from_str(text).map_err(|error| ForeignError(GpuError::Json(error)))?;
    let devices: Vec<serde_json::Value> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            serde_json::json!({
                "architecture": one["arch"],
                "report": one["evidence"],
                "certificates": one["certificate"],
            })
        })
        .collect();
    let evidence = serde_json::json!({ "schema": GpuEvidence::SCHEMA, "devices": devices });
    read(evidence.to_string())
}

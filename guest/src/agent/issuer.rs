//! Makes evidence: what this boot bound, and a report over it and a verifier's nonce.

use std::time::{Duration, Instant};

use casemate_measurements::binding::{Binding, gpu_nonce, report_data};
use casemate_measurements::canonical;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::platform::Platform;

use super::gpus::Gpus;
use super::http::Refusal;
use super::reporter::Reporter;

/// Answers nonces with evidence about this boot.
#[derive(Debug)]
pub struct Issuer {
    /// Who signs reports.
    pub platform: Platform,
    /// What this boot binds, without the evidence of GPUs, which each nonce has its own of.
    pub binding: Binding,
    /// The exact text of the launch config.
    pub launch_config: String,
    /// Asks for reports.
    pub reporter: Reporter,
    /// Asks the GPUs, if there are any.
    pub gpus: Option<Gpus>,
}

impl Issuer {
    /// The evidence for a nonce, as JSON.
    ///
    /// # Errors
    /// When no report is to be had within `patience`.
    pub fn evidence(&self, nonce: &Nonce, patience: Duration) -> Result<Vec<u8>, Refusal> {
        let end = Instant::now() + patience;
        let mut binding = self.binding.clone();
        let mut gpu_evidence = None;
        if let Some(gpus) = &self.gpus {
            let nonce = gpu_nonce(nonce, &binding.tls_spki_sha256);
            let text = gpus.evidence(nonce, patience).map_err(unavailable)?;
            binding.gpu_evidence_sha256 = Some(Sha256Hash::of(text.as_bytes()));
            gpu_evidence = Some(text);
        }
        let binding = canonical::to_vec(&binding).map_err(unavailable)?;
        let data = report_data(nonce, &binding);
        let left = end.saturating_duration_since(Instant::now());
        let quote = self.reporter.report(data, left).map_err(unavailable)?;
        let (report, certificates) = quote.into_parts();
        let evidence = Evidence {
            schema: Evidence::SCHEMA,
            platform: self.platform,
            nonce: *nonce,
            report: Base64Bytes(report),
            certificates: Base64Bytes(certificates),
            binding: String::from_utf8(binding).map_err(unavailable)?,
            launch_config: self.launch_config.clone(),
            gpu_evidence,
        };
        serde_json::to_vec(&evidence).map_err(unavailable)
    }
}

/// What a client is told: which step failed, and why.
fn unavailable(error: impl std::error::Error) -> Refusal {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Refusal::Unavailable(text)
}

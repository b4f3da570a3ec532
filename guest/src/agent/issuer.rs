//! Makes evidence: what this boot bound, and a report over it and a verifier's nonce.

use std::time::Duration;

use casemate_measurements::binding::report_data;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::Nonce;
use casemate_measurements::platform::Platform;

use super::http::Refusal;
use super::reporter::Reporter;

/// Answers nonces with evidence about this boot.
#[derive(Debug)]
pub struct Issuer {
    platform: Platform,
    binding: String,
    launch_config: String,
    reporter: Reporter,
}

impl Issuer {
    /// Binds a boot: `binding` and `launch_config` are the exact texts that are hashed.
    #[must_use]
    pub const fn new(
        platform: Platform,
        binding: String,
        launch_config: String,
        reporter: Reporter,
    ) -> Self {
        Self { platform, binding, launch_config, reporter }
    }

    /// The evidence for a nonce, as JSON.
    ///
    /// # Errors
    /// When no report is to be had within `patience`.
    pub fn evidence(&self, nonce: &Nonce, patience: Duration) -> Result<Vec<u8>, Refusal> {
        let data = report_data(nonce, self.binding.as_bytes());
        let quote = self
            .reporter
            .report(data, patience)
            .map_err(|error| Refusal::Unavailable(error.to_string()))?;
        let (report, certificates) = quote.into_parts();
        let evidence = Evidence {
            schema: Evidence::SCHEMA,
            platform: self.platform,
            nonce: *nonce,
            report: Base64Bytes(report),
            certificates: Base64Bytes(certificates),
            binding: self.binding.clone(),
            launch_config: self.launch_config.clone(),
            gpu_evidence: None,
        };
        serde_json::to_vec(&evidence).map_err(|error| Refusal::Unavailable(error.to_string()))
    }
}

//! What the module is asked, and by which code it is judged.

use std::time::Duration;

use casemate_measurements::appraisal::policy_file::{PolicyFile, PolicyFileError};
use casemate_measurements::appraisal::{
    Appraiser, Basis, Expect, KnownRelease, Policy, ReportAppraiser, Session,
};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::{ChainError, UnixTime};
use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::manifest::{Manifest, ManifestError};
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;
use serde::Deserialize;
use serde_json::Value;

/// Why nothing was judged.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is no request.
    #[error("the request is refused; expected {{\"report\": …}} or {{\"evidence\": …}}")]
    Json(#[source] serde_json::Error),
    /// The manifest is refused.
    #[error("the manifest is refused")]
    Manifest(#[source] ManifestError),
    /// The policy is refused.
    #[error("the policy is refused")]
    Policy(#[source] PolicyFileError),
    /// The roots cannot be used.
    #[error("the simulated root is refused")]
    Root(#[source] ChainError),
    /// The verdict cannot be written.
    #[error("the verdict cannot be written")]
    Verdict(#[source] serde_json::Error),
}

/// What is to be judged.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Request {
    /// A report alone.
    Report(ReportRequest),
    /// The evidence of a VM.
    Evidence(Box<EvidenceRequest>),
}

/// A report and the certificates of the key that signed it, DER or PEM, in base64.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportRequest {
    /// The report.
    pub report: Base64Bytes,
    /// The certificate of the chip's key; absent where a provider's key signed.
    #[serde(default)]
    pub vcek: Option<Base64Bytes>,
    /// The certificate of the provider's key; absent where a chip's key signed.
    #[serde(default)]
    pub vlek: Option<Base64Bytes>,
    /// The certificate of its issuer.
    pub ask: Base64Bytes,
    /// Seconds since 1970, by the clock of who asks.
    pub now: u64,
}

/// Evidence as it came, and what it is held to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRequest {
    /// The body of the VM's answer.
    pub evidence: String,
    /// The text of the release's `manifest.json`.
    pub manifest: String,
    /// The nonce that the VM was asked with.
    pub nonce: Nonce,
    /// SHA-256 of the DER `SubjectPublicKeyInfo` of the TLS key of the session.
    pub tls_spki_sha256: Sha256Hash,
    /// Milliseconds from asking with the nonce to the end of the answer.
    pub elapsed_ms: u64,
    /// Seconds since 1970, by the clock of who asks.
    pub now: u64,
    /// The text of a policy file; the strict policy for the release when left out.
    #[serde(default)]
    pub policy: Option<String>,
    /// The root of the simulated platform, DER or PEM, in base64: with it only that platform is
    /// accepted, and proves nothing.
    #[serde(default)]
    pub trust_simulated: Option<Base64Bytes>,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is not the expected JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        serde_json::from_slice(bytes).map_err(RequestError::Json)
    }

    /// Judges it, as every other program of casemate does.
    ///
    /// # Errors
    /// When what it is to be judged by is refused; what is judged never is an error.
    pub fn judge(&self) -> Result<Value, RequestError> {
        match self {
            Self::Report(request) => request.judge(),
            Self::Evidence(request) => request.judge(),
        }
    }
}

impl ReportRequest {
    fn judge(&self) -> Result<Value, RequestError> {
        let roots = Roots::amd().map_err(RequestError::Root)?;
        let bytes = |field: &Option<Base64Bytes>| field.as_ref().map(|bytes| bytes.0.clone());
        let table = CertificateTable {
            vcek: bytes(&self.vcek),
            vlek: bytes(&self.vlek),
            ask: Some(self.ask.0.clone()),
            ark: None,
        };
        let appraiser = ReportAppraiser {
            basis: Basis::new(&roots, UnixTime(self.now)),
            platform: Platform::Snp,
            report_data: Expect::Any,
            measurement: Expect::Any,
        };
        let verdict = appraiser.appraise(&self.report.0, &table);
        serde_json::to_value(verdict).map_err(RequestError::Verdict)
    }
}

impl EvidenceRequest {
    fn judge(&self) -> Result<Value, RequestError> {
        let manifest =
            Manifest::from_bytes(self.manifest.as_bytes()).map_err(RequestError::Manifest)?;
        let roots = Roots::amd().map_err(RequestError::Root)?;
        let policy = match &self.policy {
            None => Policy::for_release(&manifest.release),
            Some(text) => PolicyFile::parse(text).map_err(RequestError::Policy)?,
        };
        let (roots, policy) = match &self.trust_simulated {
            None => (roots, policy),
            Some(root) => {
                let roots = roots.with_simulated(&root.0).map_err(RequestError::Root)?;
                (roots, policy.simulated())
            }
        };
        let basis = Basis::new(&roots, UnixTime(self.now));
        let releases = [KnownRelease::new(manifest).map_err(RequestError::Manifest)?];
        let appraiser = Appraiser { releases: &releases, policy: &policy, basis };
        let session = Session {
            nonce: self.nonce,
            tls_spki_sha256: self.tls_spki_sha256,
            elapsed: Duration::from_millis(self.elapsed_ms),
        };
        let verdict = appraiser.appraise(self.evidence.as_bytes(), &session);
        serde_json::to_value(verdict).map_err(RequestError::Verdict)
    }
}

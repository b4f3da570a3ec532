//! What the module is asked about signatures.

use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Manifest, ManifestError};
use casemate_registry::verify::{
    BundleSummary, Policy, PolicyError, PolicySource, judge_manifest, unjudged,
};
use serde::{Deserialize, Serialize};

/// Most signature files that are judged.
const MAX_BUNDLES: usize = 256;

/// Why nothing was judged.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is no request.
    #[error("the request is refused; expected {{\"manifest\": …, \"policy\": …, \"bundles\": …}}")]
    Json(#[source] serde_json::Error),
    /// There are too many signature files.
    #[error("{0} signature files, expected at most {MAX_BUNDLES}")]
    TooMany(usize),
    /// The manifest is refused.
    #[error("the manifest is refused")]
    Manifest(#[source] ManifestError),
    /// The policy is refused.
    #[error("the signers are refused")]
    Policy(#[source] PolicyError),
}

/// A signature file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// What it is called.
    pub path: String,
    /// A Sigstore bundle.
    pub text: String,
}

/// What is to be judged, and by whom.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The bytes of `manifest.json`, in base64.
    pub manifest: Base64Bytes,
    /// Whom to believe.
    pub policy: PolicySource,
    /// The files that sign the manifest.
    pub bundles: Vec<Bundle>,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// SHA-256 of the manifest.
    pub manifest_sha256: Sha256Hash,
    /// Whether enough signed, and nothing else is demanded.
    pub trusted: bool,
    /// What is demanded beside and was not judged here.
    pub lacks: Option<&'static str>,
    /// How many must.
    pub threshold: usize,
    /// Of how many.
    pub of: usize,
    /// Who signed.
    pub signers: Vec<String>,
    /// Each file.
    pub bundles: Vec<BundleSummary>,
}

/// What a request is answered with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What was found.
    Signatures(Verified),
    /// The request made no sense, so nothing was judged.
    Error(String),
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// When it is not the expected JSON, or too much.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let request: Self = serde_json::from_slice(bytes).map_err(RequestError::Json)?;
        match request.bundles.len() {
            many if many > MAX_BUNDLES => Err(RequestError::TooMany(many)),
            _ => Ok(request),
        }
    }

    /// Judges it, as every other program of casemate does.
    ///
    /// # Errors
    /// When manifest or signers are refused; what does not count never is an error.
    pub fn judge(self) -> Result<Verified, RequestError> {
        let Self { manifest: Base64Bytes(bytes), policy, bundles } = self;
        let manifest = Manifest::from_bytes(&bytes).map_err(RequestError::Manifest)?;
        let policy = Policy::from_source(&policy).map_err(RequestError::Policy)?;
        let bundles: Vec<_> =
            bundles.into_iter().map(|bundle| (bundle.path, bundle.text.into_bytes())).collect();
        let judgement = judge_manifest(&manifest, &bytes, &bundles, &policy, None);
        let lacks = unjudged(&policy);
        Ok(Verified {
            manifest_sha256: Sha256Hash::of(&bytes),
            trusted: judgement.is_trusted() && lacks.is_none(),
            lacks,
            threshold: judgement.threshold,
            of: judgement.of,
            bundles: judgement.bundles.iter().map(BundleSummary::new).collect(),
            signers: judgement.signers,
        })
    }
}

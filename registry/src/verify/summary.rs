//! What became of a bundle, for people and machines that did not see it judged.

use casemate_measurements::causes;
use serde::Serialize;

use super::{Identity, Judged};

/// A bundle and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct BundleSummary {
    /// The bundle.
    pub file: String,
    /// `counts`, `spare` for one that proves something but adds nobody, or `refused`.
    pub result: &'static str,
    /// The signer whom it counts for.
    pub signer: Option<String>,
    /// Who signed.
    pub identity: Option<Identity>,
    /// When at the latest, as a log or a timestamp authority says it; RFC 3339.
    pub signed_by: Option<String>,
    /// Whether an entry in a transparency log was verified.
    pub logged: bool,
    /// Why it proves nothing.
    pub problem: Option<String>,
}

impl BundleSummary {
    /// Sums up.
    #[must_use]
    pub fn new(judged: &Judged) -> Self {
        let (proof, problem) = match &judged.outcome {
            Ok(proof) => (Some(proof), None),
            Err(refusal) => (None, Some(causes::in_one_line(refusal))),
        };
        let result = match (&proof, &judged.counts_for) {
            (None, _) => "refused",
            (Some(_), Some(_)) => "counts",
            (Some(_), None) => "spare",
        };
        Self {
            file: judged.name.clone(),
            result,
            signer: judged.counts_for.clone(),
            identity: proof.map(|proof| proof.identity.clone()),
            signed_by: proof.and_then(|proof| proof.signed_by.clone()),
            logged: proof.is_some_and(|proof| proof.logged),
            problem,
        }
    }
}

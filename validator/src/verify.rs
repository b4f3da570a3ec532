//! Asks a VM for evidence about a nonce nobody has seen before, and has the answer judged.
//!
//! A nonce is used once and never leaves this module before the evidence is in, so evidence that
//! was made earlier cannot pass. The judgement itself is `casemate_measurements`' and knows no
//! network; what is added here is that the TLS key it compares is the one of the very session
//! that the evidence came over.

use casemate_measurements::hash::Nonce;

use crate::fetch::{self, FetchError, Fetched, Limits};
use crate::target::Target;

/// Why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The operating system gives no random bytes.
    #[error("no random bytes for a nonce: the operating system's generator failed")]
    Nonce(#[source] getrandom::Error),
    /// No evidence was fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Evidence and the nonce that it was asked for with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The nonce.
    pub nonce: Nonce,
    /// What came back, and over whose session.
    pub fetched: Fetched,
}

/// Asks `target` for evidence with a fresh nonce, without judging it.
///
/// # Errors
/// When there is no nonce to be had or no evidence was fetched.
pub fn ask(target: &Target, limits: &Limits) -> Result<Answer, VerifyError> {
    let mut bytes = [0; Nonce::LEN];
    getrandom::fill(&mut bytes).map_err(VerifyError::Nonce)?;
    let nonce = Nonce::from_bytes(bytes);
    let fetched = fetch::fetch_evidence(target, &nonce, limits)?;
    Ok(Answer { nonce, fetched })
}

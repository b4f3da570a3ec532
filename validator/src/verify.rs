//! Asks a VM for evidence about a nonce nobody has seen before, and has the answer judged.
//!
//! A nonce is used once, so evidence that was made earlier cannot pass. The judgement itself is
//! `casemate_measurements`' and knows no network; what is added here is that the TLS key it
//! compares is the one of the very session that the evidence came over. Verified is what the
//! report says of one VM at one moment; whether the release is a trustworthy one is not.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use casemate_measurements::appraisal::{Appraiser, Policy, Session, Verdict};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::hash::Nonce;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::roots::Roots;

use crate::fetch::{self, FetchError, Limits};
use crate::host_key::{HostKey, HostKeyError};
use crate::target::Target;

/// Why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The operating system gives no random bytes.
    #[error("no random bytes for a nonce: the operating system's generator failed")]
    Nonce(#[source] getrandom::Error),
    /// The clock is wrong.
    #[error("the clock of this machine is before 1970: set it, certificates are judged by it")]
    Clock,
    /// No evidence was fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// What a verifier wants, whom it believes and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The release that is wanted.
    pub manifest: &'a Manifest,
    /// What is accepted.
    pub policy: &'a Policy,
    /// Whom to believe.
    pub roots: &'a Roots,
    /// What asking may cost.
    pub limits: Limits,
    /// The verifier's time, by which certificates are judged: [`now`].
    pub now: UnixTime,
}

/// A verdict and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The verdict: every check, and the two answers.
    pub verdict: Verdict,
    /// The nonce that was sent.
    pub nonce: Nonce,
    /// The evidence as it came, for whoever wants to keep or judge it again.
    pub evidence: Vec<u8>,
    /// The address that answered.
    pub peer: SocketAddr,
    /// How long the answer took.
    pub elapsed: Duration,
}

impl Verified {
    /// The SSH host key that an accepted VM attested; `None` where the verdict is another.
    ///
    /// # Errors
    /// When the VM attested something that is no ed25519 host key.
    pub fn host_key(&self) -> Result<Option<HostKey>, HostKeyError> {
        self.verdict.attested_ssh_host_key().map(str::parse).transpose()
    }
}

/// The time by this machine's clock.
///
/// # Errors
/// When the clock is before 1970.
pub fn now() -> Result<UnixTime, VerifyError> {
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => Ok(UnixTime(since.as_secs())),
        Err(_) => Err(VerifyError::Clock),
    }
}

impl Verifier<'_> {
    /// Asks `target` for evidence with a fresh nonce and judges the answer. Evidence that is
    /// refused is no error: the verdict says so.
    ///
    /// # Errors
    /// When there is no nonce to be had or no evidence was fetched.
    pub fn verify(&self, target: &Target) -> Result<Verified, VerifyError> {
        let mut bytes = [0; Nonce::LEN];
        getrandom::fill(&mut bytes).map_err(VerifyError::Nonce)?;
        let nonce = Nonce::from_bytes(bytes);
        let fetched = fetch::fetch_evidence(target, &nonce, &self.limits)?;
        let session = Session { nonce, tls_spki_sha256: fetched.tls_spki_sha256 };
        let Self { manifest, policy, roots, now, .. } = *self;
        let verdict =
            Appraiser { manifest, policy, roots, now }.appraise(&fetched.evidence, &session);
        let fetch::Fetched { evidence, peer, elapsed, .. } = fetched;
        Ok(Verified { verdict, nonce, evidence, peer, elapsed })
    }
}

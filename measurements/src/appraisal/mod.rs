//! Judges evidence. Two questions in two places: *genuine?* — did a trusted security processor
//! say this, now, about whom the verifier talks to — and *acceptable?* — is what it said wanted.
//!
//! Every check is listed with what was expected and found. What the report says is compared only
//! after its signature was verified. Not judged here: revocation of certificates, the contents of
//! GPU evidence, and whether the manifest is the right one, which is its signature's matter.

mod acceptable;
mod genuine;
mod policy;
mod verdict;

pub use policy::{Expect, MachinePolicy, Policy, UnlistedShapes};
pub use verdict::{Check, CheckName, Outcome, Question, Verdict};

use crate::chain::UnixTime;
use crate::hash::{Nonce, Sha256Hash};
use crate::manifest::Manifest;
use crate::roots::Roots;
use verdict::Recorder;

/// What the verifier knows of the session that the evidence came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The nonce that was sent, used once.
    pub nonce: Nonce,
    /// SHA-256 of the DER `SubjectPublicKeyInfo` of the TLS key of the session.
    pub tls_spki_sha256: Sha256Hash,
}

/// A verifier: whom it believes, what it wants, and what time it is.
#[derive(Debug, Clone, Copy)]
pub struct Appraiser<'a> {
    /// The release that is wanted.
    pub manifest: &'a Manifest,
    /// What is accepted.
    pub policy: &'a Policy,
    /// Whom to believe.
    pub roots: &'a Roots,
    /// The verifier's time.
    pub now: UnixTime,
}

impl Appraiser<'_> {
    /// Judges the bytes of evidence that came over `session`.
    #[must_use]
    pub fn appraise(&self, evidence: &[u8], session: &Session) -> Verdict {
        let mut recorder = Recorder::default();
        let claim = genuine::judge(self, evidence, session, &mut recorder);
        if let Some(claim) = claim.filter(|_| recorder.holds(Question::Genuine)) {
            acceptable::judge(self, &claim, &mut recorder);
        }
        recorder.finish(&self.manifest.release)
    }
}

//! Judges evidence. Two questions in two places: *genuine?* — did a trusted security processor
//! say this, now, about whom the verifier talks to — and *acceptable?* — is what it said wanted.
//!
//! Every check is listed with what was expected and found. What the report says is compared only
//! after its signature was verified. Not judged here: whether the manifest is the right one, which
//! is its signature's matter.
//!
//! Evidence of a VM is judged by [`Appraiser`], a report without any by [`ReportAppraiser`].

mod acceptable;
mod basis;
mod expect;
mod genuine;
mod gpu;
mod gpu_alone;
mod id_block;
mod known;
mod policy;
pub mod policy_file;
mod policy_lines;
mod release;
mod release_rules;
mod report;
mod rules;
mod source;
mod verdict;

pub use basis::Basis;
pub use expect::Expect;
pub use gpu::{SecondOpinion, missing_gpu_manifests};
pub use gpu_alone::{ForeignError, GpuAppraiser, GpuVerdict, read_foreign};
pub use id_block::{IdBlockPolicy, IdRule};
pub use known::KnownRelease;
pub use policy::{
    Allowance, ChipPolicy, GpuPolicy, GuestPolicyRule, MachinePolicy, Origin, Policy, Releases,
    RevocationPolicy, ShapePolicy, UnlistedShapes,
};
pub use policy_lines::Line;
pub use release_rules::{MinimumVersion, ReleaseRule, Revoked};
pub use report::{ReportAppraiser, ReportVerdict, Statement};
pub use rules::{AnswerTime, Expiry, RuleError, SshKey, VcpuRange, Vmpl};
pub use source::Source;
pub use verdict::{Check, CheckName, Outcome, Question, Verdict};

use std::time::Duration;

use crate::hash::{Nonce, Sha256Hash};
use verdict::Recorder;

/// What the verifier knows of the session that the evidence came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The nonce that was sent, used once.
    pub nonce: Nonce,
    /// SHA-256 of the DER `SubjectPublicKeyInfo` of the TLS key of the session.
    pub tls_spki_sha256: Sha256Hash,
    /// How long the whole exchange took. The nonce is fresh, so the evidence is no older.
    pub elapsed: Duration,
}

/// A verifier of VMs: what it wants and what its judgement rests on.
#[derive(Debug, Clone, Copy)]
pub struct Appraiser<'a> {
    /// The releases that it holds; which of them is accepted says the policy.
    pub releases: &'a [KnownRelease],
    /// What is accepted.
    pub policy: &'a Policy,
    /// Whom it believes, at what time.
    pub basis: Basis<'a>,
}

impl Appraiser<'_> {
    /// Judges the bytes of evidence that came over `session`.
    #[must_use]
    pub fn appraise(&self, evidence: &[u8], session: &Session) -> Verdict {
        let mut recorder = Recorder::of(self.policy);
        let claim = genuine::judge(self, evidence, session, &mut recorder);
        if let Some(claim) = claim.filter(|_| recorder.holds(Question::Genuine)) {
            acceptable::judge(self, &claim, session, &mut recorder);
        }
        recorder.finish()
    }
}

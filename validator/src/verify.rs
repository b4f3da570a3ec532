//! Asks a VM for evidence about a nonce nobody has seen before, and has the answer judged.
//!
//! A nonce is used once, so evidence that was made earlier cannot pass. The judgement itself is
//! `casemate_measurements`' and knows no network; what is added here is that the TLS key it
//! compares is the one of the very session that the evidence came over. Verified is what the
//! report says of one VM at one moment; whether the release is a trustworthy one is not.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use casemate_measurements::appraisal::{
    Appraiser, Basis, KnownRelease, Policy, RevocationPolicy, SecondOpinion, Session, Verdict,
};
use casemate_measurements::binding;
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::{self, Evidence};
use casemate_measurements::hash::Nonce;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Report;
use casemate_measurements::revocation::RevocationList;
use casemate_measurements::roots::Roots;

use crate::certificates::{Certificates, CertificatesError, Collateral, WantList};
use crate::fetch::{self, FetchError, Limits};
use crate::host_key::{HostKey, HostKeyError};
use crate::second_opinion::NvAttest;
use crate::target::Target;
use crate::trust;

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
    /// The evidence came without certificates, and there are none to be had. That says nothing
    /// about the VM.
    #[error("the evidence lacks certificates, and they are not to be had elsewhere")]
    Certificates(#[source] CertificatesError),
}

/// What a verifier wants, whom it believes and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The releases that it holds; which of them is accepted says the policy.
    pub releases: &'a [KnownRelease],
    /// What is accepted.
    pub policy: &'a Policy,
    /// Whom to believe.
    pub roots: &'a Roots,
    /// Where certificates and revocation lists come from that the VM does not send.
    pub certificates: &'a Certificates,
    /// Revocation lists that were given by hand; the others are looked for where there is none.
    pub revocation_lists: &'a [RevocationList],
    /// NVIDIA's own verifier, where the GPUs are to be held to its word too.
    pub nvattest: Option<&'a NvAttest>,
    /// What asking may cost.
    pub limits: Limits,
    /// The verifier's time, by which certificates are judged: [`now`].
    pub now: UnixTime,
}

/// A verdict and what it is about.
#[derive(Debug, Clone)]
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
    /// What could not be had, where the verdict may rest on its lack.
    pub notes: Vec<CertificatesError>,
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
        let fetch::Fetched { tls_spki_sha256, elapsed, .. } = fetched;
        let session = Session { nonce, tls_spki_sha256, elapsed };
        let Collateral { certificates, missing, mut revocation_lists, no_list } =
            self.collect(&fetched.evidence, &nonce);
        if let Some(error) = missing.as_ref().filter(|error| !error.is_about_the_report()) {
            return Err(VerifyError::Certificates(error.clone()));
        }
        revocation_lists.extend_from_slice(self.revocation_lists);
        let (roots, no_manifests) = self.roots_for(&fetched.evidence, &nonce);
        let opinion = self.opinion_of(&fetched.evidence, &session);
        let basis = Basis::new(&roots, self.now)
            .with_certificates(&certificates)
            .with_revocation_lists(&revocation_lists)
            .with_gpu_opinion(opinion.as_ref())
            .with_chains(self.certificates.chains());
        let appraiser = Appraiser { releases: self.releases, policy: self.policy, basis };
        let verdict = appraiser.appraise(&fetched.evidence, &session);
        let notes = missing.into_iter().chain(no_list).chain(no_manifests).collect();
        let fetch::Fetched { evidence, peer, .. } = fetched;
        Ok(Verified { verdict, nonce, evidence, peer, elapsed, notes })
    }

    /// The roots, with the manifests of the GPUs in the evidence where they are to be had, and why
    /// some are not.
    fn roots_for(
        &self,
        evidence: &[u8],
        nonce: &Nonce,
    ) -> (Cow<'_, Roots>, Vec<CertificatesError>) {
        let without = (Cow::Borrowed(self.roots), Vec::new());
        let gpus = self.parsed(evidence, nonce).and_then(|evidence| evidence.gpu_evidence);
        let Some(gpus) = gpus.filter(|_| self.policy.gpu_evidence.accepts(&true) != Some(false))
        else {
            return without;
        };
        let platform = Platform::Snp;
        let (found, missing) =
            self.certificates.gpu_manifests(&gpus, platform, self.roots, self.now);
        (trust::with_manifests(self.roots, &found), missing)
    }

    /// What NVIDIA's own verifier says of the GPUs, where it is to be asked.
    fn opinion_of(&self, evidence: &[u8], session: &Session) -> Option<SecondOpinion> {
        let verifier = self.nvattest?;
        let gpus = self.parsed(evidence, &session.nonce)?.gpu_evidence?;
        let nonce = binding::gpu_nonce(&session.nonce, &session.tls_spki_sha256);
        Some(verifier.ask(&gpus, &nonce))
    }

    /// Evidence that is worth the trouble of looking for what it lacks: of a real platform that
    /// is accepted, about this nonce. Everything else is refused without.
    fn parsed(&self, evidence: &[u8], nonce: &Nonce) -> Option<Evidence> {
        let bytes = Some(evidence).filter(|bytes| bytes.len() <= evidence::MAX_LEN)?;
        serde_json::from_slice::<Evidence>(bytes).ok().filter(|evidence| {
            let accepted = self.policy.platform.accepts(&evidence.platform) != Some(false);
            evidence.platform == Platform::Snp && accepted && evidence.nonce == *nonce
        })
    }

    /// Looks for the certificates and the revocation list that the evidence lacks.
    fn collect(&self, evidence: &[u8], nonce: &Nonce) -> Collateral {
        let Some(evidence) = self.parsed(evidence, nonce) else { return Collateral::default() };
        let report = Report::parse(&evidence.report.0);
        let table = CertificateTable::parse(&evidence.certificates.0);
        let (Ok(report), Ok(table)) = (report, table) else { return Collateral::default() };
        let want_list = match self.policy.revocation {
            _ if !self.revocation_lists.is_empty() => WantList::No,
            RevocationPolicy::Required => WantList::Ask,
            RevocationPolicy::WhenGiven => WantList::Cached,
        };
        let (platform, Self { certificates, roots, now, .. }) = (evidence.platform, self);
        certificates.collect(&report, &table, platform, want_list, roots, *now)
    }
}

//! Judges bundles against a policy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use casemate_measurements::hash::Sha256Hash;
use serde::Serialize;
use sigstore_verify::types::artifact::ArtifactDigest;
use sigstore_verify::types::bundle::VerificationMaterialContent;
use sigstore_verify::types::{Artifact, Sha256Hash as SigstoreHash};
use sigstore_verify::{PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult};

use super::matching::assign;
use super::policy::{Known, Log, Policy};
use crate::attestation::{BundleError, SignedStatement, StatementError, Subjects};
use crate::public_key::PublicKey;

/// What must have been signed.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The kind of the predicate.
    pub predicate_type: &'static str,
    /// The files it must be about, all of them and no other.
    pub subjects: &'a Subjects,
    /// What else must hold of it.
    pub predicate: &'a dyn Predicate,
}

/// What a predicate is held to.
pub trait Predicate: fmt::Debug {
    /// Holds a statement's predicate to what it must say.
    ///
    /// # Errors
    /// When it says something else.
    fn check(&self, statement: &crate::attestation::Statement) -> Result<(), StatementError>;
}

/// Why a bundle proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no bundle around a statement.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Nobody's key that is trusted.
    #[error(
        "it is signed with a key (hint {hint:?}) that is no signer's of the policy, or not signed \
         by it"
    )]
    UnknownKey {
        /// What the bundle says of the key.
        hint: String,
    },
    /// The signature is not the key's.
    #[error("the signature is not of the key of signer {name:?}, as the bundle says it is")]
    Signature {
        /// The signer whose key is named.
        name: String,
    },
    /// It must be in a log.
    #[error("signer {name:?} has to log what he signs, and there is no log entry")]
    NotLogged {
        /// The signer.
        name: String,
    },
    /// There is nothing to verify its log entry, timestamp or certificate with.
    #[error("it needs a trusted root to verify ({what}), and the policy names none")]
    NoRoot {
        /// What needs it.
        what: &'static str,
    },
    /// Certificate, log entry, timestamp or signature do not hold.
    #[error("it is not genuine")]
    NotGenuine(#[source] Box<sigstore_verify::Error>),
    /// It is somebody else's.
    #[error("it is signed by {subject} of {issuer}, {problem}")]
    Stranger {
        /// Who signed.
        subject: String,
        /// Who says so.
        issuer: String,
        /// What differs from the nearest signer.
        problem: String,
    },
    /// The certificate names nobody.
    #[error("its certificate names no issuer and identity")]
    Nameless,
    /// It says something else.
    #[error("it is genuine, but says something else")]
    Statement(#[source] StatementError),
}

/// Who signed, as verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Whoever has the key of this SHA-256.
    Key(Sha256Hash),
    /// Whoever an issuer says it was.
    Certificate {
        /// The issuer.
        issuer: String,
        /// Who.
        subject: String,
    },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(sha256) => write!(f, "key {sha256}"),
            Self::Certificate { issuer, subject } => write!(f, "{subject} ({issuer})"),
        }
    }
}

/// What a bundle proves.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// Who signed.
    pub identity: Identity,
    /// When at the latest, as a log or a timestamp authority says it; RFC 3339.
    pub signed_by: Option<String>,
    /// Whether an entry in a transparency log was verified.
    pub logged: bool,
    /// The signers of the policy that this may be.
    #[serde(skip)]
    may_be: Vec<usize>,
}

/// A bundle and what became of it.
#[derive(Debug)]
pub struct Judged {
    /// What the bundle is called, for people.
    pub name: String,
    /// What it proves.
    pub outcome: Result<Proof, Refusal>,
    /// The signer of the policy whom it counts for; `None` also where he already counts.
    pub counts_for: Option<String>,
}

/// Whether enough signed.
#[derive(Debug)]
pub struct Judgement {
    /// Every bundle.
    pub bundles: Vec<Judged>,
    /// The signers who signed.
    pub signers: Vec<String>,
    /// How many must.
    pub threshold: usize,
    /// How many there are.
    pub of: usize,
}

impl Judgement {
    /// Whether enough signed.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.signers.len() >= self.threshold
    }
}

/// Judges bundles: each alone, then how many signers they are of. With `counted` nobody else
/// counts.
#[must_use]
pub fn judge(
    bundles: &[(String, Vec<u8>)],
    expected: &Expected<'_>,
    policy: &Policy,
    counted: Option<&BTreeSet<Identity>>,
) -> Judgement {
    let outcomes: Vec<_> = bundles
        .iter()
        .map(|(_, bytes)| {
            let signed = SignedStatement::from_bytes(bytes).map_err(Refusal::from)?;
            prove(&signed, expected, policy)
        })
        .collect();
    // One identity counts once, however often it signed.
    let mut identities: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
    let counts = |proof: &&Proof| counted.is_none_or(|counted| counted.contains(&proof.identity));
    for proof in outcomes.iter().flatten().filter(counts) {
        identities.entry(proof.identity.clone()).or_insert_with(|| proof.may_be.clone());
    }
    let may_be: Vec<Vec<usize>> = identities.values().cloned().collect();
    let assigned = assign(&may_be, policy.signers.len());
    let name = |signer: usize| policy.signers[signer].name.clone();
    let mut counts: BTreeMap<Identity, String> = identities
        .into_keys()
        .zip(&assigned)
        .filter_map(|(identity, signer)| Some((identity, name((*signer)?))))
        .collect();
    let mut signers: Vec<usize> = assigned.into_iter().flatten().collect();
    signers.sort_unstable();
    let judged = bundles.iter().zip(outcomes).map(|((name, _), outcome)| {
        let counts_for = outcome.as_ref().ok().and_then(|proof| counts.remove(&proof.identity));
        Judged { name: name.clone(), outcome, counts_for }
    });
    Judgement {
        bundles: judged.collect(),
        signers: signers.into_iter().map(name).collect(),
        threshold: policy.threshold,
        of: policy.signers.len(),
    }
}

/// What one bundle proves.
fn prove(
    signed: &SignedStatement,
    expected: &Expected<'_>,
    policy: &Policy,
) -> Result<Proof, Refusal> {
    let proof = match &signed.bundle().verification_material.content {
        VerificationMaterialContent::PublicKey(key) => by_key(signed, &key.hint, policy)?,
        _ => by_certificate(signed, policy)?,
    };
    let statement = signed.statement();
    let held = || {
        statement.check_kind(expected.predicate_type)?;
        statement.check_subjects(expected.subjects)?;
        expected.predicate.check(statement)
    };
    held().map_err(Refusal::Statement)?;
    Ok(proof)
}

/// A bundle that a key signed. Without log entry and timestamp there is nothing to it but the
/// signature.
fn by_key(signed: &SignedStatement, hint: &str, policy: &Policy) -> Result<Proof, Refusal> {
    let Some(envelope) = signed.envelope() else { return Err(BundleError::NoEnvelope.into()) };
    let (message, signature) = (envelope.pae(), envelope.signature.sig.as_bytes());
    let mut named = None;
    let mut found = None;
    for (index, signer) in policy.signers.iter().enumerate() {
        let Known::Key { key, log } = &signer.known else { continue };
        if key.hint() == hint {
            named = Some(&signer.name);
        }
        if key.verifies(&message, signature) {
            found = Some((index, &signer.name, key, *log));
            break;
        }
    }
    let Some((index, name, key, log)) = found else {
        return Err(match named {
            Some(name) => Refusal::Signature { name: name.clone() },
            None => Refusal::UnknownKey { hint: hint.chars().take(80).collect() },
        });
    };
    let material = &signed.bundle().verification_material;
    let logged = !material.tlog_entries.is_empty();
    if log == Log::Required && !logged {
        return Err(Refusal::NotLogged { name: name.clone() });
    }
    let stamped = !material.timestamp_verification_data.rfc3161_timestamps.is_empty();
    let signed_by =
        if logged || stamped { latest(&with_log(signed, key, logged, policy)?) } else { None };
    Ok(Proof { identity: Identity::Key(*key.sha256()), signed_by, logged, may_be: vec![index] })
}

/// Holds log entry and timestamp of what a key signed to the trusted root.
fn with_log(
    signed: &SignedStatement,
    key: &PublicKey,
    logged: bool,
    policy: &Policy,
) -> Result<VerificationResult, Refusal> {
    let what = if logged { "a log entry" } else { "a timestamp" };
    let verifier = policy.verifier.as_ref().ok_or(Refusal::NoRoot { what })?;
    let mut held = PublicKeyVerificationPolicy::new(key.to_der());
    if !logged {
        held = held.skip_tlog_unsafe();
    }
    let result = verifier.verify(subject(signed)?, signed.bundle(), &held);
    result.map_err(|error| Refusal::NotGenuine(error.into()))
}

/// A bundle with a certificate: chain, certificate log, time, transparency log and signature must
/// hold, then it must name a signer of the policy.
fn by_certificate(signed: &SignedStatement, policy: &Policy) -> Result<Proof, Refusal> {
    let verifier = policy.verifier.as_ref().ok_or(Refusal::NoRoot { what: "a certificate" })?;
    let result = verifier
        .verify(subject(signed)?, signed.bundle(), &VerificationPolicy::any_identity())
        .map_err(|error| Refusal::NotGenuine(error.into()))?;
    let (Some(issuer), Some(subject)) = (result.issuer(), result.identity()) else {
        return Err(Refusal::Nameless);
    };
    let (issuer, subject) = (issuer.to_owned(), subject.as_str().to_owned());
    let mut of_issuer = None;
    let mut may_be = Vec::new();
    for (index, signer) in policy.signers.iter().enumerate() {
        let Known::Identity { issuer: expected, subject: pattern } = &signer.known else {
            continue;
        };
        if *expected == issuer {
            of_issuer = Some((&signer.name, pattern));
            if pattern.matches(&subject) {
                may_be.push(index);
            }
        }
    }
    if may_be.is_empty() {
        let problem = match of_issuer {
            None => "and no signer of the policy has this issuer".to_owned(),
            Some((name, pattern)) => {
                format!("and no signer of this issuer fits: {name:?} is {pattern}")
            }
        };
        return Err(Refusal::Stranger { subject, issuer, problem });
    }
    let logged = result.tlog_verified();
    let signed_by = latest(&result);
    Ok(Proof { identity: Identity::Certificate { issuer, subject }, signed_by, logged, may_be })
}

/// The artifact that the library wants: the statement's first subject. All of them are held to
/// what is expected afterwards.
fn subject(signed: &SignedStatement) -> Result<Artifact<'static>, Refusal> {
    let subjects = signed.statement().subjects().map_err(Refusal::Statement)?;
    let (_, hash) = subjects.first_key_value().ok_or_else(|| {
        Refusal::Statement(StatementError::Names { found: Vec::new(), expected: Vec::new() })
    })?;
    let hash = SigstoreHash::new(*hash.as_bytes());
    Ok(Artifact::from_digest(ArtifactDigest::sha256(hash)))
}

fn latest(result: &VerificationResult) -> Option<String> {
    result.verified_timestamps().iter().max().map(ToString::to_string)
}

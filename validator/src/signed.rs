//! Signed verdicts: what one verifier found, for those who trust its key instead of asking again.
//!
//! An in-toto Statement (in-toto attestation framework, Statement v1) with the predicate *Simple
//! Verification Result* (`https://in-toto.io/attestation/svr/v0.1`) in a DSSE envelope (v1.0.2).
//! The subject is the evidence that was judged, by its SHA-256; the whole verdict is an extension
//! field of the predicate. Keys: ECDSA on P-256 or P-384, or Ed25519.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use casemate_measurements::appraisal::Verdict;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::hash::Sha256Hash;
use rustls::SignatureScheme;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use rustls::sign::public_key_to_spki;
use serde::{Deserialize, Serialize};

/// The type of the payload.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The type of the statement.
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate.
const PREDICATE_TYPE: &str = "https://in-toto.io/attestation/svr/v0.1";
/// Most bytes of an envelope.
pub const MAX_LEN: usize = 1024 * 1024;

/// Kinds of keys, with the length of the raw public key.
const SCHEMES: [(SignatureScheme, usize); 3] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, 65),
    (SignatureScheme::ECDSA_NISTP384_SHA384, 97),
    (SignatureScheme::ED25519, 32),
];

/// Why a verdict is not signed, or a signed one not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// The file holds no key in PEM.
    #[error("{} holds no key: expected PEM, as `openssl genpkey` and `openssl pkey -pubout` write", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// The key is of another kind.
    #[error("{} holds another kind of key: expected ECDSA on P-256 or P-384, or Ed25519", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// Signing failed.
    #[error("the verdict cannot be signed")]
    Sign(#[source] rustls::Error),
    /// It cannot be written as JSON.
    #[error("the verdict cannot be written")]
    Write(#[source] serde_json::Error),
    /// It is no signed verdict.
    #[error("this is no signed verdict: expected a DSSE envelope around an in-toto statement")]
    Malformed(#[source] serde_json::Error),
    /// It is another kind of statement, or contradicts itself.
    #[error("this is no signed verdict: {what} is {found:?}, expected {expected:?}")]
    Other {
        /// Which field.
        what: &'static str,
        /// What it is, shortened.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// No signature is of the key.
    #[error("none of the {0} signatures is of this key over this verdict")]
    Signature(usize),
    /// The envelope is too long.
    #[error("{0} bytes, expected at most {MAX_LEN}")]
    TooLong(usize),
}

#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Signature {
    keyid: Option<String>,
    sig: String,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Digest {
    sha256: Sha256Hash,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Predicate {
    verifier: VerifierId,
    #[serde(rename = "timeCreated")]
    time_created: String,
    properties: Vec<String>,
    casemate_verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VerifierId {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyDigest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PolicyDigest {
    digest: Digest,
}

/// What a verdict is about, beside itself.
#[derive(Debug, Clone)]
pub struct About<'a> {
    /// Who was asked.
    pub target: &'a str,
    /// The evidence as it came.
    pub evidence: &'a [u8],
    /// The policy file, where there was one.
    pub policy: Option<&'a [u8]>,
    /// When.
    pub at: UnixTime,
}

impl Statement {
    /// The verdict.
    #[must_use]
    pub const fn verdict(&self) -> &Verdict {
        &self.predicate.casemate_verdict
    }

    /// Who was asked, and the SHA-256 of what he answered.
    #[must_use]
    pub fn subject(&self) -> Option<(&str, &Sha256Hash)> {
        self.subject.first().map(|subject| (subject.name.as_str(), &subject.digest.sha256))
    }

    /// Who verified: a URI.
    #[must_use]
    pub fn verifier(&self) -> &str {
        &self.predicate.verifier.id
    }

    /// When, as RFC 3339 writes it.
    #[must_use]
    pub fn time(&self) -> &str {
        &self.predicate.time_created
    }
}

/// What passed, in the words of the predicate.
fn properties(verdict: &Verdict) -> Vec<String> {
    let mark = if verdict.is_simulated() { "CASEMATE_SIMULATED" } else { "CASEMATE" };
    let passed = [(verdict.is_genuine(), "GENUINE"), (verdict.is_accepted(), "ACCEPTABLE")];
    passed.iter().filter(|(passed, _)| *passed).map(|(_, text)| format!("{mark}_{text}")).collect()
}

/// DSSE's pre-authentication encoding.
fn encoded(payload: &[u8]) -> Vec<u8> {
    let (kind, len) = (PAYLOAD_TYPE, payload.len());
    [format!("DSSEv1 {} {kind} {len} ", kind.len()).as_bytes(), payload].concat()
}

/// Signs a verdict with the private key in the PEM file `key`; the envelope, as JSON. The verifier
/// is called `id`, or by the hash of his public key (RFC 6920).
///
/// # Errors
/// When the file holds no such key, or signing fails.
pub fn sign(
    verdict: &Verdict,
    about: &About<'_>,
    id: Option<&str>,
    key: &Path,
) -> Result<String, SignedError> {
    let kind = || SignedError::Kind { path: key.into() };
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| SignedError::Pem { path: key.into(), source })?;
    let signing = ring::sign::any_supported_type(&private).map_err(|_| kind())?;
    let signer = signing.choose_scheme(&SCHEMES.map(|(scheme, _)| scheme)).ok_or_else(kind)?;
    let keyid = Sha256Hash::of(&signing.public_key().ok_or_else(kind)?);
    let by_key = || format!("ni:///sha-256;{}", URL_SAFE_NO_PAD.encode(keyid.as_bytes()));
    let digest = |bytes: &[u8]| Digest { sha256: Sha256Hash::of(bytes) };
    let statement = Statement {
        kind: STATEMENT_TYPE.into(),
        subject: vec![Subject { name: about.target.into(), digest: digest(about.evidence) }],
        predicate_type: PREDICATE_TYPE.into(),
        predicate: Predicate {
            verifier: VerifierId {
                id: id.map_or_else(by_key, str::to_owned),
                policy: about.policy.map(|bytes| PolicyDigest { digest: digest(bytes) }),
            },
            time_created: about.at.to_string(),
            properties: properties(verdict),
            casemate_verdict: verdict.clone(),
        },
    };
    let payload = serde_json::to_vec(&statement).map_err(SignedError::Write)?;
    let sig = signer.sign(&encoded(&payload)).map_err(SignedError::Sign)?;
    let envelope = Envelope {
        payload: STANDARD.encode(&payload),
        payload_type: PAYLOAD_TYPE.into(),
        signatures: vec![Signature { keyid: Some(keyid.to_string()), sig: STANDARD.encode(sig) }],
    };
    serde_json::to_string(&envelope).map_err(SignedError::Write)
}

/// Verifies an envelope with the public key in the PEM file `key`, and reads what was signed.
///
/// # Errors
/// When the file holds no such key, the envelope is malformed, its signature is not of the key,
/// or the statement is of another kind or contradicts itself.
pub fn verify(envelope: &[u8], key: &Path) -> Result<Statement, SignedError> {
    if envelope.len() > MAX_LEN {
        return Err(SignedError::TooLong(envelope.len()));
    }
    let public = SubjectPublicKeyInfoDer::from_pem_file(key)
        .map_err(|source| SignedError::Pem { path: key.into(), source })?;
    let envelope: Envelope = serde_json::from_slice(envelope).map_err(SignedError::Malformed)?;
    expect("payloadType", &envelope.payload_type, PAYLOAD_TYPE)?;
    let payload = STANDARD.decode(&envelope.payload).unwrap_or_default();
    let message = encoded(&payload);
    let verifier = verifier(&public).ok_or_else(|| SignedError::Kind { path: key.into() })?;
    let holds = |signature: &Signature| {
        STANDARD.decode(&signature.sig).is_ok_and(|sig| verifier(&message, &sig))
    };
    if !envelope.signatures.iter().any(holds) {
        return Err(SignedError::Signature(envelope.signatures.len()));
    }
    let statement: Statement = serde_json::from_slice(&payload).map_err(SignedError::Malformed)?;
    expect("_type", &statement.kind, STATEMENT_TYPE)?;
    expect("predicateType", &statement.predicate_type, PREDICATE_TYPE)?;
    let (found, expected) = (&statement.predicate.properties, properties(statement.verdict()));
    expect("predicate.properties", &found.join(", "), &expected.join(", "))?;
    Ok(statement)
}

fn expect(what: &'static str, found: &str, expected: &str) -> Result<(), SignedError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.chars().take(80).collect(), expected.to_owned());
    Err(SignedError::Other { what, found, expected })
}

/// What verifies a message and its signature with a public key; `None` for a key of another kind.
fn verifier(public: &SubjectPublicKeyInfoDer<'_>) -> Option<impl Fn(&[u8], &[u8]) -> bool> {
    let known = ring::default_provider().signature_verification_algorithms.mapping;
    let found = SCHEMES.iter().find_map(|(scheme, len)| {
        let raw = public.get(public.len().checked_sub(*len)?..)?;
        let (_, algorithms) = known.iter().find(|(known, _)| known == scheme)?;
        // Several algorithms have this hash; the first is the one of this curve.
        let algorithm = algorithms.first()?;
        let same = public_key_to_spki(&algorithm.public_key_alg_id(), raw) == *public;
        same.then(|| (*algorithm, raw.to_vec()))
    });
    found.map(|(algorithm, raw)| {
        move |message: &[u8], signature: &[u8]| {
            algorithm.verify_signature(&raw, message, signature).is_ok()
        }
    })
}

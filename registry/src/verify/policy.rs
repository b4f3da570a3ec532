//! Whom to believe: a TOML file that names signers and how many of them must agree.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sigstore_verify::Verifier;
use sigstore_verify::trust_root::{SigstoreInstance, TrustedRoot};

use super::glob::{Pattern, PatternError};
use crate::public_key::{PublicKey, PublicKeyError};

/// Most bytes of a policy file.
const MAX_LEN: u64 = 256 * 1024;
/// Most bytes of a key or a trusted root.
const MAX_FILE_LEN: u64 = 4 * 1024 * 1024;
/// Most signers of a policy.
const MAX_SIGNERS: usize = 64;
/// What stands for the public instance's root, as it was when casemate was compiled.
const PUBLIC: &str = "public";

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not there.
    #[error("{name}, which the signers file names, is not beside it")]
    Missing {
        /// Which.
        name: String,
    },
    /// A file is too long.
    #[error("{} is too long: expected at most {most} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The most.
        most: u64,
    },
    /// It is no policy.
    #[error("signers file is malformed")]
    Malformed(#[source] Box<toml::de::Error>),
    /// It is of another version.
    #[error("signers file has schema {found}, expected {}", Policy::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// So many signers are not there.
    #[error("threshold is {threshold}: expected 1 to {signers}, the number of signers")]
    Threshold {
        /// How many must sign.
        threshold: usize,
        /// How many there are.
        signers: usize,
    },
    /// There are too many signers.
    #[error("{0} signers, expected at most {MAX_SIGNERS}")]
    TooMany(usize),
    /// A signer is neither one thing nor the other.
    #[error("signer {name:?}: {problem}")]
    Signer {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A pattern is refused.
    #[error("subject of signer {name:?} is refused")]
    Pattern {
        /// Its name.
        name: String,
        /// Why.
        source: PatternError,
    },
    /// A key is refused.
    #[error("key of signer {name:?} is refused")]
    Key {
        /// Its name.
        name: String,
        /// Why.
        source: PublicKeyError,
    },
    /// The trusted root is refused.
    #[error("trusted root {root} is refused")]
    Root {
        /// Which.
        root: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A signer needs one.
    #[error(
        "signer {name:?} is known by an identity or must be logged, so the file needs \
         trusted_root: the path of a trusted_root.json, or {PUBLIC:?} for Sigstore's public \
         instance as it was when casemate was compiled"
    )]
    NoRoot {
        /// Its name.
        name: String,
    },
}

/// Whom a verifier believes.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RawPolicy {
    /// Version of this format: 1.
    schema: u32,
    /// How many of the signers must have signed the same.
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    threshold: usize,
    /// Path of a `trusted_root.json`, or `public` for the one compiled in.
    trusted_root: Option<String>,
    /// The name of the index that these sign.
    index: Option<String>,
    /// Whether a signer counts who did not sign provenance.
    #[serde(default)]
    provenance: Provenance,
    /// Who they are.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 64)))]
    signer: Vec<RawSigner>,
}

/// A signer: by `key`, or by `issuer` and `subject`.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RawSigner {
    /// What he is called.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    name: String,
    /// Path of a public key in PEM, or the PEM itself.
    key: Option<String>,
    /// Who says who he is, in full.
    issuer: Option<String>,
    /// Pattern over his identity: `*` is anything but `/`, `**` anything.
    subject: Option<String>,
    /// Whether what his key signed must be in a log.
    #[serde(default)]
    log: Log,
}

/// Whether a signer counts who did not sign provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// Provenance that is there is verified and told; a signer counts without it.
    #[default]
    WhenGiven,
    /// Only who signed provenance too counts.
    Required,
}

/// Whether what a key signed must be in a transparency log. Without a key it always must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Log {
    /// An entry that is there must be a true one.
    #[default]
    WhenGiven,
    /// There must be one.
    Required,
}

/// How a signer is known.
#[derive(Debug, Clone)]
pub(super) enum Known {
    /// By his key.
    Key { key: Box<PublicKey>, log: Log },
    /// By what an identity provider says of him.
    Identity { issuer: String, subject: Pattern },
}

/// Somebody whose signature counts.
#[derive(Debug, Clone)]
pub struct TrustedSigner {
    pub(super) name: String,
    pub(super) known: Known,
}

impl TrustedSigner {
    /// What the policy calls him.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// His key, if he is known by one whose signature alone counts.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn plain_key(&self) -> Option<&PublicKey> {
        match &self.known {
            Known::Key { key, log: Log::WhenGiven } => Some(key),
            Known::Key { .. } | Known::Identity { .. } => None,
        }
    }
}

/// What a policy was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    /// The signers file.
    pub signers: String,
    /// The files that it names, by the names that it has for them.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

/// Whom to believe.
pub struct Policy {
    pub(super) threshold: usize,
    pub(super) signers: Vec<TrustedSigner>,
    provenance: Provenance,
    index: Option<String>,
    pub(super) verifier: Option<Verifier>,
    source: PolicySource,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { threshold, signers, provenance, index, verifier, source: _ } = self;
        f.debug_struct("Policy")
            .field("threshold", threshold)
            .field("signers", signers)
            .field("provenance", provenance)
            .field("index", index)
            .field("has_root", &verifier.is_some())
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// The version of the format that this code reads.
    pub const SCHEMA: u32 = 1;

    /// Reads a policy file and the files that it names, which are relative to it. Nothing is
    /// fetched.
    ///
    /// # Errors
    /// When a file cannot be read or is refused.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let text = read(path, MAX_LEN)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        Self::from_toml(&text, &|name| read(&dir.join(name), MAX_FILE_LEN))
    }

    /// Reads a policy; `file` reads the files that it names.
    ///
    /// # Errors
    /// When it is malformed or cannot hold.
    pub fn from_toml(
        text: &str,
        file: &dyn Fn(&str) -> Result<String, PolicyError>,
    ) -> Result<Self, PolicyError> {
        let files = RefCell::new(BTreeMap::new());
        let file = &|name: &str| {
            let text = file(name)?;
            files.borrow_mut().insert(name.to_owned(), text.clone());
            Ok(text)
        };
        let raw: RawPolicy =
            toml::from_str(text).map_err(|error| PolicyError::Malformed(Box::new(error)))?;
        if raw.schema != Self::SCHEMA {
            return Err(PolicyError::Schema { found: raw.schema });
        }
        if raw.signer.len() > MAX_SIGNERS {
            return Err(PolicyError::TooMany(raw.signer.len()));
        }
        let (threshold, count) = (raw.threshold, raw.signer.len());
        if threshold == 0 || threshold > count {
            return Err(PolicyError::Threshold { threshold, signers: count });
        }
        let signers: Vec<TrustedSigner> =
            raw.signer.into_iter().map(|raw| signer(raw, file)).collect::<Result<_, _>>()?;
        distinct(&signers)?;
        let verifier = raw.trusted_root.as_deref().map(|root| verifier(root, file)).transpose()?;
        let needs = |signer: &&TrustedSigner| match &signer.known {
            Known::Identity { .. } => true,
            Known::Key { log, .. } => *log == Log::Required,
        };
        match signers.iter().find(needs) {
            Some(signer) if verifier.is_none() => {
                Err(PolicyError::NoRoot { name: signer.name.clone() })
            }
            _ => Ok(Self {
                threshold,
                signers,
                provenance: raw.provenance,
                index: raw.index,
                verifier,
                source: PolicySource { signers: text.to_owned(), files: files.into_inner() },
            }),
        }
    }

    /// Reads a policy from what one was read from.
    ///
    /// # Errors
    /// When it is malformed, cannot hold, or names a file that is not there.
    pub fn from_source(source: &PolicySource) -> Result<Self, PolicyError> {
        Self::from_toml(&source.signers, &|name| {
            let text = source.files.get(name).cloned();
            text.ok_or_else(|| PolicyError::Missing { name: name.to_owned() })
        })
    }

    /// What it was read from: the signers file and the files that it names.
    #[must_use]
    pub const fn source(&self) -> &PolicySource {
        &self.source
    }

    /// Whether provenance must be signed too.
    #[must_use]
    pub const fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// What an index must be called that these signers sign; without it none is accepted.
    #[must_use]
    pub fn index(&self) -> Option<&str> {
        self.index.as_deref()
    }

    /// How many must sign.
    #[must_use]
    pub const fn threshold(&self) -> usize {
        self.threshold
    }

    /// Of whom.
    #[must_use]
    pub fn signers(&self) -> &[TrustedSigner] {
        &self.signers
    }
}

fn signer(
    raw: RawSigner,
    file: &dyn Fn(&str) -> Result<String, PolicyError>,
) -> Result<TrustedSigner, PolicyError> {
    let RawSigner { name, key, issuer, subject, log } = raw;
    let wrong = |problem| PolicyError::Signer { name: name.chars().take(80).collect(), problem };
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return Err(wrong("a name has 1 to 64 characters"));
    }
    let known = match (key, issuer, subject) {
        (Some(key), None, None) => {
            let pem = if key.contains("-----BEGIN") { key } else { file(&key)? };
            let key = PublicKey::from_pem(&pem)
                .map_err(|source| PolicyError::Key { name: name.clone(), source })?;
            Known::Key { key: Box::new(key), log }
        }
        (None, Some(issuer), Some(subject)) => {
            if !issuer.starts_with("https://") && !issuer.starts_with("http://") {
                return Err(wrong(
                    "the issuer is no URL; it has to be given in full, without stars",
                ));
            }
            if issuer.contains('*') {
                return Err(wrong("the issuer has to be given in full, without stars"));
            }
            let subject = subject
                .parse()
                .map_err(|source| PolicyError::Pattern { name: name.clone(), source })?;
            Known::Identity { issuer, subject }
        }
        _ => return Err(wrong("expected either key, or issuer and subject")),
    };
    Ok(TrustedSigner { name, known })
}

/// One person written down twice would count twice.
fn distinct(signers: &[TrustedSigner]) -> Result<(), PolicyError> {
    let (mut names, mut known) = (BTreeSet::new(), BTreeSet::new());
    for signer in signers {
        let wrong = |problem| PolicyError::Signer { name: signer.name.clone(), problem };
        if !names.insert(&signer.name) {
            return Err(wrong("the name is there twice"));
        }
        let who = match &signer.known {
            Known::Key { key, .. } => key.sha256().to_string(),
            Known::Identity { issuer, subject } => format!("{issuer} {subject}"),
        };
        if !known.insert(who) {
            return Err(wrong("another signer has the same key or identity: nobody counts twice"));
        }
    }
    Ok(())
}

fn verifier(
    root: &str,
    file: &dyn Fn(&str) -> Result<String, PolicyError>,
) -> Result<Verifier, PolicyError> {
    let refused = |source| PolicyError::Root { root: root.to_owned(), source };
    let trusted = if root == PUBLIC {
        TrustedRoot::from_embedded(SigstoreInstance::PublicGood)
    } else {
        TrustedRoot::from_json(&file(root)?)
    };
    let trusted = trusted.map_err(|error| refused(error.into()))?;
    Verifier::new(&trusted).map_err(|error| refused(error.into()))
}

fn read(path: &Path, most: u64) -> Result<String, PolicyError> {
    let fail = |source| PolicyError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(most + 1).read_to_string(&mut text))
        .map_err(fail)?;
    if read as u64 > most {
        return Err(PolicyError::TooLong { path: path.to_owned(), most });
    }
    Ok(text)
}

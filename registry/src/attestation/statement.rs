//! in-toto Statements: which files are meant, by their hashes, and what is said of them.

use std::collections::BTreeMap;

use casemate_measurements::canonical::{self, CanonicalError};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{FILE_NAME, Manifest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type of a statement: in-toto attestation framework, Statement v1.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The predicate is a release's manifest.
pub const MANIFEST_PREDICATE: &str = "urn:casemate:manifest:v1";
/// The predicate is SLSA provenance v1.
pub const PROVENANCE_PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// The predicate is an index of releases.
pub const INDEX_PREDICATE: &str = "urn:casemate:index:v1";
/// Most subjects of a statement.
const MAX_SUBJECTS: usize = 64;

/// Names of files and their SHA-256.
pub type Subjects = BTreeMap<String, Sha256Hash>;

/// Why a statement is not the expected one.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// It is no statement.
    #[error("the payload is no in-toto statement")]
    Malformed(#[source] serde_json::Error),
    /// It is of another kind.
    #[error("{field} of the statement is {found:?}, expected {expected:?}")]
    Kind {
        /// `_type` or `predicateType`.
        field: &'static str,
        /// What it is, shortened.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A subject has no SHA-256, or its name is there twice.
    #[error("subject {name:?} of the statement {problem}")]
    Subject {
        /// Its name, shortened.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A subject has another hash.
    #[error("the statement is about {name} with SHA-256 {found}, expected {expected}")]
    Hash {
        /// Which.
        name: String,
        /// The statement's hash.
        found: Sha256Hash,
        /// The file's hash.
        expected: Sha256Hash,
    },
    /// The subjects are others.
    #[error("the statement is about {found:?}, expected {expected:?}")]
    Names {
        /// The statement's.
        found: Vec<String>,
        /// The release's.
        expected: Vec<String>,
    },
    /// The predicate says something else.
    #[error("the predicate is not {expected}: they differ at byte {at} of their canonical form")]
    Predicate {
        /// What it should be.
        expected: &'static str,
        /// Where they differ.
        at: usize,
    },
    /// The provenance is another's.
    #[error(
        "predicate.buildDefinition is not the one of this release, by its manifest and bill of \
         materials"
    )]
    Definition,
    /// The predicate cannot be written.
    #[error("the statement cannot be written")]
    Write(#[from] CanonicalError),
}

/// A file that a statement is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its hashes by algorithm; others than `sha256` are not looked at.
    pub digest: BTreeMap<String, String>,
}

/// A statement. Fields that in-toto may add are ignored, as it asks of readers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Value,
}

impl Statement {
    /// What `predicate` says about `subjects`.
    #[must_use]
    pub fn new(subjects: &Subjects, predicate_type: &str, predicate: Value) -> Self {
        let subject = subjects.iter().map(|(name, hash)| Subject {
            name: name.clone(),
            digest: BTreeMap::from([("sha256".to_owned(), hash.to_string())]),
        });
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: subject.collect(),
            predicate_type: predicate_type.to_owned(),
            predicate,
        }
    }

    /// The manifest, about itself and all the files that it lists.
    ///
    /// # Errors
    /// When the manifest contradicts itself.
    pub fn of_manifest(manifest: &Manifest) -> Result<Self, StatementError> {
        let predicate = serde_json::to_value(manifest).map_err(CanonicalError::Write)?;
        Ok(Self::new(&subjects(manifest)?, MANIFEST_PREDICATE, predicate))
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// When it is no statement.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StatementError> {
        serde_json::from_slice(bytes).map_err(StatementError::Malformed)
    }

    /// Writes it in its canonical form: signing twice signs the same bytes.
    ///
    /// # Errors
    /// Never for values of these types; the writer's error is passed on.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StatementError> {
        Ok(canonical::to_vec(self)?)
    }

    /// What it says.
    #[must_use]
    pub const fn predicate(&self) -> &Value {
        &self.predicate
    }

    /// Holds it to version 1 of in-toto's Statement and to `predicate_type`.
    ///
    /// # Errors
    /// When it is of another kind.
    pub fn check_kind(&self, predicate_type: &'static str) -> Result<(), StatementError> {
        let kinds = [
            ("_type", &self.kind, STATEMENT_TYPE),
            ("predicateType", &self.predicate_type, predicate_type),
        ];
        for (field, found, expected) in kinds {
            if found != expected {
                let found = shorten(found);
                return Err(StatementError::Kind { field, found, expected });
            }
        }
        Ok(())
    }

    /// Holds its subjects to `expected`: the same names, the same hashes.
    ///
    /// # Errors
    /// When a subject is malformed, missing, or another one.
    pub fn check_subjects(&self, expected: &Subjects) -> Result<(), StatementError> {
        let found = self.subjects()?;
        if !found.keys().eq(expected.keys()) {
            let names = |subjects: &Subjects| subjects.keys().map(|name| shorten(name)).collect();
            let (found, expected) = (names(&found), names(expected));
            return Err(StatementError::Names { found, expected });
        }
        match found.iter().zip(expected.values()).find(|((_, found), expected)| found != expected) {
            None => Ok(()),
            Some(((name, found), expected)) => {
                Err(StatementError::Hash { name: name.clone(), found: *found, expected: *expected })
            }
        }
    }

    /// Holds the predicate to canonical JSON.
    ///
    /// # Errors
    /// When it says something else than `what`.
    pub fn check_predicate(
        &self,
        canonical_json: &[u8],
        what: &'static str,
    ) -> Result<(), StatementError> {
        let found = canonical::to_vec(&self.predicate)?;
        if found == canonical_json {
            return Ok(());
        }
        let at = found.iter().zip(canonical_json).take_while(|(a, b)| a == b).count();
        Err(StatementError::Predicate { expected: what, at })
    }

    /// Its subjects by name.
    ///
    /// # Errors
    /// When one has no SHA-256, or a name is there twice.
    pub fn subjects(&self) -> Result<Subjects, StatementError> {
        let wrong = |name: &str, problem| StatementError::Subject { name: shorten(name), problem };
        let mut subjects = Subjects::new();
        for Subject { name, digest } in self.subject.iter().take(MAX_SUBJECTS + 1) {
            let hash = digest.get("sha256").and_then(|text| text.parse::<Sha256Hash>().ok());
            let hash = hash.ok_or_else(|| wrong(name, "has no SHA-256 of 64 hex digits"))?;
            if subjects.insert(name.clone(), hash).is_some() {
                return Err(wrong(name, "is there twice"));
            }
        }
        match subjects.last_key_value() {
            Some((name, _)) if subjects.len() > MAX_SUBJECTS => Err(wrong(name, "is one too many")),
            _ => Ok(subjects),
        }
    }
}

/// The files of a release as its manifest lists them, and the manifest itself.
///
/// # Errors
/// When the manifest contradicts itself.
pub(super) fn subjects(manifest: &Manifest) -> Result<Subjects, StatementError> {
    let files = manifest.artifacts.iter().map(|(name, file)| (name.clone(), file.sha256));
    let mut subjects: Subjects = files.collect();
    let bytes = canonical::to_vec(manifest)?;
    subjects.insert(FILE_NAME.to_owned(), Sha256Hash::of(&bytes));
    Ok(subjects)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

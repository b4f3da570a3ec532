//! The file: signatures over one index, which is in each of them. It is one object, so a store
//! replaces index and signatures together.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::canonical::{self, CanonicalError};
use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::format::{FormatError, Index};
use crate::attestation::{
    BundleError, INDEX_PREDICATE, SignedStatement, Statement, StatementError, Subjects,
};
use crate::sign::{SignError, Signer};
use crate::signatures;
use crate::verify::{self, Expected, Judgement, Policy, Predicate};

/// Most bytes of the file.
pub const MAX_INDEX_LEN: usize = 32 * 1024 * 1024;
/// Most signatures.
const MAX_BUNDLES: usize = 64;
/// What an index is called where it is signed.
const SUBJECT: &str = "index.json";

/// Why an index cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}; what was there is unchanged", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("the index has more than {MAX_INDEX_LEN} bytes")]
    TooLong,
    /// It is no index.
    #[error("this is no signed index: expected {{\"bundles\": […], \"schema\": 1}}")]
    Malformed(#[source] serde_json::Error),
    /// It is of another version.
    #[error("the index file has schema {0}, expected 1")]
    Schema(u32),
    /// There are no signatures, or too many.
    #[error("the index has {0} signatures, expected 1 to {MAX_BUNDLES}")]
    Bundles(usize),
    /// A signature is no bundle.
    #[error("signature {at} of the index is refused")]
    Bundle {
        /// Which, from 1.
        at: usize,
        /// Why.
        source: Box<BundleError>,
    },
    /// What is signed is no index.
    #[error("signature {at} is over another index than the first")]
    Other {
        /// Which, from 1.
        at: usize,
    },
    /// What is signed is another kind of statement.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The index is refused.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// It cannot be written as JSON.
    #[error("the index cannot be written as JSON")]
    Json(#[from] CanonicalError),
    /// Nothing was signed.
    #[error(transparent)]
    Sign(#[from] SignError),
}

#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFile {
    /// Version of this format: 1.
    schema: u32,
    /// Sigstore bundles, each over the same statement, whose predicate is the index.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 64)))]
    bundles: Vec<Value>,
}

/// An index and who says so. Whether enough do is for [`IndexFile::judge`] to say.
#[derive(Debug, Clone)]
pub struct IndexFile {
    index: Index,
    bytes: Vec<u8>,
    bundles: Vec<Vec<u8>>,
}

impl IndexFile {
    /// A new one that nobody signed yet.
    ///
    /// # Errors
    /// When the index contradicts itself.
    pub fn new(index: Index) -> Result<Self, IndexError> {
        index.check()?;
        let bytes = index.to_bytes()?;
        Ok(Self { index, bytes, bundles: Vec::new() })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is refused.
    pub fn read(path: &Path) -> Result<Self, IndexError> {
        let mut bytes = Vec::new();
        let most = MAX_INDEX_LEN as u64 + 1;
        File::open(path)
            .and_then(|file| file.take(most).read_to_end(&mut bytes))
            .map_err(|source| IndexError::Read { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Reads the file's bytes: every signature must be over the same index. None is verified yet.
    ///
    /// # Errors
    /// When they are no index, or one that contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.len() > MAX_INDEX_LEN {
            return Err(IndexError::TooLong);
        }
        let raw: RawFile = serde_json::from_slice(bytes).map_err(IndexError::Malformed)?;
        if raw.schema != 1 {
            return Err(IndexError::Schema(raw.schema));
        }
        if raw.bundles.is_empty() || raw.bundles.len() > MAX_BUNDLES {
            return Err(IndexError::Bundles(raw.bundles.len()));
        }
        let mut found: Option<(Index, Vec<u8>)> = None;
        let mut bundles = Vec::new();
        for (at, bundle) in raw.bundles.iter().enumerate() {
            let at = at + 1;
            let bundle = canonical::to_vec(bundle)?;
            let signed = SignedStatement::from_bytes(&bundle)
                .map_err(|source| IndexError::Bundle { at, source: source.into() })?;
            let predicate = canonical::to_vec(signed.statement().predicate())?;
            match &found {
                Some((_, first)) if *first != predicate => return Err(IndexError::Other { at }),
                Some(_) => {}
                None => {
                    signed.statement().check_kind(INDEX_PREDICATE)?;
                    let index: Index =
                        serde_json::from_slice(&predicate).map_err(IndexError::Malformed)?;
                    index.check()?;
                    found = Some((index, predicate));
                }
            }
            bundles.push(bundle);
        }
        let (index, bytes) = found.ok_or(IndexError::Bundles(0))?;
        Ok(Self { index, bytes, bundles })
    }

    /// The index.
    #[must_use]
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// SHA-256 of the index in canonical JSON.
    #[must_use]
    pub fn sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.bytes)
    }

    /// Judges the signatures.
    #[must_use]
    pub fn judge(&self, policy: &Policy) -> Judgement {
        let subjects = self.subjects();
        let expected = Expected {
            predicate_type: INDEX_PREDICATE,
            subjects: &subjects,
            predicate: &TheIndex(&self.bytes),
        };
        let bundles: Vec<_> = (1..)
            .zip(&self.bundles)
            .map(|(at, bundle)| (format!("signature {at}"), bundle.clone()))
            .collect();
        verify::judge(&bundles, &expected, policy, None)
    }

    /// Adds a signature. What the same signer signed before goes.
    ///
    /// # Errors
    /// When nothing can be signed.
    pub fn sign(&mut self, signer: &Signer) -> Result<String, IndexError> {
        let predicate = serde_json::from_slice(&self.bytes).map_err(IndexError::Malformed)?;
        let statement = Statement::new(&self.subjects(), INDEX_PREDICATE, predicate);
        let made = signer.sign(&statement)?;
        // A key signs the same bytes each time, so its older signature is this one.
        let bundle: Value = serde_json::from_slice(&made.bundle).map_err(IndexError::Malformed)?;
        let bundle = canonical::to_vec(&bundle)?;
        self.bundles.retain(|other| *other != bundle);
        self.bundles.push(bundle);
        if self.bundles.len() > MAX_BUNDLES {
            return Err(IndexError::Bundles(self.bundles.len()));
        }
        Ok(made.who)
    }

    /// Adds the signatures that `other` has over the same index.
    ///
    /// # Errors
    /// When there are too many.
    pub fn adopt(&mut self, other: &Self) -> Result<(), IndexError> {
        if other.bytes == self.bytes {
            let new = |bundle: &&Vec<u8>| !self.bundles.contains(bundle);
            let new: Vec<Vec<u8>> = other.bundles.iter().filter(new).cloned().collect();
            self.bundles.extend(new);
        }
        match self.bundles.len() {
            count if count > MAX_BUNDLES => Err(IndexError::Bundles(count)),
            _ => Ok(()),
        }
    }

    /// Writes the file: after a crash the old one or the new one is there, whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), IndexError> {
        let bytes = self.to_bytes()?;
        signatures::replace(path, &bytes)
            .map_err(|source| IndexError::Write { path: path.to_owned(), source })
    }

    /// The file's bytes.
    ///
    /// # Errors
    /// Never for values of this type; the writer's error is passed on.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IndexError> {
        let bundles = self.bundles.iter().map(|bundle| serde_json::from_slice(bundle));
        let bundles = bundles.collect::<Result<_, _>>().map_err(IndexError::Malformed)?;
        Ok(canonical::to_vec(&RawFile { schema: 1, bundles })?)
    }

    fn subjects(&self) -> Subjects {
        Subjects::from([(SUBJECT.to_owned(), self.sha256())])
    }
}

/// The predicate is the index, byte by byte.
#[derive(Debug)]
struct TheIndex<'a>(&'a [u8]);

impl Predicate for TheIndex<'_> {
    fn check(&self, statement: &Statement) -> Result<(), StatementError> {
        statement.check_predicate(self.0, "the index")
    }
}

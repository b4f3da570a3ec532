//! Why a store did not do what it was asked to.

use std::io;
use std::path::PathBuf;

use casemate_measurements::hash::Sha256Hash;

use super::CredentialError;
use crate::artifact::manifest::ManifestError;
use crate::reference::{Selector, Tag};

/// Why a store did not do what it was asked to. None holds a credential: addresses are named
/// without their queries, which may be signed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Bytes did not come or go.
    #[error("{store}: {what}: {reason}")]
    Transport {
        /// The store.
        store: String,
        /// What was asked.
        what: String,
        /// What happened.
        reason: String,
        /// Whether asking again may help.
        again: bool,
    },
    /// It refused.
    #[error("{store}: {what}: refused with HTTP status {status}{}", said(text))]
    Status {
        /// The store.
        store: String,
        /// What was asked.
        what: String,
        /// The status.
        status: u16,
        /// What it said, shortened.
        text: String,
    },
    /// It wants to know who asks.
    #[error(
        "{store}: {what}: not allowed (HTTP status {status}); registries take who you are from \
         docker's config.json (`docker login`, `oras login`), object stores from the environment: \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AZURE_STORAGE_ACCOUNT_NAME and \
         AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN"
    )]
    Denied {
        /// The store.
        store: String,
        /// What was asked.
        what: String,
        /// The status.
        status: u16,
    },
    /// It sends the client where it does not go.
    #[error("{store}: {what}: redirected to {to}, which is not followed: {reason}")]
    Redirect {
        /// The store.
        store: String,
        /// What was asked.
        what: String,
        /// Where to, without its query.
        to: String,
        /// Why not.
        reason: &'static str,
    },
    /// It sent more than there can be.
    #[error("{store}: {what}: more than {most} bytes were sent; the rest was not read")]
    TooLong {
        /// The store.
        store: String,
        /// What was asked.
        what: String,
        /// The most that is read.
        most: u64,
    },
    /// It served other bytes.
    #[error(
        "{store}: {what} has other bytes: their SHA-256 is {found}, expected {expected}; the store \
         is damaged or lies"
    )]
    Content {
        /// The store.
        store: String,
        /// What was asked for.
        what: String,
        /// Its hash.
        expected: Sha256Hash,
        /// The hash of what came.
        found: Sha256Hash,
    },
    /// A blob is not there.
    #[error("{store}: {what} is not there; the store is incomplete, publish to it again")]
    Missing {
        /// The store.
        store: String,
        /// What was asked for.
        what: String,
    },
    /// The tag points to something else than the reference says.
    #[error("{store}: {selector} was asked for, but the tag points to sha256:{found}")]
    Moved {
        /// The store.
        store: String,
        /// What was asked for.
        selector: Selector,
        /// What the tag points to.
        found: Sha256Hash,
    },
    /// The tag is not what whoever moves it expects.
    #[error(
        "{store}: the tag {tag} {}, so it was not moved; somebody else publishes here",
        found.map_or("points to nothing".to_owned(), |found| format!("points to sha256:{found}"))
    )]
    Conflict {
        /// The store.
        store: String,
        /// The tag.
        tag: Tag,
        /// What it points to.
        found: Option<Sha256Hash>,
    },
    /// Its answer makes no sense.
    #[error("{store}: {what} is malformed: {reason}")]
    Malformed {
        /// The store.
        store: String,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest is refused.
    #[error("{store}: the manifest is refused")]
    Manifest {
        /// The store.
        store: String,
        /// Why.
        source: Box<ManifestError>,
    },
    /// It can only be read.
    #[error("{store}: a web server is only read; publish to the directory behind it")]
    ReadOnly {
        /// The store.
        store: String,
    },
    /// This build talks to no store of this kind.
    #[error("{store}: this casemate was built without object stores (feature `objects`)")]
    Unsupported {
        /// The store.
        store: String,
    },
    /// It would be talked to without TLS.
    #[error(
        "{store}: without TLS anyone on the way can keep releases from you or offer old ones; use \
         https, or say --insecure-http"
    )]
    Insecure {
        /// The store.
        store: String,
    },
    /// A file of a directory store.
    #[error("{}: cannot {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Who asks cannot be found out.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

impl StoreError {
    /// Whether asking again may help.
    pub(crate) fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Transport { again, .. } => *again,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text:?}") }
}

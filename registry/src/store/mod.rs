//! Where artifacts are kept: a directory, a web server in front of one, an object store, an OCI
//! registry.
//!
//! All keep the same things: blobs by hash, which are made once and never change, OCI manifests,
//! which are blobs too, and tags, which are all that moves. Nothing that a store says is believed:
//! what it serves is held to the hash that was asked for, and its lengths are bounded before a
//! byte is kept. What a tag points to is the store's word alone.

mod challenge;
mod credentials;
mod directory;
mod error;
mod http;
mod layout;
#[cfg(feature = "objects")]
mod object_client;
mod object_settings;
#[cfg(feature = "objects")]
mod objects;
mod oci;
mod web;

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use casemate_measurements::hash::Sha256Hash;

use crate::artifact::blob::{Blob, Hasher};
use crate::artifact::manifest::{Entry, ManifestBytes};
use crate::reference::{Place, Selector, Tag};

pub use credentials::{CredentialError, Credentials};
pub use error::StoreError;
pub use object_settings::ObjectSettings;

/// How often a transfer that broke off is taken up again.
const ATTEMPTS: u32 = 5;
/// The pause after the first attempt; it doubles with each.
const PAUSE: Duration = Duration::from_millis(200);

/// How a store is talked to.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a silent server is waited for.
    pub patience: Duration,
    /// May bytes travel without TLS to another machine?
    pub insecure_http: bool,
    /// Who asks registries.
    pub credentials: Credentials,
    /// Where object stores are, and who asks them.
    pub objects: ObjectSettings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(30),
            insecure_http: false,
            credentials: Credentials::default(),
            objects: ObjectSettings::default(),
        }
    }
}

/// What a tag must point to for it to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Anything, or nothing.
    Any,
    /// Nothing.
    Absent,
    /// This manifest.
    Manifest(Sha256Hash),
}

impl Expected {
    /// Whether `found` is what is expected.
    #[must_use]
    pub fn allows(&self, found: Option<&Sha256Hash>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Manifest(wanted) => found == Some(wanted),
        }
    }
}

/// Keeps artifacts. Every method may be called from several threads.
pub trait Store: Send + Sync + fmt::Debug {
    /// What it is called in messages: no credentials in it.
    fn name(&self) -> String;

    /// Whether it has `blob`, as far as a look tells.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn has(&self, blob: &Blob) -> Result<bool, StoreError>;

    /// Keeps `bytes`, which are `blob`. A blob that is there is not changed.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError>;

    /// The bytes of `blob` from `from` on, as the store has them: [`get`] holds them to the hash.
    ///
    /// # Errors
    /// When they cannot be had.
    fn read(&self, blob: &Blob, from: u64) -> Result<Box<dyn Read + Send>, StoreError>;

    /// The manifest that `selector` means, `None` where there is none. One that was asked for by
    /// digest has it.
    ///
    /// # Errors
    /// When it cannot be had, or is another than the selector's digest says.
    fn manifest(&self, selector: &Selector) -> Result<Option<ManifestBytes>, StoreError>;

    /// Keeps a manifest, and those that refer to it, all of whose blobs are there; then points
    /// `tag` to it. After a crash the tag points to what it did before, or to this.
    ///
    /// Registries cannot compare and swap: there `expected` is looked at just before the tag moves.
    ///
    /// # Errors
    /// When the tag points to something else than expected, or the store fails.
    fn commit(
        &self,
        manifest: &ManifestBytes,
        referrers: &[ManifestBytes],
        tag: Option<(&Tag, Expected)>,
    ) -> Result<(), StoreError>;

    /// What refers to the manifest `subject`, such as signatures.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn referrers(&self, subject: &Entry) -> Result<Vec<Entry>, StoreError>;

    /// All tags, sorted.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn tags(&self) -> Result<Vec<Tag>, StoreError>;
}

/// Opens a store. Nothing is asked yet.
///
/// # Errors
/// When it would be talked to without TLS, or the environment describes it badly.
pub fn open(place: &Place, options: &Options) -> Result<Box<dyn Store>, StoreError> {
    if place.is_insecure() && !options.insecure_http {
        return Err(StoreError::Insecure { store: place.to_string() });
    }
    match place {
        Place::Directory { path } => Ok(Box::new(layout::Layout(directory::Directory::new(path)))),
        Place::Web { .. } => Ok(Box::new(layout::Layout(web::Web::new(place, options)))),
        #[cfg(feature = "objects")]
        Place::Objects { service, bucket, prefix } => {
            Ok(Box::new(layout::Layout(objects::Bucket::open(*service, bucket, prefix, options)?)))
        }
        #[cfg(not(feature = "objects"))]
        Place::Objects { .. } => Err(StoreError::Unsupported { store: place.to_string() }),
        Place::Oci { authority, repository } => {
            Ok(Box::new(oci::Registry::new(authority, repository, options)))
        }
    }
}

/// The bytes of `blob`, held to its length and hash. A transfer that breaks off is taken up where
/// it stopped; never more than the blob's length is read.
///
/// # Errors
/// When the store does not serve it whole, or serves something else.
pub fn get(store: &dyn Store, blob: &Blob) -> Result<Vec<u8>, StoreError> {
    let size = usize::try_from(blob.size).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    let (mut at, mut attempt) = (0, 1);
    loop {
        let error = match read_on(store, blob, &mut bytes, &mut at) {
            Ok(()) => break,
            Err(error) => error,
        };
        if !error.is_worth_a_retry() || attempt == ATTEMPTS {
            return Err(error);
        }
        std::thread::sleep(PAUSE * 2_u32.pow(attempt - 1));
        attempt += 1;
    }
    let mut hasher = Hasher::default();
    hasher.update(&bytes);
    let found = hasher.finish();
    if found == blob.sha256 {
        return Ok(bytes);
    }
    let (store, what) = (store.name(), blob_name(blob));
    Err(StoreError::Content { store, what, expected: blob.sha256, found })
}

/// Fills `bytes` from `at` on; `at` says how far it came.
fn read_on(
    store: &dyn Store,
    blob: &Blob,
    bytes: &mut [u8],
    at: &mut usize,
) -> Result<(), StoreError> {
    let mut reader = store.read(blob, *at as u64)?;
    let broken = |reason: String| StoreError::Transport {
        store: store.name(),
        what: blob_name(blob),
        reason,
        again: true,
    };
    while *at < bytes.len() {
        match reader.read(&mut bytes[*at..]) {
            Ok(0) => {
                let size = bytes.len();
                return Err(broken(format!("it ended after {at} of {size} bytes")));
            }
            Ok(read) => *at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error.to_string())),
        }
    }
    // A body that goes on is another one than was asked for, and its end is not waited for.
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => {
            let (store, what, most) = (store.name(), blob_name(blob), blob.size);
            Err(StoreError::TooLong { store, what, most })
        }
        Err(error) => Err(broken(error.to_string())),
    }
}

/// What a blob is called in messages.
fn blob_name(blob: &Blob) -> String {
    format!("blob sha256:{}", blob.sha256)
}

/// Repeats what failed for a reason that may pass.
fn retried<T>(mut attempt: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for number in 1.. {
        match attempt() {
            Err(error) if error.is_worth_a_retry() && number < ATTEMPTS => {
                std::thread::sleep(PAUSE * 2_u32.pow(number - 1));
            }
            result => return result,
        }
    }
    attempt()
}

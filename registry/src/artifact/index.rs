//! A signed index in a store: an artifact of one file, under a tag of its own. It is replaced
//! whole, and never by one that readers of the other would refuse.

use super::blob::Blob;
use super::manifest::{EMPTY, Manifest, ManifestBytes, ManifestError};
use super::publish::put;
use crate::index::{Clock, IndexError, IndexFile, MAX_INDEX_LEN, StateError, advance};
use crate::reference::{Selector, Tag};
use crate::store::{Expected, Store, StoreError, get};

/// Why an index is not published or had.
#[derive(Debug, thiserror::Error)]
pub enum IndexArtifactError {
    /// There is none.
    #[error(
        "{store} has no index under the tag {tag}; `casemate release publish INDEX.json` puts one \
         there, &index=TAG names another tag"
    )]
    None {
        /// The store.
        store: String,
        /// The tag.
        tag: Tag,
    },
    /// The tag points to something else.
    #[error("{store}: what the tag {tag} points to is refused")]
    Manifest {
        /// The store.
        store: String,
        /// The tag.
        tag: Tag,
        /// Why.
        source: ManifestError,
    },
    /// What is there is no index.
    #[error("{store}: the index under the tag {tag} is refused")]
    Index {
        /// The store.
        store: String,
        /// The tag.
        tag: Tag,
        /// Why.
        source: Box<IndexError>,
    },
    /// Readers of the one that is there would not take it.
    #[error("{store}: the index under the tag {tag} is not replaced by one that readers refuse")]
    Behind {
        /// The store.
        store: String,
        /// The tag.
        tag: Tag,
        /// Why they would.
        source: Box<StateError>,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] IndexError),
    /// The store failed, or lied.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Publishes an index and points `tag` to it. Signatures over the same version that are there are
/// kept.
///
/// # Errors
/// When the index that is there is newer, another one under the same version, or says what this
/// one takes back; when the tag points to something else, or is moved meanwhile; when the store
/// fails.
pub fn publish(
    store: &dyn Store,
    file: &IndexFile,
    tag: &Tag,
    expected: Expected,
    clock: Clock,
) -> Result<ManifestBytes, IndexArtifactError> {
    let there = read(store, tag)?;
    let found = there.as_ref().map(|(manifest, _)| *manifest.sha256());
    if !expected.allows(found.as_ref()) {
        let (store, tag) = (store.name(), tag.clone());
        return Err(StoreError::Conflict { store, tag, found }.into());
    }
    follows(there.as_ref().map(|(_, file)| file), file, store, tag, clock)?;
    let mut file = file.clone();
    if let Some((_, there)) = &there {
        file.adopt(there)?;
    }
    let bytes = file.to_bytes()?;
    if bytes.len() > MAX_INDEX_LEN {
        return Err(IndexError::TooLong.into());
    }
    let blob = Blob::of(&bytes);
    let manifest = Manifest::of_index(blob).map_err(|source| {
        let (store, tag) = (store.name(), tag.clone());
        IndexArtifactError::Manifest { store, tag, source }
    })?;
    put(store, &blob, &bytes)?;
    put(store, &Blob::of(EMPTY), EMPTY)?;
    // Whatever was there was looked at: what somebody else puts there meanwhile was not.
    let expected = found.map_or(Expected::Absent, Expected::Manifest);
    store.commit(&manifest, &[], Some((tag, expected)))?;
    Ok(manifest)
}

/// Looks whether readers of the index that `tag` points to, if there is one, would take `file`.
///
/// # Errors
/// When they would not, when the tag points to something else, or the store fails.
pub fn check(
    store: &dyn Store,
    file: &IndexFile,
    tag: &Tag,
    clock: Clock,
) -> Result<(), IndexArtifactError> {
    let there = read(store, tag)?.map(|(_, file)| file);
    follows(there.as_ref(), file, store, tag, clock)
}

fn follows(
    there: Option<&IndexFile>,
    file: &IndexFile,
    store: &dyn Store,
    tag: &Tag,
    clock: Clock,
) -> Result<(), IndexArtifactError> {
    advance(there.map(IndexFile::index), file.index(), clock).map_err(|source| {
        let (store, tag, source) = (store.name(), tag.clone(), Box::new(source));
        IndexArtifactError::Behind { store, tag, source }
    })
}

/// The index that `tag` points to. Whether it is to be believed is not judged yet.
///
/// # Errors
/// When there is none, or the store fails or lies.
pub fn fetch(store: &dyn Store, tag: &Tag) -> Result<IndexFile, IndexArtifactError> {
    let none = || IndexArtifactError::None { store: store.name(), tag: tag.clone() };
    read(store, tag)?.map(|(_, file)| file).ok_or_else(none)
}

fn read(
    store: &dyn Store,
    tag: &Tag,
) -> Result<Option<(ManifestBytes, IndexFile)>, IndexArtifactError> {
    let Some(manifest) = store.manifest(&Selector::Tag(tag.clone()))? else { return Ok(None) };
    let most = MAX_INDEX_LEN as u64;
    let blob = manifest.read().and_then(|read| read.index(most)).map_err(|source| {
        let (store, tag) = (store.name(), tag.clone());
        IndexArtifactError::Manifest { store, tag, source }
    })?;
    let file = IndexFile::from_bytes(&get(store, &blob)?).map_err(|source| {
        let (store, tag, source) = (store.name(), tag.clone(), Box::new(source));
        IndexArtifactError::Index { store, tag, source }
    })?;
    Ok(Some((manifest, file)))
}

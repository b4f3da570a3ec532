//! An OCI image layout, wherever files can be kept: `blobs/sha256/…`, and `index.json`, the one
//! small file that changes.
//!
//! A reader takes `index.json` once and from there on only what is named by hash, so he sees the
//! state before a commit or after it. Other programs read and write the same layout.

use std::fmt;
use std::io::Read;

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};

use super::{Expected, Store, StoreError, blob_name, get, retried};
use crate::artifact::blob::Blob;
use crate::artifact::manifest::{self, Entry, INDEX_TYPE, ManifestBytes};
use crate::reference::{Selector, Tag};

/// Most bytes of an index.
pub(super) const MAX_INDEX: usize = 16 * 1024 * 1024;
/// The one file that changes.
const INDEX: &str = "index.json";
/// The file that says what a directory is, and its content.
const MARK: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
/// The annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Most bytes of all manifests that are opened to see what they refer to.
const MAX_OPENED: u64 = 64 * 1024 * 1024;
/// How often a commit is repeated that others came before.
const RACES: u32 = 64;

/// A file that may be swapped, as it was read.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) bytes: Vec<u8>,
    /// What the store calls this state, where it names states.
    #[cfg_attr(not(feature = "objects"), expect(dead_code, reason = "object stores name states"))]
    pub(super) version: Option<String>,
}

/// Keeps files by path.
pub(super) trait Files: Send + Sync + fmt::Debug {
    fn name(&self) -> String;

    /// The length of a file that is there.
    fn size(&self, path: &str) -> Result<Option<u64>, StoreError>;

    /// The bytes of a file from `from` on, of which about `rest` are to come.
    fn read(
        &self,
        path: &str,
        from: u64,
        rest: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError>;

    /// Makes a file durably; one that is there stays as it is.
    fn create(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// Reads a file of at most `most` bytes.
    fn load(&self, path: &str, most: usize) -> Result<Option<Loaded>, StoreError>;

    /// Replaces the file whose state is `was` in one step; `false` if it is in another.
    fn swap(&self, path: &str, bytes: &[u8], was: Option<&Loaded>) -> Result<bool, StoreError>;
}

/// An OCI image layout in files.
#[derive(Debug)]
pub(super) struct Layout<F>(pub(super) F);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    pub(super) manifests: Vec<Entry>,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

impl Default for Index {
    fn default() -> Self {
        let media_type = INDEX_TYPE.to_owned();
        Self { schema_version: 2, media_type, manifests: Vec::new(), rest: serde_json::Map::new() }
    }
}

impl Index {
    fn tagged(&self, tag: &Tag) -> Option<&Entry> {
        let is_it = |entry: &&Entry| tag_of(entry) == Some(tag.as_str());
        self.manifests.iter().find(is_it)
    }

    /// Adds `entry`, unless it is there.
    fn add(&mut self, entry: Entry) {
        if !self.manifests.iter().any(|old| old.digest == entry.digest) {
            self.manifests.push(entry);
        }
    }

    /// Points `tag` to `entry`; what it pointed to stays in the index.
    fn tag(&mut self, tag: &Tag, entry: Entry) {
        for old in &mut self.manifests {
            if tag_of(old) == Some(tag.as_str()) {
                old.annotations.remove(REF_NAME);
            }
        }
        let plain = |old: &Entry| old.digest == entry.digest && tag_of(old).is_none();
        self.manifests.retain(|old| !plain(old));
        let mut tagged = entry;
        tagged.annotations.insert(REF_NAME.to_owned(), tag.as_str().to_owned());
        self.manifests.push(tagged);
        // A manifest without a tag stands once.
        let mut seen = std::collections::BTreeSet::new();
        self.manifests.retain(|old| tag_of(old).is_some() || seen.insert(old.digest.clone()));
    }
}

fn tag_of(entry: &Entry) -> Option<&str> {
    entry.annotations.get(REF_NAME).map(String::as_str)
}

fn path_of(sha256: &Sha256Hash) -> String {
    format!("blobs/sha256/{sha256}")
}

impl<F: Files> Layout<F> {
    fn index(&self) -> Result<(Index, Option<Loaded>), StoreError> {
        let Some(loaded) = retried(|| self.0.load(INDEX, MAX_INDEX))? else {
            return Ok((Index::default(), None));
        };
        let index = serde_json::from_slice::<Index>(&loaded.bytes).map_err(|error| {
            let (store, what) = (self.0.name(), INDEX.to_owned());
            StoreError::Malformed { store, what, reason: error.to_string() }
        })?;
        Ok((index, Some(loaded)))
    }

    fn by_digest(&self, sha256: Sha256Hash) -> Result<Option<ManifestBytes>, StoreError> {
        let most = manifest::MAX_LEN;
        let Some(loaded) = retried(|| self.0.load(&path_of(&sha256), most))? else {
            return Ok(None);
        };
        let manifest = ManifestBytes::new(loaded.bytes);
        let found = *manifest.sha256();
        if found == sha256 {
            return Ok(Some(manifest));
        }
        let (store, what) = (self.0.name(), format!("manifest sha256:{sha256}"));
        Err(StoreError::Content { store, what, expected: sha256, found })
    }

    fn put_manifest(&self, manifest: &ManifestBytes) -> Result<(), StoreError> {
        retried(|| self.0.create(&path_of(manifest.sha256()), manifest.bytes()))
    }
}

impl<F: Files> Store for Layout<F> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn has(&self, blob: &Blob) -> Result<bool, StoreError> {
        Ok(retried(|| self.0.size(&path_of(&blob.sha256)))? == Some(blob.size))
    }

    fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError> {
        retried(|| self.0.create(&path_of(&blob.sha256), bytes))
    }

    fn read(&self, blob: &Blob, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let rest = blob.size.saturating_sub(from);
        let found = self.0.read(&path_of(&blob.sha256), from, rest)?;
        found.ok_or_else(|| StoreError::Missing { store: self.0.name(), what: blob_name(blob) })
    }

    fn manifest(&self, selector: &Selector) -> Result<Option<ManifestBytes>, StoreError> {
        let tag = match selector {
            Selector::Digest(digest) => return self.by_digest(*digest),
            Selector::Tag(tag) | Selector::Both(tag, _) => tag,
        };
        let (index, _) = self.index()?;
        let Some(entry) = index.tagged(tag) else { return Ok(None) };
        let found = entry.blob(manifest::MAX_LEN as u64).map_err(|source| {
            StoreError::Manifest { store: self.0.name(), source: Box::new(source) }
        })?;
        if selector.digest().is_some_and(|wanted| *wanted != found.sha256) {
            let (store, selector) = (self.0.name(), selector.clone());
            return Err(StoreError::Moved { store, selector, found: found.sha256 });
        }
        let missing = || StoreError::Missing { store: self.0.name(), what: blob_name(&found) };
        self.by_digest(found.sha256)?.ok_or_else(missing).map(Some)
    }

    fn commit(
        &self,
        manifest: &ManifestBytes,
        referrers: &[ManifestBytes],
        tag: Option<(&Tag, Expected)>,
    ) -> Result<(), StoreError> {
        for one in referrers.iter().chain([manifest]) {
            self.put_manifest(one)?;
        }
        retried(|| self.0.create(MARK.0, MARK.1))?;
        for _ in 0..RACES {
            let (mut index, was) = self.index()?;
            let before = index.clone();
            for one in referrers {
                index.add(one.entry());
            }
            match tag {
                None => index.add(manifest.entry()),
                Some((tag, expected)) => {
                    let found = index.tagged(tag).and_then(Entry::sha256);
                    if !expected.allows(found.as_ref()) {
                        let (store, tag) = (self.0.name(), tag.clone());
                        return Err(StoreError::Conflict { store, tag, found });
                    }
                    index.tag(tag, manifest.entry());
                }
            }
            if was.is_some() && index.manifests == before.manifests {
                return Ok(());
            }
            let bytes = serde_json::to_vec(&index).map_err(|error| StoreError::Malformed {
                store: self.0.name(),
                what: INDEX.to_owned(),
                reason: error.to_string(),
            })?;
            if self.0.swap(INDEX, &bytes, was.as_ref())? {
                return Ok(());
            }
        }
        let (store, what) = (self.0.name(), INDEX.to_owned());
        let reason = "others changed it each time it was to be written".to_owned();
        Err(StoreError::Transport { store, what, reason, again: false })
    }

    fn referrers(&self, subject: &Entry) -> Result<Vec<Entry>, StoreError> {
        let (index, _) = self.index()?;
        let (mut found, mut opened) = (Vec::new(), 0);
        for entry in index.manifests {
            let other = entry.digest == subject.digest || tag_of(&entry).is_some();
            // What is no signature need not be opened.
            let known = entry.may_be_signature();
            let Ok(blob) = entry.blob(manifest::MAX_LEN as u64) else { continue };
            if other || !known {
                continue;
            }
            opened += blob.size;
            if opened > MAX_OPENED {
                let what = "the manifests that may refer to a release".to_owned();
                return Err(StoreError::TooLong { store: self.0.name(), what, most: MAX_OPENED });
            }
            let manifest = ManifestBytes::new(get(self, &blob)?);
            let refers = manifest.read().is_ok_and(|manifest| {
                manifest.subject().is_some_and(|found| found.digest == subject.digest)
            });
            if refers {
                found.push(entry);
            }
        }
        Ok(found)
    }

    fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let (index, _) = self.index()?;
        let mut tags: Vec<Tag> =
            index.manifests.iter().filter_map(|entry| tag_of(entry)?.parse().ok()).collect();
        tags.sort();
        tags.dedup();
        Ok(tags)
    }
}

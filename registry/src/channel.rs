//! Following a channel: from an index that is trusted to the release that is current in it, held
//! to what the index says before any of it is used.
//!
//! Trusting the index is for [`IndexFile::trust`](crate::index::IndexFile::trust), judging the
//! release's own signatures for [`Release::verify`].

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest;
use casemate_measurements::platform::Platform;
use tempfile::TempDir;

use crate::artifact::descriptor::{FileEntry, Kind};
use crate::artifact::files;
use crate::artifact::pull::{PullError, Resolved, resolve, signatures};
use crate::index::{Entry, Index};
use crate::reference::{Channel, Selector};
use crate::release::{Release, ReleaseError};
use crate::store::Store;

/// Why a channel leads to no release that may be used.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// Nothing is current in it.
    #[error(
        "index {index}: no release for {platform} is current in channel {channel}; current ones \
         are in {}",
        list(there)
    )]
    Empty {
        /// The index.
        index: String,
        /// The channel.
        channel: String,
        /// The platform.
        platform: Platform,
        /// The channels with platforms that have one.
        there: Vec<String>,
    },
    /// Several images have one, or the one that was named has none.
    #[error(
        "index {index}: channel {channel} has for {platform} the images {}; name one of them, as \
         in &image={}", list(images), images.first().map_or("NAME", String::as_str)
    )]
    Image {
        /// The index.
        index: String,
        /// The channel.
        channel: String,
        /// The platform.
        platform: Platform,
        /// The images.
        images: Vec<String>,
    },
    /// The index says that it may not be used.
    #[error("{release} is refused by the index: {why}")]
    Refused {
        /// Name and version.
        release: String,
        /// Why.
        why: String,
    },
    /// The index does not say by which digest stores have it.
    #[error(
        "{release} is in the index without the digest by which stores have it, so no channel \
         leads there: its publisher adds it again with `casemate release index --add DIR`, or name \
         the release by tag or digest"
    )]
    NoDigest {
        /// Name and version.
        release: String,
    },
    /// What the store has is another release.
    #[error(transparent)]
    Other(Box<Mismatch>),
    /// It cannot be had.
    #[error(transparent)]
    Pull(Box<PullError>),
    /// Its manifest is refused.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// Something cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a release differs from what the index says of it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} of sha256:{digest} is {found}, expected {expected} by the index for {release}: nothing \
     of it is used"
)]
pub struct Mismatch {
    /// The artifact.
    pub digest: Sha256Hash,
    /// Name and version by the index.
    pub release: String,
    /// What differs.
    pub what: &'static str,
    /// What it is.
    pub found: String,
    /// What it should be.
    pub expected: String,
}

impl From<PullError> for ChannelError {
    fn from(error: PullError) -> Self {
        Self::Pull(Box::new(error))
    }
}

impl ChannelError {
    /// Whether what was found is to be believed by nobody, rather than missing.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Other(_))
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// Finds the release of the store that is current in `channel` for `platform`, by an index that is
/// trusted.
///
/// # Errors
/// When there is none or it may not be used, when the store fails or lies, or the artifact is of
/// another release than the index says. Nothing but its manifest and its descriptor was read then.
pub fn follow(
    store: &dyn Store,
    index: &Index,
    channel: &Channel,
    platform: Platform,
) -> Result<(Entry, Resolved), ChannelError> {
    let entry = current(index, channel, platform)?;
    let digest = entry.artifact_sha256.ok_or(ChannelError::NoDigest { release: named(entry) })?;
    let found = resolve(store, &Selector::Digest(digest), Kind::Release)?;
    let described = &found.descriptor;
    let manifest = described.files().get(manifest::FILE_NAME).map(FileEntry::sha256);
    entry.hold(
        digest,
        &Said {
            name: described.name(),
            version: described.version(),
            platform: described.platform(),
            manifest,
        },
    )?;
    Ok((entry.clone(), found))
}

fn current<'a>(
    index: &'a Index,
    channel: &Channel,
    platform: Platform,
) -> Result<&'a Entry, ChannelError> {
    let (name, releases) = (index.name.clone(), &index.releases);
    let here =
        |entry: &&Entry| entry.platform == platform && entry.channels.contains(&channel.name);
    let all: Vec<&Entry> = releases.iter().filter(here).collect();
    if all.is_empty() {
        let there = releases.iter().flat_map(|entry| {
            entry.channels.iter().map(|channel| format!("{channel} for {}", entry.platform))
        });
        let there: std::collections::BTreeSet<String> = there.collect();
        return Err(ChannelError::Empty {
            index: name,
            channel: channel.name.clone(),
            platform,
            there: there.into_iter().collect(),
        });
    }
    let wanted = |entry: &&&Entry| channel.image.as_ref().is_none_or(|image| entry.name == *image);
    let mut fitting = all.iter().filter(wanted);
    let (Some(entry), None) = (fitting.next(), fitting.next()) else {
        return Err(ChannelError::Image {
            index: name,
            channel: channel.name.clone(),
            platform,
            images: all.iter().map(|entry| entry.name.clone()).collect(),
        });
    };
    match index.objection(&entry.name, &entry.version, &entry.manifest_sha256) {
        Some(why) => Err(ChannelError::Refused { release: named(entry), why }),
        None => Ok(entry),
    }
}

fn named(entry: &Entry) -> String {
    format!("{} {}", entry.name, entry.version)
}

/// What something says that it is.
struct Said<'a> {
    name: &'a str,
    version: &'a str,
    platform: Option<Platform>,
    manifest: Option<Sha256Hash>,
}

impl Entry {
    /// Holds a release that was pulled as `digest` to this entry.
    ///
    /// # Errors
    /// When it is another one.
    pub fn check(&self, digest: Sha256Hash, release: &Release) -> Result<(), ChannelError> {
        let named = &release.manifest().release;
        let said = Said {
            name: &named.name,
            version: &named.version,
            platform: Some(named.platform),
            manifest: Some(release.manifest_sha256()),
        };
        self.hold(digest, &said)
    }

    fn hold(&self, digest: Sha256Hash, said: &Said<'_>) -> Result<(), ChannelError> {
        let text =
            |hash: Option<Sha256Hash>| hash.map_or("none".to_owned(), |hash| hash.to_string());
        let platform =
            |platform: Option<Platform>| platform.map_or("none", Platform::name).to_owned();
        let pairs = [
            ("the SHA-256 of manifest.json", text(said.manifest), text(Some(self.manifest_sha256))),
            ("the name", said.name.to_owned(), self.name.clone()),
            ("the version", said.version.to_owned(), self.version.clone()),
            ("the platform", platform(said.platform), platform(Some(self.platform))),
        ];
        match pairs.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => {
                let release = named(self);
                let mismatch = Mismatch { digest, release, what, found, expected };
                Err(ChannelError::Other(Box::new(mismatch)))
            }
        }
    }
}

/// The manifest and the signature files of a release that was found, in a directory of their own:
/// enough to judge who signed it before the rest is fetched.
///
/// # Errors
/// When the store fails or lies, or they cannot be written.
pub fn preview(store: &dyn Store, found: &Resolved) -> Result<TempDir, ChannelError> {
    let fail = |path: PathBuf| move |source| ChannelError::Write { path, source };
    let dir = tempfile::tempdir().map_err(fail(std::env::temp_dir()))?;
    if let Some(file) = found.descriptor.files().get(manifest::FILE_NAME) {
        let name = manifest::FILE_NAME.to_owned();
        if file.size() > manifest::MAX_LEN as u64 {
            let (size, most) = (file.size(), manifest::MAX_LEN as u64);
            return Err(PullError::Size { name, size, most }.into());
        }
        let wanted = BTreeMap::from([(file.sha256(), dir.path().join(name))]);
        files::fetch(store, &found.descriptor, &wanted, 1, &|_| ())?;
    }
    for (path, bytes) in signatures(store, &found.manifest)? {
        let place = dir.path().join(path);
        let folder = place.parent().unwrap_or(dir.path());
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&place, bytes))
            .map_err(fail(place.clone()))?;
    }
    Ok(dir)
}

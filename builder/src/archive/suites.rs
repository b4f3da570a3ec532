//! Getting a suite's Release file and indices from mirrors, and believing nothing unverified.

use std::io::Read as _;
use std::time::SystemTime;

use casemate_measurements::hash::Sha256Hash;
use url::Url;

use super::index::VerifiedSuite;
use super::keyring::{Keyring, SignatureError};
use super::mirrors::{Mirrors, NoMirror, below};
use super::release::{Release, ReleaseError};
use crate::fetch::{Cache, CacheError, DownloadError, FetchOptions, Http, Wanted, download};
use crate::lock::LockedSuite;
use crate::progress::Progress;
use crate::recipe::{Archive, ArchiveName, Suite};

/// The most that a Release file may be long.
const RELEASE_LIMIT: u64 = 16 << 20;

/// The most that an index may unpack to.
const INDEX_LIMIT: u64 = 1 << 30;

/// Why a suite could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Nobody says where the archive is served.
    #[error(transparent)]
    NoMirror(#[from] NoMirror),
    /// No mirror served a Release file that can be believed.
    #[error("no mirror has a good Release file of {archive}/{suite}:{}", list(tried))]
    NoRelease {
        /// The archive.
        archive: ArchiveName,
        /// The suite.
        suite: Suite,
        /// Each mirror and what was wrong.
        tried: Vec<String>,
    },
    /// The Release file lists no index of a component.
    #[error("the Release file of {archive}/{suite} lists no {path}.xz or .gz")]
    NoIndex {
        /// The archive.
        archive: ArchiveName,
        /// The suite.
        suite: Suite,
        /// The index.
        path: String,
    },
    /// An index could not be fetched.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// An index could not be unpacked.
    #[error("the index {label} does not unpack")]
    Unpack {
        /// The index.
        label: String,
        /// Why.
        source: std::io::Error,
    },
    /// Signatures could not be checked at all.
    #[error("the archive's signature could not be checked")]
    Signature(#[from] SignatureError),
    /// A place for temporary files could not be had.
    #[error("cannot make a temporary folder")]
    Scratch(#[source] std::io::Error),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

fn list(tried: &[String]) -> String {
    format!("\n    {}", tried.join("\n    "))
}

/// What is needed to get suites.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    pub(crate) http: &'a Http,
    pub(crate) cache: &'a Cache,
    pub(crate) mirrors: &'a Mirrors,
    pub(crate) keyring: &'a Keyring,
    pub(crate) options: &'a FetchOptions,
    pub(crate) now: SystemTime,
    pub(crate) progress: &'a dyn Progress,
}

/// A suite that was asked for.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) archive: &'a ArchiveName,
    pub(crate) settings: &'a Archive,
    pub(crate) suite: &'a Suite,
    pub(crate) on_request: bool,
    /// Are its source packages wanted too?
    pub(crate) sources: bool,
    /// The date that an earlier lock has for it.
    pub(crate) locked_date: Option<&'a str>,
}

impl Asked<'_> {
    /// A file of the suite below a mirror's base.
    fn path(&self, file: &str) -> String {
        if self.settings.flat { file.to_owned() } else { format!("dists/{}/{file}", self.suite) }
    }
}

impl Access<'_> {
    /// Gets and verifies a suite.
    pub(crate) fn suite(
        &self,
        asked: &Asked<'_>,
    ) -> Result<(VerifiedSuite, LockedSuite), ArchiveError> {
        let archive = asked.archive;
        let bases = self.mirrors.for_archive(archive);
        if bases.is_empty() {
            return Err(self.mirrors.none_of(archive).into());
        }
        let (release, locked) = self.release(asked, &bases)?;
        let (mut packages, mut sources) = (String::new(), String::new());
        if asked.settings.flat {
            self.index(asked, &release, "Packages", &bases, &mut packages)?;
        }
        for component in &asked.settings.components {
            let path = format!("{component}/binary-amd64/Packages");
            self.index(asked, &release, &path, &bases, &mut packages)?;
            if asked.sources {
                let path = format!("{component}/source/Sources");
                self.index(asked, &release, &path, &bases, &mut sources)?;
            }
        }
        let suite = VerifiedSuite {
            archive: archive.clone(),
            name: asked.suite.clone(),
            on_request: asked.on_request,
            packages,
            sources,
        };
        Ok((suite, locked))
    }

    fn release(
        &self,
        asked: &Asked<'_>,
        bases: &[Url],
    ) -> Result<(Release, LockedSuite), ArchiveError> {
        let mut tried = Vec::new();
        for base in bases {
            let url = below(base, &asked.path("InRelease"));
            let told = match self.release_from(&url, asked) {
                Ok(found) => return Ok(found),
                Err(Refusal::Fatal(error)) => return Err(error),
                Err(Refusal::Mirror(told)) => format!("{url}: {told}"),
            };
            self.progress.warn(&told);
            tried.push(told);
        }
        let (archive, suite) = (asked.archive.clone(), asked.suite.clone());
        Err(ArchiveError::NoRelease { archive, suite, tried })
    }

    fn release_from(
        &self,
        url: &Url,
        asked: &Asked<'_>,
    ) -> Result<(Release, LockedSuite), Refusal> {
        let mut signed = Vec::new();
        let body = self.http.open(url, 0).map_err(|e| Refusal::Mirror(e.to_string()))?;
        let read = body.reader.take(RELEASE_LIMIT).read_to_end(&mut signed);
        read.map_err(|error| Refusal::Mirror(format!("it broke off: {error}")))?;
        let scratch = tempfile::tempdir().map_err(|e| Refusal::Fatal(ArchiveError::Scratch(e)))?;
        let verified = self.keyring.verify(&signed, &asked.settings.keys, scratch.path()).map_err(
            |error| match error {
                SignatureError::NotSigned
                | SignatureError::False { .. }
                | SignatureError::NotAllowed { .. } => Refusal::Mirror(error.to_string()),
                error => Refusal::Fatal(error.into()),
            },
        )?;
        let suite = (!asked.settings.flat).then_some(asked.suite);
        let release = Release::parse(&verified.text, suite)?;
        release.check_time(self.now, asked.settings.expired_ok.contains(asked.suite))?;
        if let Some(date) = asked.locked_date {
            release.check_not_older(date)?;
        }
        let locked = LockedSuite {
            archive: asked.archive.clone(),
            name: asked.suite.clone(),
            date: release.date.clone(),
            release_sha256: Sha256Hash::of(verified.text.as_bytes()),
            signer: verified.signer,
        };
        Ok((release, locked))
    }

    /// Gets the index `path`, without its suffix, by the hash that `release` has for it.
    fn index(
        &self,
        asked: &Asked<'_>,
        release: &Release,
        path: &str,
        bases: &[Url],
        packages: &mut String,
    ) -> Result<(), ArchiveError> {
        let listed = [".xz", ".gz"].into_iter().find_map(|suffix| {
            release.file(&format!("{path}{suffix}")).map(|(hash, size)| (suffix, hash, size))
        });
        let Some((suffix, sha256, size)) = listed else {
            let (archive, suite) = (asked.archive.clone(), asked.suite.clone());
            return Err(ArchiveError::NoIndex { archive, suite, path: path.to_owned() });
        };
        // Beside the index: its path up to its name, with the last slash.
        let dir = path.rfind('/').map_or("", |slash| &path[..=slash]);
        let by_hash = asked.path(&format!("{dir}by-hash/SHA256/{sha256}"));
        let by_name = asked.path(&format!("{path}{suffix}"));
        let sources = bases
            .iter()
            .flat_map(|base| [below(base, &by_hash), below(base, &by_name)])
            .chain(self.mirrors.stores().iter().map(|base| below(base, &sha256.to_string())))
            .collect();
        let label = format!("{}/{} {path}{suffix}", asked.archive, asked.suite);
        let wanted = Wanted { label: label.clone(), sha256, size: Some(size), sources };
        if !self.cache.has(sha256, Some(size)) {
            let warn = |text: &str| self.progress.warn(text);
            download(self.http, self.cache, &wanted, self.options.patience, &warn, &|_| ())?;
        }
        let mut unpack = || -> std::io::Result<()> {
            let packed = std::fs::read(self.cache.blob(sha256))?;
            if Sha256Hash::of(&packed) != sha256 {
                return Err(std::io::Error::other("the file in the cache is damaged: delete it"));
            }
            let packed = packed.as_slice();
            if suffix == ".xz" {
                let reader = liblzma::bufread::XzDecoder::new_multi_decoder(packed);
                reader.take(INDEX_LIMIT).read_to_string(packages)?;
            } else {
                let reader = flate2::bufread::MultiGzDecoder::new(packed);
                reader.take(INDEX_LIMIT).read_to_string(packages)?;
            }
            packages.push_str("\n\n");
            Ok(())
        };
        unpack().map_err(|source| ArchiveError::Unpack { label, source })
    }
}

/// Why one mirror's Release file is not used.
enum Refusal {
    /// The next mirror may do better.
    Mirror(String),
    /// It would not.
    Fatal(ArchiveError),
}

impl From<ReleaseError> for Refusal {
    fn from(error: ReleaseError) -> Self {
        Self::Mirror(error.to_string())
    }
}

//! One file into the cache: resumed, hashed while it streams, from several sources in turn.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use casemate_measurements::hash::Sha256Hash;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::http::{Http, SourceError};
use super::{Cache, CacheError};

/// A file that is wanted, and where it may be had.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What people call it.
    pub label: String,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
    /// Its length, if it is known.
    pub size: Option<u64>,
    /// Where it may be had, in the order to try.
    pub sources: Vec<Url>,
}

/// How patient a download is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How often all sources are tried in turn, if asking again may help.
    pub rounds: u32,
    /// The pause after the first round; it doubles with each.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { rounds: 4, pause: Duration::from_millis(500) }
    }
}

/// Why a download failed.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// No source is known.
    #[error("no mirror is known for {label}")]
    NoSource {
        /// The file.
        label: String,
    },
    /// Every source says that it does not have the file.
    #[error("no mirror has {label}:{}", list(tried))]
    Gone {
        /// The file.
        label: String,
        /// Each source and what it said.
        tried: Vec<String>,
    },
    /// No source served it whole and right.
    #[error("could not fetch {label}:{}", list(tried))]
    Failed {
        /// The file.
        label: String,
        /// Each source and what was wrong, the last time it was tried.
        tried: Vec<String>,
    },
    /// The cache could not be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

fn list(tried: &[String]) -> String {
    format!("\n    {}", tried.join("\n    "))
}

/// The partial file, its hash so far and its length. It is locked: nobody else writes it.
struct Part {
    file: File,
    hash: Sha256,
    length: u64,
}

/// Gets `wanted` into `cache`. `advance` hears of the bytes as they come, even of those that
/// turn out to be worthless.
///
/// # Errors
///
/// If no source serves it, or the cache cannot be written.
pub(crate) fn download(
    http: &Http,
    cache: &Cache,
    wanted: &Wanted,
    patience: Patience,
    warn: &dyn Fn(&str),
    advance: &dyn Fn(u64),
) -> Result<(), DownloadError> {
    if wanted.sources.is_empty() {
        return Err(DownloadError::NoSource { label: wanted.label.clone() });
    }
    let path = cache.part(wanted.sha256);
    let failed = |source| CacheError::Write { path: path.clone(), source };
    let mut part = Part::open(cache, wanted).map_err(failed)?;
    if cache.has(wanted.sha256, wanted.size) {
        // Another process was faster while this one waited for the lock.
        drop_part(cache, wanted);
        return Ok(());
    }
    let mut verdicts: Vec<Option<SourceError>> = wanted.sources.iter().map(|_| None).collect();
    for round in 0..patience.rounds.max(1) {
        if round > 0 {
            std::thread::sleep(patience.pause * 2_u32.saturating_pow(round - 1));
        }
        for (url, verdict) in wanted.sources.iter().zip(&mut verdicts) {
            if matches!(verdict, Some(SourceError::Gone(_) | SourceError::Refused(_))) {
                continue;
            }
            match part.receive(http, url, wanted, advance) {
                Ok(()) => return part.keep(cache, wanted).map_err(failed).map_err(Into::into),
                Err(Stop::Disk(source)) => return Err(failed(source).into()),
                Err(Stop::Source(error)) => {
                    warn(&format!("{}: {url}: {error}", wanted.label));
                    *verdict = Some(error);
                }
            }
        }
        if !verdicts.iter().any(|verdict| matches!(verdict, Some(SourceError::Transient(_)))) {
            break;
        }
    }
    if part.length == 0 {
        drop_part(cache, wanted);
    }
    let gone = verdicts.iter().all(|verdict| matches!(verdict, Some(SourceError::Gone(_))));
    let tried = wanted
        .sources
        .iter()
        .zip(&verdicts)
        .filter_map(|(url, verdict)| verdict.as_ref().map(|verdict| format!("{url}: {verdict}")))
        .collect();
    let label = wanted.label.clone();
    Err(if gone {
        DownloadError::Gone { label, tried }
    } else {
        DownloadError::Failed { label, tried }
    })
}

/// Forgets a partial file that holds nothing. Not finding it is as good.
fn drop_part(cache: &Cache, wanted: &Wanted) {
    let _ = std::fs::remove_file(cache.part(wanted.sha256));
}

enum Stop {
    Disk(io::Error),
    Source(SourceError),
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl Part {
    /// Opens and locks the partial file, and hashes what an earlier run left in it.
    fn open(cache: &Cache, wanted: &Wanted) -> io::Result<Self> {
        let mut file = Self::lock(cache, wanted)?;
        let mut part = Self { hash: Sha256::new(), length: 0, file: file.try_clone()? };
        let left = file.metadata()?.len();
        if wanted.size.is_some_and(|size| left > size) {
            part.restart()?;
        } else if left > 0 {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                part.hash.update(&buffer[..count]);
                part.length += count as u64;
            }
        }
        Ok(part)
    }

    /// Opens and locks the partial file. Whoever held the lock before may have renamed or
    /// removed it, and then there is another one to open.
    fn lock(cache: &Cache, wanted: &Wanted) -> io::Result<File> {
        let path = cache.part(wanted.sha256);
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.lock()?;
            let ours = file.metadata()?;
            match std::fs::metadata(&path) {
                Ok(theirs) if theirs.ino() == ours.ino() && theirs.dev() == ours.dev() => {
                    return Ok(file);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn restart(&mut self) -> io::Result<()> {
        self.hash = Sha256::new();
        if self.length > 0 || self.file.metadata()?.len() > 0 {
            self.file.set_len(0)?;
        }
        self.length = 0;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    /// Receives what is missing from `url`. On success the file is whole and has the right hash.
    fn receive(
        &mut self,
        http: &Http,
        url: &Url,
        wanted: &Wanted,
        advance: &dyn Fn(u64),
    ) -> Result<(), Stop> {
        let resumed = self.length > 0;
        match self.receive_once(http, url, wanted, advance) {
            // What an earlier source sent may have been the wrong part: this one gets its chance.
            Err(Stop::Source(SourceError::Refused(_))) if resumed => {
                self.restart().map_err(Stop::Disk)?;
                self.receive_once(http, url, wanted, advance)
            }
            result => result,
        }
    }

    fn receive_once(
        &mut self,
        http: &Http,
        url: &Url,
        wanted: &Wanted,
        advance: &dyn Fn(u64),
    ) -> Result<(), Stop> {
        if wanted.size != Some(self.length) {
            self.stream(http, url, wanted, advance)?;
        }
        let found = Sha256Hash::from_bytes(self.hash.clone().finalize().into());
        if found == wanted.sha256 {
            return Ok(());
        }
        self.restart().map_err(Stop::Disk)?;
        let message = format!("it sent other bytes: SHA-256 {found}, expected {}", wanted.sha256);
        Err(SourceError::Refused(message).into())
    }

    fn stream(
        &mut self,
        http: &Http,
        url: &Url,
        wanted: &Wanted,
        advance: &dyn Fn(u64),
    ) -> Result<(), Stop> {
        let mut body = http.open(url, self.length)?;
        if let (Some(size), Some(expected)) = (body.size, wanted.size)
            && size != expected
        {
            let message = format!("its file has {size} bytes, expected {expected}");
            return Err(SourceError::Refused(message).into());
        }
        if body.from != self.length {
            self.restart().map_err(Stop::Disk)?;
        }
        let expected = wanted.size.or(body.size);
        self.file.seek(SeekFrom::Start(self.length)).map_err(Stop::Disk)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let message = format!("it broke off after {} bytes: {error}", self.length);
                    return Err(SourceError::Transient(message).into());
                }
            };
            if expected.is_some_and(|size| self.length + count as u64 > size) {
                self.restart().map_err(Stop::Disk)?;
                let message = "it sent more bytes than the file has".to_owned();
                return Err(SourceError::Refused(message).into());
            }
            self.file.write_all(&buffer[..count]).map_err(Stop::Disk)?;
            self.hash.update(&buffer[..count]);
            self.length += count as u64;
            advance(count as u64);
        }
        match expected {
            Some(size) if self.length < size => {
                let message = format!("it ended after {} of {size} bytes", self.length);
                Err(SourceError::Transient(message).into())
            }
            _ => Ok(()),
        }
    }

    /// Gives the whole file its name. What was hashed is what is renamed: the file is locked.
    fn keep(&self, cache: &Cache, wanted: &Wanted) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(cache.part(wanted.sha256), cache.blob(wanted.sha256))
    }
}

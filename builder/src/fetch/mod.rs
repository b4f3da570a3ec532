//! Getting what a lock names, by hash, from wherever it can be had.
//!
//! A package comes from the cache, else from the mirrors of its archive in turn, else from a
//! store that holds files by hash. Whoever serves it, what does not hash to the lock is refused.

mod cache;
mod crates;
mod download;
mod http;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use casemate_measurements::hash::Sha256Hash;
use url::Url;

use crate::archive::{Mirrors, NoMirror, below};
use crate::lock::{LockError, LockedFile, LockedPackage, LockedSource};
use crate::process::ProcessError;
use crate::progress::{Progress, Total};
use crate::recipe::{ArchiveName, StageFile};

pub use cache::{Cache, CacheError};
pub use crates::{CrateSources, LockedCrate, crates_of, fetch_crates};
pub(crate) use download::download;
pub use download::{DownloadError, Patience, Wanted};
pub use http::{Http, SourceError};

/// How to fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// Use no network: what is missing is named and nothing else happens.
    pub offline: bool,
    /// Downloads at a time.
    pub jobs: usize,
    /// How long a silent source is waited for.
    pub timeout: Duration,
    /// How often sources are tried.
    pub patience: Patience,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            offline: false,
            jobs: 8,
            timeout: Duration::from_secs(30),
            patience: Patience::default(),
        }
    }
}

/// What a fetch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchSummary {
    /// Files that were there already.
    pub cached: usize,
    /// Files that were fetched.
    pub fetched: usize,
    /// The length of the fetched files, as far as it was known before.
    pub bytes: u64,
}

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Files are missing and the network is not to be used.
    #[error("not in the cache, and fetching offline:{}", lines(missing))]
    Offline {
        /// What is missing.
        missing: Vec<String>,
    },
    /// Nothing on this machine says where an archive is served.
    #[error("no mirror is known for {label}")]
    NoMirror {
        /// The file that would come from it.
        label: String,
        /// What was looked at.
        #[source]
        source: NoMirror,
    },
    /// Nothing on this machine says where files are served by hash.
    #[error(
        "no store is known for {label}, which the recipe names by its hash: name one with \
         --mirror store=URL, below which files are found by their SHA-256"
    )]
    NoStore {
        /// The file.
        label: String,
    },
    /// Packages that no mirror has any more.
    #[error(
        "{}\n  if newer versions will do: casemate image lock <dir> --update {}",
        gone.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        names.join(" --update ")
    )]
    PackagesGone {
        /// Each package and what its mirrors said.
        gone: Vec<DownloadError>,
        /// Their names.
        names: Vec<String>,
    },
    /// A file could not be fetched.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The lock of the crates makes no sense.
    #[error("Cargo.lock of {workspace}: {message}")]
    CrateLock {
        /// The workspace.
        workspace: String,
        /// What is wrong.
        message: String,
    },
    /// cargo could not fetch crates.
    #[error("cargo could not fetch the crates of {workspace}")]
    Cargo {
        /// The workspace.
        workspace: String,
        /// Why.
        source: ProcessError,
    },
    /// A crate in cargo's own cache is not what the lock says.
    #[error("no source has crates of the locked checksum:{}", lines(missing))]
    CratesMissing {
        /// The crates.
        missing: Vec<String>,
    },
    /// The lock could not be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The cache could not be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

fn lines(list: &[String]) -> String {
    format!("\n    {}", list.join("\n    "))
}

/// Gets `packages` into `cache`.
///
/// # Errors
///
/// If one cannot be had; all packages that no mirror has any more are named together.
pub fn fetch<'a>(
    packages: impl IntoIterator<Item = &'a LockedPackage>,
    cache: &Cache,
    mirrors: &Mirrors,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<FetchSummary, FetchError> {
    let wanted: Vec<(Wanted, &LockedPackage)> = packages
        .into_iter()
        .map(|package| {
            let sources = places(mirrors, &package.archive, package.path.as_str(), package.sha256);
            let (label, sha256, size) = (package.to_string(), package.sha256, Some(package.size));
            (Wanted { label, sha256, size, sources }, package)
        })
        .collect();
    let archives = wanted.iter().map(|(wanted, package)| (wanted, Some(&package.archive)));
    have_sources(archives, cache, mirrors, options)?;
    let only: Vec<Wanted> = wanted.iter().map(|(wanted, _)| wanted.clone()).collect();
    let (summary, failures) = fetch_all(&only, cache, options, progress)?;
    let mut gone = Vec::new();
    let mut names = Vec::new();
    for (index, error) in failures {
        if !matches!(error, DownloadError::Gone { .. }) {
            return Err(error.into());
        }
        gone.push(error);
        names.push(wanted[index].1.name.to_string());
    }
    if gone.is_empty() { Ok(summary) } else { Err(FetchError::PackagesGone { gone, names }) }
}

/// Gets the files of source packages and the files that stages name by hash alone.
///
/// # Errors
///
/// If one cannot be had.
pub fn fetch_sources<'a>(
    sources: impl IntoIterator<Item = &'a LockedSource>,
    files: impl IntoIterator<Item = &'a StageFile>,
    cache: &Cache,
    mirrors: &Mirrors,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<FetchSummary, FetchError> {
    let (mut wanted, mut archives) = (Vec::new(), Vec::new());
    for source in sources {
        for file in &source.files {
            let LockedFile { path, size, sha256 } = file;
            let sources = places(mirrors, &source.archive, path.as_str(), *sha256);
            let label = file.name().to_owned();
            wanted.push(Wanted { label, sha256: *sha256, size: Some(*size), sources });
            archives.push(&source.archive);
        }
    }
    wanted.extend(files.into_iter().map(|file| Wanted {
        label: file.name.to_string(),
        sha256: file.sha256,
        size: None,
        sources: stored(mirrors, file.sha256),
    }));
    let archives = archives.into_iter().map(Some).chain(std::iter::repeat(None));
    have_sources(wanted.iter().zip(archives), cache, mirrors, options)?;
    let (summary, failures) = fetch_all(&wanted, cache, options, progress)?;
    match failures.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(summary),
    }
}

/// Refuses, before anything is fetched, what is missing and comes from nowhere: each file with its
/// archive, `None` for one that stores have.
fn have_sources<'a>(
    wanted: impl Iterator<Item = (&'a Wanted, Option<&'a ArchiveName>)>,
    cache: &Cache,
    mirrors: &Mirrors,
    options: &FetchOptions,
) -> Result<(), FetchError> {
    let mut lacking = wanted
        .filter(|(wanted, _)| wanted.sources.is_empty() && !cache.has(wanted.sha256, wanted.size));
    let Some((Wanted { label, .. }, archive)) = lacking.next().filter(|_| !options.offline) else {
        return Ok(());
    };
    let label = label.clone();
    Err(match archive {
        Some(archive) => FetchError::NoMirror { label, source: mirrors.none_of(archive) },
        None => FetchError::NoStore { label },
    })
}

/// Where a file of an archive may be: on the archive's mirrors, then in the stores by hash.
fn places(mirrors: &Mirrors, archive: &ArchiveName, path: &str, sha256: Sha256Hash) -> Vec<Url> {
    let bases = mirrors.for_archive(archive).into_iter();
    bases.map(|base| below(&base, path)).chain(stored(mirrors, sha256)).collect()
}

fn stored(mirrors: &Mirrors, sha256: Sha256Hash) -> Vec<Url> {
    mirrors.stores().iter().map(|base| below(base, &sha256.to_string())).collect()
}

/// Gets each of `wanted`. Failures come with their index, in order; a file that is gone does not
/// keep others from being fetched, any other failure does.
fn fetch_all(
    wanted: &[Wanted],
    cache: &Cache,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<(FetchSummary, Vec<(usize, DownloadError)>), FetchError> {
    let missing: Vec<usize> =
        (0..wanted.len()).filter(|&i| !cache.has(wanted[i].sha256, wanted[i].size)).collect();
    let bytes = missing.iter().filter_map(|&index| wanted[index].size).sum();
    let mut summary =
        FetchSummary { cached: wanted.len() - missing.len(), fetched: missing.len(), bytes };
    if missing.is_empty() {
        return Ok((summary, Vec::new()));
    }
    if options.offline {
        let missing = missing.iter().map(|&index| wanted[index].label.clone()).collect();
        return Err(FetchError::Offline { missing });
    }
    let http = Http::new(options.timeout);
    let phase = progress.phase("fetch", Total::Bytes(bytes));
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.clamp(1, missing.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed)
                    && let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let wanted = &wanted[index];
                    phase.detail(&wanted.label);
                    let warn = |text: &str| progress.warn(text);
                    let advance = |by| phase.advance(by);
                    let result = download(&http, cache, wanted, options.patience, &warn, &advance);
                    if let Err(error) = result {
                        let gone = matches!(error, DownloadError::Gone { .. });
                        stop.fetch_or(!gone, Ordering::Relaxed);
                        failures
                            .lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .push((index, error));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failures.sort_by_key(|&(index, _)| index);
    if failures.is_empty() {
        phase.finish(&format!("{} files, {:.1} MB", missing.len(), mebi(bytes)));
    }
    summary.fetched -= failures.len();
    Ok((summary, failures))
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebi(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

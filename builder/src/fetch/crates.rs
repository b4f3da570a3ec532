//! Crates that a `Cargo.lock` names by checksum: from the cache, cargo's own downloads, a
//! mirror, and last by asking the machine's cargo to fetch them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use serde::Deserialize;

use super::{Cache, FetchError, FetchOptions, FetchSummary, Wanted, fetch_all, stored};
use crate::archive::{Mirrors, below};
use crate::process::Process;
use crate::progress::Progress;

/// A crate of a registry, by checksum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedCrate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its `.crate` file.
    pub sha256: Sha256Hash,
}

impl fmt::Display for LockedCrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.crate", self.name, self.version)
    }
}

/// Where crates may be had on this machine.
#[derive(Debug, Clone)]
pub struct CrateSources {
    /// The workspace whose `Cargo.lock` names them.
    pub workspace: PathBuf,
    /// `$CARGO_HOME`, if the machine has cargo.
    pub cargo_home: Option<PathBuf>,
    /// May `cargo fetch` be run?
    pub run_cargo: bool,
}

#[derive(Debug, Deserialize)]
struct CargoLock {
    #[serde(default)]
    package: Vec<CargoPackage>,
}

#[derive(Debug, Deserialize)]
struct CargoPackage {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<Sha256Hash>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// The crates that `text`, a `Cargo.lock`, names: all, or those that `package` needs, directly
/// or not, in any configuration. Sorted.
///
/// # Errors
///
/// If it is no lock file, lacks `package`, or a crate has no checksum.
pub fn crates_of(text: &str, package: Option<&str>) -> Result<Vec<LockedCrate>, String> {
    let lock: CargoLock = toml::from_str(text).map_err(|error| {
        format!("line {}: {}", crate::recipe::of_error(text, &error), error.message())
    })?;
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, entry) in lock.package.iter().enumerate() {
        by_name.entry(&entry.name).or_default().push(index);
    }
    // A dependency is "name", "name version" or "name version (source)".
    let find = |text: &str| -> Result<usize, String> {
        let mut words = text.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        by_name
            .get(name)
            .into_iter()
            .flatten()
            .copied()
            .find(|&index| version.is_none_or(|version| lock.package[index].version == version))
            .ok_or_else(|| format!("it lacks the package {text}"))
    };
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    let mut queue: Vec<usize> = match package {
        Some(package) => vec![find(package)?],
        None => (0..lock.package.len()).collect(),
    };
    while let Some(index) = queue.pop() {
        if wanted.insert(index) {
            for dependency in &lock.package[index].dependencies {
                queue.push(find(dependency)?);
            }
        }
    }
    let mut crates = Vec::new();
    for entry in wanted.into_iter().map(|index| &lock.package[index]) {
        // A package without a source is one of the workspace.
        let Some(source) = &entry.source else { continue };
        let name = format!("{} {}", entry.name, entry.version);
        let plain = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+".contains(c))
                && !text.starts_with('.')
        };
        if !source.starts_with("registry+") || !plain(&entry.name) || !plain(&entry.version) {
            return Err(format!("{name} comes from {source}: only registries are supported"));
        }
        let sha256 = entry.checksum.ok_or_else(|| format!("{name} has no checksum"))?;
        crates.push(LockedCrate {
            name: entry.name.clone(),
            version: entry.version.clone(),
            sha256,
        });
    }
    crates.sort();
    Ok(crates)
}

/// Gets `crates` into `cache`, each under its checksum.
///
/// # Errors
///
/// If one cannot be had.
pub fn fetch_crates(
    crates: &[LockedCrate],
    cache: &Cache,
    from: &CrateSources,
    mirrors: &Mirrors,
    options: &FetchOptions,
    progress: &dyn Progress,
) -> Result<FetchSummary, FetchError> {
    let missing = |cache: &Cache| -> Vec<&LockedCrate> {
        crates.iter().filter(|entry| !cache.has(entry.sha256, None)).collect()
    };
    let before = missing(cache).len();
    let summary = |bytes| FetchSummary { cached: crates.len() - before, fetched: before, bytes };
    take_from_cargo(&missing(cache), cache, from)?;
    let left = missing(cache);
    if left.is_empty() {
        return Ok(summary(0));
    }
    if options.offline {
        let missing = left.iter().map(ToString::to_string).collect();
        return Err(FetchError::Offline { missing });
    }
    let has_mirror = !mirrors.crates().is_empty() || !mirrors.stores().is_empty();
    if has_mirror {
        let wanted: Vec<Wanted> = left.iter().map(|entry| wanted(entry, mirrors)).collect();
        let (fetched, mut failures) = fetch_all(&wanted, cache, options, progress)?;
        if failures.is_empty() {
            return Ok(summary(fetched.bytes));
        }
        if !from.run_cargo {
            return Err(failures.remove(0).1.into());
        }
    }
    if from.run_cargo {
        run_cargo(from)?;
        take_from_cargo(&missing(cache), cache, from)?;
    }
    let left = missing(cache);
    if left.is_empty() {
        return Ok(summary(0));
    }
    Err(FetchError::CratesMissing { missing: left.iter().map(ToString::to_string).collect() })
}

fn wanted(entry: &LockedCrate, mirrors: &Mirrors) -> Wanted {
    let path = format!("{}/{entry}", entry.name);
    let sources = mirrors
        .crates()
        .iter()
        .map(|base| below(base, &path))
        .chain(stored(mirrors, entry.sha256))
        .collect();
    Wanted { label: entry.to_string(), sha256: entry.sha256, size: None, sources }
}

/// Copies those that cargo has downloaded before. A file of another checksum is not taken.
fn take_from_cargo(
    crates: &[&LockedCrate],
    cache: &Cache,
    from: &CrateSources,
) -> Result<(), FetchError> {
    let Some(home) = &from.cargo_home else { return Ok(()) };
    let registries = std::fs::read_dir(home.join("registry/cache"));
    let mut registries: Vec<PathBuf> =
        registries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    registries.sort();
    for entry in crates {
        for registry in &registries {
            if let Ok(bytes) = std::fs::read(registry.join(entry.to_string()))
                && Sha256Hash::of(&bytes) == entry.sha256
            {
                cache.put(&bytes)?;
                break;
            }
        }
    }
    Ok(())
}

/// Lets the machine's cargo download the workspace's crates: a transport, whose files are
/// believed for their checksums alone.
fn run_cargo(from: &CrateSources) -> Result<(), FetchError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| find_cargo(from));
    let mut process = Process::new(cargo)
        .args(["fetch", "--locked", "--quiet"])
        .dir(&from.workspace)
        .inherit([
            "PATH",
            "HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ])
        .inherit(["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"])
        .inherit(["all_proxy", "ALL_PROXY"])
        .inherit(["CARGO_HTTP_CAINFO", "CARGO_HTTP_PROXY"]);
    if let Some(home) = &from.cargo_home {
        process = process.env("CARGO_HOME", home);
    }
    let workspace = from.workspace.display().to_string();
    process.run().map(drop).map_err(|source| FetchError::Cargo { workspace, source })
}

fn find_cargo(from: &CrateSources) -> std::ffi::OsString {
    let own = from.cargo_home.as_deref().map(|home| home.join("bin/cargo"));
    own.filter(|path| Path::exists(path)).map_or_else(|| "cargo".into(), Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";

    fn lock(extra: &str) -> String {
        format!(
            "version = 4\n[[package]]\nname = \"guest\"\nversion = \"0.1.0\"\n\
             dependencies = [\"a 1.0.0\"]\n\
             [[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
             source = \"registry+https://index\"\nchecksum = \"{A}\"\ndependencies = [\"b\"]\n\
             [[package]]\nname = \"a\"\nversion = \"2.0.0\"\n\
             source = \"registry+https://index\"\nchecksum = \"{A}\"\n\
             [[package]]\nname = \"b\"\nversion = \"0.3.0\"\n\
             source = \"registry+https://index\"\n{extra}\n"
        )
    }

    #[test]
    fn the_closure_of_a_package_is_followed() {
        let text = lock(&format!("checksum = \"{A}\""));
        let names = |package| -> Vec<String> {
            crates_of(&text, package).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(Some("guest")), ["a-1.0.0.crate", "b-0.3.0.crate"]);
        assert_eq!(names(None), ["a-1.0.0.crate", "a-2.0.0.crate", "b-0.3.0.crate"]);
    }

    #[test]
    fn what_has_no_checksum_is_refused() {
        let error = crates_of(&lock(""), Some("guest")).unwrap_err();
        assert_eq!(error, "b 0.3.0 has no checksum");
        let good = lock(&format!("checksum = \"{A}\""));
        let error = crates_of(&good, Some("gone")).unwrap_err();
        assert_eq!(error, "it lacks the package gone");
        let git = good.replace("registry+https://index", "git+https://x");
        assert!(crates_of(&git, None).unwrap_err().contains("only registries"));
        let error = crates_of(&good.replace("\"b\"\nversion", "\"../b\"\nversion"), None);
        assert!(error.is_err());
        let error = crates_of("[[package]]\nname = 1\n", None).unwrap_err();
        assert!(error.starts_with("line 2:8: package[0].name: "), "{error}");
    }
}

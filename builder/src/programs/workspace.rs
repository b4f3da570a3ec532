//! The part of a Cargo workspace that one of its packages is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use toml::{Table, Value};

use super::ProgramError;
use crate::fetch::{LockedCrate, crates_of};

/// A package, the workspace members that it needs, and its locked crates.
#[derive(Debug, Clone)]
pub struct Workspace {
    package: String,
    binaries: Vec<String>,
    /// Files by path relative to the workspace: the reduced manifest and lock, the members'
    /// manifests and sources.
    files: BTreeMap<String, Vec<u8>>,
    crates: Vec<LockedCrate>,
}

impl Workspace {
    /// Reads the workspace at `root` as far as `package` needs it: of each member `build.rs`,
    /// `src` and its manifest without the tests; of the root's manifest and lock what concerns
    /// them.
    ///
    /// # Errors
    /// When a file is unreadable or malformed, or the package is no member.
    pub fn read(root: &Path, package: &str) -> Result<Self, ProgramError> {
        let manifest_path = root.join("Cargo.toml");
        let manifest = table(&manifest_path)?;
        let lock_path = root.join("Cargo.lock");
        let lock_text = text(&lock_path)?;
        let invalid = |what: String| ProgramError::Manifest { path: lock_path.clone(), what };
        let crates = crates_of(&lock_text, Some(package)).map_err(invalid)?;
        let lock: Table = toml::from_str(&lock_text).map_err(|e| invalid(e.to_string()))?;

        let members = members(root, &manifest);
        let needed = local_closure(&lock, package);
        let mut files = BTreeMap::new();
        let mut dirs = Vec::new();
        let mut inherited = BTreeSet::new();
        for name in &needed {
            let Some((dir, table)) = members.get(name) else {
                let what = format!("the workspace has no member {name}");
                return Err(ProgramError::Manifest { path: manifest_path, what });
            };
            inherit(table, &mut inherited);
            files.insert(format!("{dir}/Cargo.toml"), reduce_member(table).into_bytes());
            let script = root.join(dir).join("build.rs");
            if script.exists() {
                files.insert(format!("{dir}/build.rs"), bytes(&script)?);
            }
            collect(&root.join(dir).join("src"), &format!("{dir}/src"), &mut files)?;
            dirs.push(dir.clone());
        }
        let lock = reduce_lock(lock, &needed, &crates);
        files.insert("Cargo.toml".into(), reduce_root(&manifest, &dirs, &inherited).into_bytes());
        files.insert("Cargo.lock".into(), lock.into_bytes());
        let own = members.get(package).map(|(dir, _)| dir.as_str()).unwrap_or_default();
        let binaries = binaries(&files, own);
        Ok(Self { package: package.to_owned(), binaries, files, crates })
    }

    /// The package.
    #[must_use]
    pub fn package(&self) -> &str {
        &self.package
    }

    /// The names of its binaries: the files of `src/bin`.
    #[must_use]
    pub fn binaries(&self) -> &[String] {
        &self.binaries
    }

    /// Its crates.
    #[must_use]
    pub fn crates(&self) -> &[LockedCrate] {
        &self.crates
    }

    /// A digest of the files, which hold the crates' checksums.
    #[must_use]
    pub fn digest(&self) -> Sha256Hash {
        let mut text = String::from("casemate-sources-v1\n");
        for (path, bytes) in &self.files {
            let _ = writeln!(text, "{} {path}", Sha256Hash::of(bytes));
        }
        Sha256Hash::of(text.as_bytes())
    }

    /// Writes the files to the new directory `dir`, with `profile` at the end of the root's
    /// manifest.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self, dir: &Path, profile: &str) -> Result<(), ProgramError> {
        for (path, bytes) in &self.files {
            let at = dir.join(path);
            let wrap = |path: PathBuf| move |source| ProgramError::File { path, source };
            if let Some(parent) = at.parent() {
                std::fs::create_dir_all(parent).map_err(wrap(parent.to_owned()))?;
            }
            let mut bytes = bytes.clone();
            if path == "Cargo.toml" {
                bytes.extend(b"\n");
                bytes.extend(profile.bytes());
            }
            std::fs::write(&at, bytes).map_err(wrap(at))?;
        }
        Ok(())
    }
}

fn bytes(path: &Path) -> Result<Vec<u8>, ProgramError> {
    std::fs::read(path).map_err(|source| ProgramError::File { path: path.to_owned(), source })
}

fn text(path: &Path) -> Result<String, ProgramError> {
    std::fs::read_to_string(path)
        .map_err(|source| ProgramError::File { path: path.to_owned(), source })
}

fn table(path: &Path) -> Result<Table, ProgramError> {
    toml::from_str(&text(path)?)
        .map_err(|error| ProgramError::Manifest { path: path.to_owned(), what: error.to_string() })
}

/// The members by package name: directory and manifest.
fn members(root: &Path, manifest: &Table) -> BTreeMap<String, (String, Table)> {
    let listed = manifest.get("workspace").and_then(|w| w.get("members")).and_then(Value::as_array);
    let mut members = BTreeMap::new();
    for dir in listed.into_iter().flatten().filter_map(Value::as_str) {
        // A member that is missing or broken matters only to who needs it.
        let Ok(table) = table(&root.join(dir).join("Cargo.toml")) else { continue };
        let name = table.get("package").and_then(|p| p.get("name")).and_then(Value::as_str);
        if let Some(name) = name {
            members.insert(name.to_owned(), (dir.to_owned(), table));
        }
    }
    members
}

fn packages(lock: &Table) -> impl Iterator<Item = &Table> {
    let packages = lock.get("package").and_then(Value::as_array);
    packages.into_iter().flatten().filter_map(Value::as_table)
}

fn field<'a>(package: &'a Table, name: &str) -> &'a str {
    package.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The names of the packages without a source, that is of the workspace, that `package` needs.
fn local_closure(lock: &Table, package: &str) -> BTreeSet<String> {
    let local: BTreeMap<&str, &Table> = packages(lock)
        .filter(|p| !p.contains_key("source"))
        .map(|p| (field(p, "name"), p))
        .collect();
    let mut needed = BTreeSet::new();
    let mut queue = vec![package.to_owned()];
    while let Some(name) = queue.pop() {
        let Some(entry) = local.get(name.as_str()) else { continue };
        if needed.insert(name) {
            let dependencies = entry.get("dependencies").and_then(Value::as_array);
            let names = dependencies.into_iter().flatten().filter_map(Value::as_str);
            queue.extend(names.filter_map(|d| d.split(' ').next()).map(str::to_owned));
        }
    }
    needed
}

/// The names that a member inherits from `[workspace.dependencies]`.
fn inherit(member: &Table, names: &mut BTreeSet<String>) {
    for (key, value) in member {
        let Some(table) = value.as_table() else { continue };
        if key == "dependencies" || key == "build-dependencies" {
            let inherited = table.iter().filter(|(_, v)| v.get("workspace").is_some());
            names.extend(inherited.map(|(name, _)| name.clone()));
        } else if key == "target" {
            table.values().filter_map(Value::as_table).for_each(|t| inherit(t, names));
        }
    }
}

/// A member's manifest without what only its tests are made of.
fn reduce_member(manifest: &Table) -> String {
    let mut reduced = manifest.clone();
    for key in ["bench", "dev-dependencies", "example", "test"] {
        reduced.remove(key);
    }
    if let Some(Value::Table(targets)) = reduced.get_mut("target") {
        for target in targets.iter_mut().filter_map(|(_, target)| target.as_table_mut()) {
            target.remove("dev-dependencies");
        }
    }
    reduced.to_string()
}

/// The root's manifest with only the needed members and inherited dependencies, no profile.
fn reduce_root(manifest: &Table, dirs: &[String], inherited: &BTreeSet<String>) -> String {
    let mut reduced = Table::new();
    if let Some(Value::Table(mut workspace)) = manifest.get("workspace").cloned() {
        let members = dirs.iter().cloned().map(Value::String).collect();
        workspace.insert("members".into(), Value::Array(members));
        workspace.remove("default-members");
        workspace.remove("exclude");
        if let Some(Value::Table(dependencies)) = workspace.get_mut("dependencies") {
            dependencies.retain(|name, _| inherited.contains(name));
        }
        reduced.insert("workspace".into(), Value::Table(workspace));
    }
    reduced.to_string()
}

/// The lock with only the needed packages.
fn reduce_lock(mut lock: Table, needed: &BTreeSet<String>, crates: &[LockedCrate]) -> String {
    if let Some(Value::Array(packages)) = lock.get_mut("package") {
        packages.retain(|package| {
            let Some(package) = package.as_table() else { return false };
            let (name, version) = (field(package, "name"), field(package, "version"));
            if package.contains_key("source") {
                crates.iter().any(|c| c.name == name && c.version == version)
            } else {
                needed.contains(name)
            }
        });
    }
    lock.to_string()
}

fn collect(
    dir: &Path,
    prefix: &str,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), ProgramError> {
    let wrap = |source| ProgramError::File { path: dir.to_owned(), source };
    for found in std::fs::read_dir(dir).map_err(wrap)? {
        let found = found.map_err(wrap)?;
        let name = found.file_name().to_string_lossy().into_owned();
        // Editors' leftovers are no sources.
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        let path = format!("{prefix}/{name}");
        if found.file_type().map_err(wrap)?.is_dir() {
            collect(&found.path(), &path, files)?;
        } else {
            files.insert(path, bytes(&found.path())?);
        }
    }
    Ok(())
}

fn binaries(files: &BTreeMap<String, Vec<u8>>, dir: &str) -> Vec<String> {
    let prefix = format!("{dir}/src/bin/");
    let names = files.keys().filter_map(|path| path.strip_prefix(&prefix));
    let stems = names.filter_map(|name| {
        let stem = name.strip_suffix("/main.rs").or_else(|| name.strip_suffix(".rs"))?;
        (!stem.contains('/')).then(|| stem.to_owned())
    });
    stems.collect()
}

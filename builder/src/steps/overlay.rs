//! The recipe's own files, copied over the packages' last.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use casemate_measurements::hash::Sha256Hash;

use super::StepError;
use crate::merge::{Kind, Tree, canonical};

/// What every build writes itself, and how a recipe says what shall be in it.
const WRITTEN: [(&str, &str); 10] = [
    ("etc/passwd", "name the user in a [[user]]"),
    ("etc/shadow", "name the user in a [[user]]; no account has a password"),
    ("etc/group", "name the group in a [[group]], its members by `groups` of their [[user]]"),
    ("etc/gshadow", "name the group in a [[group]], its members by `groups` of their [[user]]"),
    ("etc/subuid", "give the [[user]] `subids`"),
    ("etc/subgid", "give the [[user]] `subids`"),
    ("etc/machine-id", "leave it out: it is empty in every image, and each boot makes its own"),
    ("etc/systemd/system/default.target", "name the unit in `default` of [units]"),
    ("etc/systemd/system-preset/00-casemate.preset", "name what is started in `enable` of [units]"),
    ("etc/systemd/user-preset/00-casemate.preset", "name what is started in `enable` of [units]"),
];

/// What an overlay holds, by path relative to the root.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    entries: Vec<(String, Entry)>,
}

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File { executable: bool, bytes: Vec<u8> },
    Link(String),
}

/// Reads the overlay in `dir`, which need not exist. Of modes only "executable by its owner"
/// counts, as in git.
///
/// # Errors
/// When something cannot be read, is neither file, link nor directory, or is what the build writes
/// itself.
pub fn read_overlay(dir: &Path) -> Result<Overlay, StepError> {
    let mut overlay = Overlay::default();
    if dir.exists() {
        read(dir, "", &mut overlay.entries)?;
    }
    overlay.entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (path, entry) in &overlay.entries {
        let path = canonical(path, matches!(entry, Entry::Link(_)));
        if let Some((_, instead)) = WRITTEN.iter().find(|(written, _)| *written == path) {
            return Err(StepError::OverlayWritten { path: dir.join(path), instead });
        }
    }
    Ok(overlay)
}

fn read(dir: &Path, prefix: &str, entries: &mut Vec<(String, Entry)>) -> Result<(), StepError> {
    let wrap = |path: &Path| {
        let path = path.to_owned();
        move |source| StepError::File { path, source }
    };
    for found in std::fs::read_dir(dir).map_err(wrap(dir))? {
        let found = found.map_err(wrap(dir))?;
        let at = found.path();
        let name = found.file_name().into_string();
        let name = name.map_err(|_| StepError::Overlay { path: at.clone() })?;
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let meta = std::fs::symlink_metadata(&at).map_err(wrap(&at))?;
        let entry = if meta.is_dir() {
            read(&at, &path, entries)?;
            Entry::Directory
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&at).map_err(wrap(&at))?.into_os_string();
            let target = target.into_string();
            Entry::Link(target.map_err(|_| StepError::Overlay { path: at.clone() })?)
        } else if meta.is_file() {
            let bytes = std::fs::read(&at).map_err(wrap(&at))?;
            Entry::File { executable: meta.permissions().mode() & 0o100 != 0, bytes }
        } else {
            return Err(StepError::Overlay { path: at });
        };
        entries.push((path, entry));
    }
    Ok(())
}

impl Overlay {
    /// Puts `upper`, read from `dir`, over this one: its files and links replace those of the
    /// same path.
    ///
    /// # Errors
    /// When a path is a directory in one and a file or link in the other.
    pub fn add(&mut self, dir: &Path, upper: Self) -> Result<(), StepError> {
        for (path, entry) in upper.entries {
            match self.entries.binary_search_by(|(other, _)| other.cmp(&path)) {
                Ok(at) => {
                    let is_dir = |entry: &Entry| matches!(entry, Entry::Directory);
                    if is_dir(&self.entries[at].1) != is_dir(&entry) {
                        return Err(StepError::OverlayKind { path: dir.join(path) });
                    }
                    self.entries[at].1 = entry;
                }
                Err(at) => self.entries.insert(at, (path, entry)),
            }
        }
        Ok(())
    }

    /// A digest of the paths, bytes and executable bits.
    #[must_use]
    pub fn digest(&self) -> Sha256Hash {
        let mut text = String::from("casemate-overlay-v1\n");
        for (path, entry) in &self.entries {
            let line = match entry {
                Entry::Directory => "directory".to_owned(),
                Entry::Link(target) => format!("link {}", Sha256Hash::of(target.as_bytes())),
                Entry::File { executable, bytes } => {
                    format!("file {executable} {}", Sha256Hash::of(bytes))
                }
            };
            let _ = writeln!(text, "{} {line}", Sha256Hash::of(path.as_bytes()));
        }
        Sha256Hash::of(text.as_bytes())
    }

    /// How many files and links it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.iter().filter(|(_, entry)| !matches!(entry, Entry::Directory)).count()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts everything into `tree`, over what is there. A directory that is there stays as it
    /// is.
    ///
    /// # Errors
    /// When a file would lie below another, or replace a directory that is not empty.
    pub fn apply(&self, tree: &mut Tree) -> Result<(), StepError> {
        for (path, entry) in &self.entries {
            let path = canonical(path, matches!(entry, Entry::Link(_)));
            match entry {
                Entry::Directory => tree.put_directory(&path, 0o755)?,
                Entry::Link(target) => tree.put_link(&path, target)?,
                Entry::File { executable, bytes } => {
                    tree.put_file(&path, if *executable { 0o755 } else { 0o644 }, bytes)?;
                }
            }
        }
        Ok(())
    }

    /// Holds `tree`, after all steps, to what [`Overlay::apply`] put into it.
    ///
    /// # Errors
    /// When a later step wrote over a file or link.
    pub fn check_kept(&self, tree: &Tree) -> Result<(), StepError> {
        for (path, entry) in &self.entries {
            let path = canonical(path, matches!(entry, Entry::Link(_)));
            let kept = match (entry, tree.get(&path).map(|node| &node.kind)) {
                (Entry::Directory, _) => true,
                (Entry::Link(target), Some(Kind::Symlink(found))) => found == target,
                (Entry::File { bytes, .. }, Some(Kind::File(found))) => {
                    tree.read_content(found)? == *bytes
                }
                _ => false,
            };
            if !kept {
                return Err(StepError::OverlayLost { path });
            }
        }
        Ok(())
    }
}

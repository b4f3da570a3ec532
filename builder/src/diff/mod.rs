//! Compares two releases and says where the first difference is: which file inside which file
//! system, which byte, and what probably made it.
//!
//! For whoever rebuilds a release and gets other hashes. It trusts neither release: it verifies
//! nothing, it only looks.

mod cause;
mod tree;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::manifest::{FILE_NAME, artifact};
use serde::Serialize;

pub use cause::Cause;

/// Bytes that are shown around a difference.
const AROUND: usize = 24;

/// Why releases could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory holds no release.
    #[error("{} is no release: it has no {FILE_NAME}", path.display())]
    NotARelease {
        /// The directory.
        path: PathBuf,
    },
}

/// Two files that differ, or one that only one release has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The release's file.
    pub artifact: String,
    /// The first path inside of it that differs, if it is a file system that could be read.
    pub path: Option<String>,
    /// How many paths inside of it differ.
    pub paths: usize,
    /// What differs: content, mode, owner, time, presence.
    pub what: &'static str,
    /// The offset of the first differing byte in the content that differs.
    pub offset: Option<u64>,
    /// What the first release has there.
    pub first: String,
    /// What the second has.
    pub second: String,
    /// What probably made the difference.
    pub cause: Cause,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// The files that are the same.
    pub same: Vec<String>,
    /// Those that differ, the ones that others follow from first.
    pub differences: Vec<Difference>,
}

impl DiffReport {
    /// Whether the releases are the same, byte for byte.
    #[must_use]
    pub fn identical(&self) -> bool {
        self.differences.is_empty()
    }
}

/// The files of a release, causes before what follows from them: the command line holds the root
/// hash, the manifest all hashes.
const ORDER: [&str; 7] = [
    artifact::ROOT,
    artifact::INITRD,
    artifact::KERNEL,
    artifact::FIRMWARE,
    artifact::SBOM,
    artifact::CMDLINE,
    FILE_NAME,
];

/// Compares the releases in two directories.
///
/// # Errors
/// When one is no release or a file cannot be read.
pub fn diff(first: &Path, second: &Path) -> Result<DiffReport, DiffError> {
    for dir in [first, second] {
        if !dir.join(FILE_NAME).is_file() {
            return Err(DiffError::NotARelease { path: dir.to_owned() });
        }
    }
    let mut report = DiffReport { same: Vec::new(), differences: Vec::new() };
    let mut names: Vec<String> = ORDER.iter().map(ToString::to_string).collect();
    let others: BTreeSet<String> = others(first)?.union(&others(second)?).cloned().collect();
    names.extend(others);
    for name in names {
        let (a, b) = (first.join(&name), second.join(&name));
        match (a.is_file(), b.is_file()) {
            (false, false) => {}
            (true, true) => match first_difference(&a, &b)? {
                None => report.same.push(name),
                Some(_) => report.differences.push(inside(&name, &a, &b)?),
            },
            (here, _) => report.differences.push(only_in(&name, None, here)),
        }
    }
    Ok(report)
}

/// Names of files that no release needs to have.
fn others(dir: &Path) -> Result<BTreeSet<String>, DiffError> {
    let wrap = |source| DiffError::Read { path: dir.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(dir).map_err(wrap)? {
        let name = entry.map_err(wrap)?.file_name().to_string_lossy().into_owned();
        if !ORDER.contains(&name.as_str()) {
            names.insert(name);
        }
    }
    Ok(names)
}

fn only_in(artifact: &str, path: Option<String>, in_first: bool) -> Difference {
    let text = |here: bool| if here { "there" } else { "missing" }.to_owned();
    Difference {
        artifact: artifact.to_owned(),
        path,
        paths: 1,
        what: "presence",
        offset: None,
        first: text(in_first),
        second: text(!in_first),
        cause: Cause::Presence,
    }
}

/// Reads a file system, and one file of it.
type Reader = (fn(&[u8]) -> Option<tree::Entries>, fn(&[u8], &str) -> Option<Vec<u8>>);

/// Looks for the difference inside the files, if they are file systems, else at their bytes.
fn inside(name: &str, a: &Path, b: &Path) -> Result<Difference, DiffError> {
    let (first, second) = (read(a)?, read(b)?);
    let mut otherwise = None;
    let reader: Option<Reader> = match name {
        artifact::ROOT => Some((tree::erofs, tree::erofs_file)),
        artifact::INITRD => Some((tree::cpio, tree::cpio_file)),
        artifact::CMDLINE | FILE_NAME => {
            otherwise = Some(Cause::Follows);
            None
        }
        _ => None,
    };
    if let Some((entries, file)) = reader {
        let Some(trees) = entries(&first).zip(entries(&second)) else {
            return Ok(Difference {
                cause: Cause::Unreadable,
                ..content(name, None, &first, &second)
            });
        };
        let contents = |path: &str| {
            (file(&first, path).unwrap_or_default(), file(&second, path).unwrap_or_default())
        };
        if let Some(found) = tree::compare(name, &trees.0, &trees.1, contents) {
            return Ok(found);
        }
        otherwise = Some(Cause::Container);
    }
    // No file system, or two that hold the same: the bytes themselves.
    let mut found = content(name, None, &first, &second);
    found.cause = otherwise.unwrap_or(found.cause);
    Ok(found)
}

/// The difference of two contents, which must differ.
fn content(artifact: &str, path: Option<String>, first: &[u8], second: &[u8]) -> Difference {
    let at = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    Difference {
        artifact: artifact.to_owned(),
        paths: 1,
        what: "content",
        offset: Some(at as u64),
        first: around(first, at),
        second: around(second, at),
        cause: cause::of(path.as_deref().unwrap_or(artifact), first, second, at),
        path,
    }
}

/// The bytes around `at`: as text where they are text, else as hex.
fn around(bytes: &[u8], at: usize) -> String {
    let end = (at + AROUND).min(bytes.len());
    let piece = &bytes[at.saturating_sub(AROUND).min(end)..end];
    let text = |b: &u8| b.is_ascii_graphic() || b" \n\t".contains(b);
    if !piece.is_empty() && piece.iter().all(text) {
        format!("{:?}", String::from_utf8_lossy(piece))
    } else {
        let from_here = &bytes[at.min(end)..end];
        format!("{} ({} bytes in all)", hex::encode(from_here), bytes.len())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, DiffError> {
    std::fs::read(path).map_err(|source| DiffError::Read { path: path.to_owned(), source })
}

/// The offset of the first byte in which two files differ.
fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>, DiffError> {
    let open = |path: &Path| {
        File::open(path).map_err(|source| DiffError::Read { path: path.to_owned(), source })
    };
    let (mut first, mut second) = (open(a)?, open(b)?);
    let (mut left, mut right) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    let mut offset = 0;
    loop {
        let n = fill(&mut first, &mut left)
            .map_err(|source| DiffError::Read { path: a.to_owned(), source })?;
        let m = fill(&mut second, &mut right)
            .map_err(|source| DiffError::Read { path: b.to_owned(), source })?;
        if left[..n] != right[..m] {
            let same = left[..n].iter().zip(&right[..m]).take_while(|(x, y)| x == y).count();
            return Ok(Some(offset + same as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        offset += n as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

impl fmt::Display for DiffReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.same {
            writeln!(f, "same     {name}")?;
        }
        for found in &self.differences {
            write!(f, "differs  {}", found.artifact)?;
            if let Some(path) = &found.path {
                write!(f, ": /{path}")?;
            }
            writeln!(f, ": {}", found.what)?;
            if let Some(offset) = found.offset {
                writeln!(f, "         at byte {offset}")?;
            }
            writeln!(f, "         first    {}", found.first)?;
            writeln!(f, "         second   {}", found.second)?;
            writeln!(f, "         likely   {}", found.cause)?;
            if found.paths > 1 {
                writeln!(f, "         and {} more paths differ in it", found.paths - 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Small files of `/sys` and `/proc`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Fact;

/// Most bytes of one file.
const MAX_LEN: u64 = 1024 * 1024;

/// The text of a file, trimmed; the reason names the file.
pub(super) fn text(path: &Path) -> Fact<String> {
    let bytes = bytes(path, MAX_LEN)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The first bytes of a file.
pub(super) fn bytes(path: &Path, most: u64) -> Fact<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Whether a device can be opened for reading and writing.
pub(super) fn opens(path: &Path) -> Fact<()> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    opened.map(drop).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a folder holds, sorted; nothing when it cannot be read.
pub(super) fn entries(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The last part of the path that a link leads to.
pub(super) fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// A number as the kernel writes it, decimal or with `0x`.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

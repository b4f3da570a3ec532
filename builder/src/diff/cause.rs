//! Guesses what made two contents differ.

use std::fmt;

use object::{Object as _, ObjectSection as _};
use serde::Serialize;

/// A likely cause of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// One has a file that the other lacks.
    Presence,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// The time of last change.
    Time,
    /// The same lines in another order.
    Order,
    /// A date or a time in the content.
    Timestamp,
    /// The time in the head of a gzip file.
    GzipTime,
    /// A path of the machine that built it.
    BuildPath,
    /// The linker's note that identifies a build.
    BuildId,
    /// It holds hashes of what differs elsewhere.
    Follows,
    /// The files inside are the same: how they are packed differs.
    Container,
    /// One of them is no file system of the expected kind, or a damaged one.
    Unreadable,
    /// Nothing known.
    Unknown,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Presence => "other packages, other drop patterns, or another overlay",
            Self::Mode => "a umask, or another [[file]] of the recipe",
            Self::Owner => "another number of a user or group",
            Self::Time => "the time of building: the epoch was not applied",
            Self::Order => "the same lines in another order: something was not sorted",
            Self::Timestamp => "the time of building, written into the content",
            Self::GzipTime => "the time of building, in the head of a gzip file",
            Self::BuildPath => "the directory of building, written into the content",
            Self::BuildId => "the linker's build id: the code or its inputs differ elsewhere",
            Self::Follows => "it holds hashes of the files that differ above",
            Self::Container => "the files inside are the same: layout, UUID, padding or hash tree",
            Self::Unreadable => "one of them is damaged: its files cannot all be read",
            Self::Unknown => "unknown: other code or other data",
        })
    }
}

/// Bytes before and after the difference that are looked at.
const NEAR: usize = 48;

/// The likely cause of the difference of `first` and `second` at `at`.
pub(super) fn of(path: &str, first: &[u8], second: &[u8], at: usize) -> Cause {
    let gzip = |bytes: &[u8]| bytes.starts_with(b"\x1f\x8b");
    if gzip(first) && gzip(second) && (4..8).contains(&at) {
        return Cause::GzipTime;
    }
    if [first, second].iter().all(|bytes| in_build_id(bytes, at)) {
        return Cause::BuildId;
    }
    if path != "sbom.json" && reordered(first, second) {
        return Cause::Order;
    }
    let near = |bytes: &[u8]| {
        let end = (at + NEAR).min(bytes.len());
        String::from_utf8_lossy(&bytes[at.saturating_sub(NEAR).min(end)..end]).into_owned()
    };
    let (a, b) = (near(first), near(second));
    if build_path(&a) && build_path(&b) {
        return Cause::BuildPath;
    }
    let ends = at >= first.len().min(second.len());
    if (has_time(&a) && has_time(&b)) || (ends && (has_time(&a) || has_time(&b))) {
        return Cause::Timestamp;
    }
    Cause::Unknown
}

/// Is `at` in the note with the build id of an ELF file?
fn in_build_id(bytes: &[u8], at: usize) -> bool {
    let Ok(elf) = object::File::parse(bytes) else { return false };
    let range = elf.section_by_name(".note.gnu.build-id").and_then(|s| s.file_range());
    range.is_some_and(|(start, size)| (start..start + size).contains(&(at as u64)))
}

fn reordered(first: &[u8], second: &[u8]) -> bool {
    let sorted = |bytes: &[u8]| {
        let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    first.len() == second.len() && first.contains(&b'\n') && sorted(first) == sorted(second)
}

fn build_path(text: &str) -> bool {
    ["/tmp/", "/home/", "/root/", "/build/", "/work/", "/var/tmp/"].iter().any(|p| text.contains(p))
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Does `text` hold something like `2025-01-01`, `20250101`, `Jan 1`, `12:34:56` or seconds
/// since 1970?
fn has_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let seconds = text
        .split(|c: char| !c.is_ascii_digit())
        .any(|n| n.len() == 10 && n.starts_with(['1', '2']));
    let day = text
        .split(|c: char| !c.is_ascii_digit())
        .any(|n| n.len() == 8 && (n.starts_with("19") || n.starts_with("20")));
    let month = MONTHS
        .iter()
        .any(|name| shape.contains(&format!("{name} 0")) || shape.contains(&format!("{name}  0")));
    seconds || day || month || shape.contains("0000-00-00") || shape.contains("00:00:00")
}

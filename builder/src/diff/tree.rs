//! Reads the file systems of a release into plain maps and compares these.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use erofs_rs::types::Inode;

use casemate_measurements::hash::Sha256Hash;

use super::{Cause, Difference, content, only_in};
use crate::initrd::cpio;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// `file`, `directory`, `link` or `device`.
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    time: i64,
    /// Of the content, a link's target or a device's number: two whole images in memory would be
    /// too much.
    sha256: Sha256Hash,
}

/// A file system by path.
pub(super) type Entries = BTreeMap<String, Entry>;

/// The content of the file `path` in an erofs image.
pub(super) fn erofs_file(image: &[u8], path: &str) -> Option<Vec<u8>> {
    let fs = EroFS::new(SliceImage::new(image)).ok()?;
    let mut bytes = Vec::new();
    fs.open(format!("/{path}")).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The content of the file `path` in a cpio archive.
pub(super) fn cpio_file(archive: &[u8], path: &str) -> Option<Vec<u8>> {
    cpio::read(archive)?.into_iter().find(|entry| entry.path == path).map(|entry| entry.bytes)
}

/// Reads an erofs image; `None` if it is none, or not wholly readable.
pub(super) fn erofs(image: &[u8]) -> Option<Entries> {
    let fs = EroFS::new(SliceImage::new(image)).ok()?;
    let mut entries = Entries::new();
    let root = fs.get_inode(fs.super_block().root_inode_id()).ok()?;
    entries.insert(String::new(), entry(&root, "directory", b""));
    for found in fs.walk_dir("/").ok()? {
        let found = found.ok()?;
        let path = String::from_utf8_lossy(found.dir_entry.path().as_bytes()).into_owned();
        let path = path.trim_start_matches('/').to_owned();
        let inode = found.inode;
        let entry = if inode.is_dir() {
            entry(&inode, "directory", b"")
        } else if inode.is_symlink() {
            let target = fs.read_link_inode(inode).ok()?;
            entry(&inode, "link", target.as_bytes())
        } else if inode.is_file() {
            let mut bytes = Vec::new();
            fs.open_inode_file(inode).ok()?.read_to_end(&mut bytes).ok()?;
            entry(&inode, "file", &bytes)
        } else {
            let device = inode.device();
            entry(&inode, "device", format!("{device:?}").as_bytes())
        };
        entries.insert(path, entry);
    }
    Some(entries)
}

fn entry(inode: &Inode, kind: &'static str, bytes: &[u8]) -> Entry {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = inode.permissions().mode() & 0o7777;
    let (time, _) = inode.modified_unix();
    let owner = (inode.uid(), inode.gid());
    Entry { kind, mode, owner, time, sha256: Sha256Hash::of(bytes) }
}

/// Reads a cpio archive; `None` if it is none.
pub(super) fn cpio(archive: &[u8]) -> Option<Entries> {
    let entries = cpio::read(archive)?.into_iter().map(|found| {
        let kind = match found.mode >> 12 {
            0o04 => "directory",
            0o10 => "file",
            0o12 => "link",
            _ => "device",
        };
        let bytes = match kind {
            "device" => format!("{:?}", found.rdev).into_bytes(),
            _ => found.bytes,
        };
        let (mode, time) = (found.mode & 0o7777, i64::from(found.mtime));
        (found.path, Entry { kind, mode, owner: found.owner, time, sha256: Sha256Hash::of(&bytes) })
    });
    Some(entries.collect())
}

/// The first difference of two file systems; `None` if they hold the same. `contents` gives both
/// contents of a file.
pub(super) fn compare(
    artifact: &str,
    first: &Entries,
    second: &Entries,
    contents: impl FnOnce(&str) -> (Vec<u8>, Vec<u8>),
) -> Option<Difference> {
    let all: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let mut differing = all.into_iter().filter(|path| first.get(*path) != second.get(*path));
    let path = differing.next()?;
    let more = differing.count();
    let mut found = match (first.get(path), second.get(path)) {
        (Some(a), Some(b)) if a.kind == "file" && b.kind == "file" && a.sha256 != b.sha256 => {
            let (a, b) = contents(path);
            content(artifact, Some(path.clone()), &a, &b)
        }
        (Some(a), Some(b)) => one(artifact, path, a, b),
        (here, _) => only_in(artifact, Some(path.clone()), here.is_some()),
    };
    found.paths = more + 1;
    Some(found)
}

/// What differs at one path besides a file's content; of several things the most telling.
fn one(artifact: &str, path: &str, a: &Entry, b: &Entry) -> Difference {
    let facts = |what, first: String, second: String, cause| Difference {
        artifact: artifact.to_owned(),
        path: Some(path.to_owned()),
        paths: 1,
        what,
        offset: None,
        first,
        second,
        cause,
    };
    if a.kind != b.kind {
        return facts("type", a.kind.to_owned(), b.kind.to_owned(), Cause::Presence);
    }
    if a.sha256 != b.sha256 {
        let hash = |entry: &Entry| format!("SHA-256 {}", entry.sha256);
        return facts("target", hash(a), hash(b), Cause::Unknown);
    }
    if a.mode != b.mode {
        let octal = |entry: &Entry| format!("{:04o}", entry.mode);
        return facts("mode", octal(a), octal(b), Cause::Mode);
    }
    if a.owner != b.owner {
        let owner = |entry: &Entry| format!("{}:{}", entry.owner.0, entry.owner.1);
        return facts("owner", owner(a), owner(b), Cause::Owner);
    }
    facts("time", a.time.to_string(), b.time.to_string(), Cause::Time)
}

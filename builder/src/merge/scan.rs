//! Reads the headers of a package's tar archive: what it holds, and where the bytes are.

use std::fs::File;
use std::sync::Arc;

use super::tree::{Content, Kind, Node, Owner, canonical};
use super::{MergeError, Package};

/// One entry of a package.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Path relative to the root, with `/bin` and its like already below `/usr`.
    pub path: String,
    /// What is there; a file's source is still unset.
    pub node: Node,
    /// The path that this entry is a hard link to.
    pub hard_link: Option<String>,
}

/// Reads the entries of `package`, in their order, without the root itself.
///
/// # Errors
/// When the archive is unreadable or holds a device, a path that climbs, or no UTF-8.
pub fn scan(package: &Package) -> Result<Vec<Scanned>, MergeError> {
    let read = |source| MergeError::Read {
        package: package.name.clone(),
        path: package.tar.clone(),
        source,
    };
    let mut archive = tar::Archive::new(File::open(&package.tar).map_err(read)?);
    let mut scanned = Vec::new();
    for entry in archive.entries_with_seek().map_err(read)? {
        let entry = entry.map_err(read)?;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let refuse =
            |what| MergeError::Entry { package: package.name.clone(), path: raw.clone(), what };
        let Some(path) = plain(&raw).ok_or_else(|| refuse("a path that is no plain one"))? else {
            continue;
        };
        let header = entry.header();
        let link = || -> Result<String, MergeError> {
            let target = entry.link_name_bytes().ok_or_else(|| refuse("a link to nothing"))?;
            String::from_utf8(target.into_owned()).map_err(|_| refuse("a link that is not UTF-8"))
        };
        let mut hard_link = None;
        let kind = match header.entry_type() {
            tar::EntryType::Directory => Kind::Directory,
            tar::EntryType::Symlink => Kind::Symlink(link()?),
            tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(Content::Extent {
                source: usize::MAX,
                offset: entry.raw_file_position(),
                size: entry.size(),
            }),
            tar::EntryType::Link => {
                let target = plain(&link()?).flatten();
                let target = target.ok_or_else(|| refuse("a hard link that climbs"))?;
                hard_link = Some(canonical(&target, false));
                Kind::File(Content::Bytes(Arc::from([])))
            }
            _ => return Err(refuse("something that is no file, directory or link")),
        };
        let number = |field: std::io::Result<u64>| {
            u32::try_from(field.map_err(read)?).map_err(|_| refuse("an owner that is no number"))
        };
        let name = |bytes: Option<&[u8]>| {
            Arc::from(String::from_utf8_lossy(bytes.unwrap_or_default()).as_ref())
        };
        let owner = Owner {
            uid: number(header.uid())?,
            gid: number(header.gid())?,
            user: name(header.username_bytes()),
            group: name(header.groupname_bytes()),
        };
        let mode = header.mode().map_err(read)? & 0o7777;
        let path = canonical(&path, matches!(kind, Kind::Symlink(_)));
        let node = Node { kind, mode, owner: Arc::new(owner), source: None };
        scanned.push(Scanned { path, node, hard_link });
    }
    Ok(scanned)
}

/// The relative path that `raw` is, `None` inside for the root; `None` for one that climbs, has
/// control characters, or is not UTF-8.
#[expect(clippy::option_option, reason = "refused, the root, or a path")]
fn plain(raw: &str) -> Option<Option<String>> {
    if raw.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let parts: Vec<&str> = raw.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return None;
    }
    Some((!parts.is_empty()).then(|| parts.join("/")))
}

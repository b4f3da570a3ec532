//! A cpio archive in the "newc" format, the one that the kernel unpacks as its first root file
//! system (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Everything that a file system would lend by chance is decided here: order, inode numbers,
//! owner, times, link counts and device numbers.

use std::collections::BTreeMap;
use std::io::{self, Write};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A file with its permission bits and bytes.
    File {
        /// Permission bits.
        mode: u32,
        /// Content.
        bytes: Vec<u8>,
    },
    /// A symbolic link with its target.
    Symlink(String),
    /// A character device with its permission bits and number.
    CharDevice {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// An archive in the making: sorted, with all parent directories.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    nodes: BTreeMap<String, Node>,
}

/// Why an archive cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CpioError {
    /// A path is absolute, empty, or climbs.
    #[error("path {path:?} cannot stand in an initrd: it must be relative and without . and ..")]
    Path {
        /// The refused path.
        path: String,
    },
    /// Two things at one path.
    #[error("two entries of the initrd have the path {path:?}")]
    Duplicate {
        /// The path.
        path: String,
    },
    /// The format has 32 bits for a size.
    #[error("{path:?} has {size} bytes, more than an initrd entry can hold")]
    TooLarge {
        /// The path.
        path: String,
        /// Its size.
        size: usize,
    },
    /// The archive could not be written.
    #[error("cannot write the initrd")]
    Write(#[source] io::Error),
}

impl Archive {
    /// Adds `node` at `path` and the directories above it.
    ///
    /// # Errors
    /// When the path is not a plain relative one or is taken.
    pub fn add(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) || path.contains('\0') {
            return Err(CpioError::Path { path: path.to_owned() });
        }
        for (at, _) in path.match_indices('/') {
            match self.nodes.entry(path[..at].to_owned()).or_insert(Node::Directory) {
                Node::Directory => {}
                _ => return Err(CpioError::Duplicate { path: path[..at].to_owned() }),
            }
        }
        let directory = node == Node::Directory;
        match self.nodes.insert(path.to_owned(), node) {
            None => Ok(()),
            Some(Node::Directory) if directory => Ok(()),
            Some(_) => Err(CpioError::Duplicate { path: path.to_owned() }),
        }
    }

    /// Writes the archive with `mtime` for all, owned by root, padded to 512 bytes.
    ///
    /// # Errors
    /// When `out` refuses bytes, or a file does not fit the format.
    pub fn write(&self, mtime: u32, mut out: impl Write) -> Result<(), CpioError> {
        let mut written = 0;
        for (number, (path, node)) in self.nodes.iter().enumerate() {
            let inode = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(1);
            written += write_entry(&mut out, inode, mtime, path, node)?;
        }
        written +=
            write_entry(&mut out, 0, 0, "TRAILER!!!", &Node::File { mode: 0, bytes: vec![] })?;
        out.write_all(&vec![0; written.next_multiple_of(512) - written]).map_err(CpioError::Write)
    }
}

/// Writes one entry and returns its size.
fn write_entry(
    out: &mut impl Write,
    inode: u32,
    mtime: u32,
    path: &str,
    node: &Node,
) -> Result<usize, CpioError> {
    let (mode, links, rdev, bytes): (u32, u32, (u32, u32), &[u8]) = match node {
        Node::Directory => (0o40_755, 2, (0, 0), b""),
        Node::File { mode, bytes } if inode == 0 => (*mode, 1, (0, 0), bytes),
        Node::File { mode, bytes } => (0o100_000 | mode, 1, (0, 0), bytes),
        Node::Symlink(target) => (0o120_777, 1, (0, 0), target.as_bytes()),
        Node::CharDevice { mode, major, minor } => (0o20_000 | mode, 1, (*major, *minor), b""),
    };
    let size = u32::try_from(bytes.len())
        .map_err(|_| CpioError::TooLarge { path: path.to_owned(), size: bytes.len() })?;
    let name_size = u32::try_from(path.len() + 1)
        .map_err(|_| CpioError::TooLarge { path: path.to_owned(), size: path.len() })?;
    let mut head = b"070701".to_vec();
    // Inode, mode, owner, group, links, mtime, size, device, its minor, rdev, its minor, name, sum.
    for field in [inode, mode, 0, 0, links, mtime, size, 0, 0, rdev.0, rdev.1, name_size, 0] {
        head.extend(format!("{field:08X}").bytes());
    }
    head.extend(path.bytes());
    head.push(0);
    head.resize(head.len().next_multiple_of(4), 0);
    out.write_all(&head).map_err(CpioError::Write)?;
    out.write_all(bytes).map_err(CpioError::Write)?;
    let padding = bytes.len().next_multiple_of(4) - bytes.len();
    out.write_all(&[0; 4][..padding]).map_err(CpioError::Write)?;
    Ok(head.len() + bytes.len() + padding)
}

/// One entry of an archive that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: String,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Time of last change, in seconds.
    pub mtime: u32,
    /// Device number of a device.
    pub rdev: (u32, u32),
    /// Content, or the target of a link.
    pub bytes: Vec<u8>,
}

/// Reads the entries of an uncompressed archive, in their order; `None` when it is not one.
#[must_use]
pub fn read(archive: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut at = 0_usize;
    loop {
        let head = archive.get(at..at.checked_add(110)?)?;
        if !head.starts_with(b"070701") {
            return None;
        }
        let field = |n: usize| {
            let digits = std::str::from_utf8(&head[6 + n * 8..14 + n * 8]).ok()?;
            u32::from_str_radix(digits, 16).ok()
        };
        let (size, name_size) = (field(6)? as usize, field(11)? as usize);
        let name = archive.get(at + 110..at.checked_add(110)?.checked_add(name_size)?)?;
        let path = std::str::from_utf8(name.strip_suffix(b"\0")?).ok()?.to_owned();
        if path == "TRAILER!!!" {
            return Some(entries);
        }
        let from = (at + 110 + name_size).next_multiple_of(4);
        let bytes = archive.get(from..from.checked_add(size)?)?.to_vec();
        entries.push(Entry {
            path,
            mode: field(1)?,
            owner: (field(2)?, field(3)?),
            mtime: field(5)?,
            rdev: (field(9)?, field(10)?),
            bytes,
        });
        at = (from + size).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Archive {
        let mut archive = Archive::default();
        let file = |bytes: &[u8]| Node::File { mode: 0o755, bytes: bytes.to_vec() };
        archive.add("lib/modules/z.ko", file(b"zz")).unwrap();
        archive.add("init", file(b"\x7fELF")).unwrap();
        archive.add("lib/a", Node::Symlink("modules/z.ko".into())).unwrap();
        let console = Node::CharDevice { mode: 0o600, major: 5, minor: 1 };
        archive.add("dev/console", console).unwrap();
        archive
    }

    fn bytes(archive: &Archive) -> Vec<u8> {
        let mut bytes = Vec::new();
        archive.write(1_735_689_600, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn comes_back_sorted_with_its_parents() {
        let entries = read(&bytes(&sample())).unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.mode)).collect();
        let expected = [
            ("dev", 0o40_755),
            ("dev/console", 0o20_600),
            ("init", 0o100_755),
            ("lib", 0o40_755),
            ("lib/a", 0o120_777),
            ("lib/modules", 0o40_755),
            ("lib/modules/z.ko", 0o100_755),
        ];
        assert_eq!(seen, expected);
        assert_eq!(entries[1].rdev, (5, 1));
        assert_eq!(entries[6].bytes, b"zz");
        assert!(entries.iter().all(|e| e.mtime == 1_735_689_600 && e.owner == (0, 0)));
    }

    /// The first bytes of an archive, written down by hand from the format's description.
    #[test]
    fn header_is_the_documented_one() {
        let mut archive = Archive::default();
        archive.add("init", Node::File { mode: 0o755, bytes: b"hi".to_vec() }).unwrap();
        let expected = "07070100000001000081ED000000000000000000000001677485800000000200000000\
                        00000000000000000000000000000005000000";
        let mut wanted = expected.as_bytes().to_vec();
        wanted.extend(b"00init\0\0");
        wanted.extend(b"hi\0\0");
        wanted.extend(b"070701");
        assert_eq!(bytes(&archive)[..wanted.len()], wanted);
        assert_eq!(bytes(&archive).len() % 512, 0);
    }

    #[test]
    fn refuses_paths_that_climb_and_duplicates() {
        for path in ["", "/init", "a//b", "../a", "a/./b", "a/"] {
            assert!(
                matches!(sample().add(path, Node::Directory), Err(CpioError::Path { .. })),
                "{path:?}"
            );
        }
        for path in ["init", "init/below", "lib"] {
            let node = Node::File { mode: 0, bytes: vec![] };
            assert!(
                matches!(sample().add(path, node), Err(CpioError::Duplicate { .. })),
                "{path:?}"
            );
        }
    }

    #[test]
    fn reads_no_cut_archive() {
        let whole = bytes(&sample());
        let end = whole.windows(10).position(|w| w == b"TRAILER!!!").unwrap();
        for cut in 0..end {
            assert_eq!(read(&whole[..cut]), None);
        }
        assert_eq!(read(b"not an archive"), None);
    }
}

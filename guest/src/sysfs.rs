//! Finds the disks and ports that belong to casemate among whatever the host attached.
//!
//! A disk is known by its virtio serial, a port by its name. Others are ignored, two with the
//! same serial are refused: the guest does not choose between things the host calls the same.
//! The root of the file system is injected, so that tests can lay out a `/sys` of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of a serial or a name that are read.
const MAX_ATTRIBUTE: usize = 128;
/// Length of the sectors in which sysfs counts.
pub const SECTOR_SIZE: u64 = 512;

/// Why a disk was not found.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// sysfs could not be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No disk carries the serial.
    #[error("no disk has the serial {serial:?}")]
    Missing {
        /// The serial.
        serial: &'static str,
    },
    /// More than one disk carries the serial.
    #[error("disks {first} and {second} both have the serial {serial:?}, expected one")]
    Ambiguous {
        /// The serial.
        serial: &'static str,
        /// Name of one disk.
        first: String,
        /// Name of another.
        second: String,
    },
    /// An attribute of the disk is not what the kernel writes.
    #[error("{} holds {text:?}, expected {expected}", path.display())]
    Attribute {
        /// The file.
        path: PathBuf,
        /// What it holds, shortened; empty when it cannot be read.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
}

/// A disk that carries one of casemate's serials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name, such as `vda`.
    pub name: String,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Length in bytes.
    pub len: u64,
}

/// The root under which `sys` and `dev` are found: `/`, or a test's directory.
#[derive(Debug, Clone)]
pub struct SysRoot(PathBuf);

impl Default for SysRoot {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl SysRoot {
    /// Looks below `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// A path below the root; `relative` has no slash in front.
    #[must_use]
    pub fn path(&self, relative: &str) -> PathBuf {
        self.0.join(relative)
    }

    /// Finds the one virtio disk with the serial `serial`.
    ///
    /// # Errors
    /// When there is none, or more than one, or sysfs says nonsense about it.
    pub fn disk(&self, serial: &'static str) -> Result<Disk, DiskError> {
        let blocks = self.path("sys/block");
        let mut found = names(&blocks)
            .map_err(|source| DiskError::List { path: blocks.clone(), source })?
            .into_iter()
            .filter(|name| is_virtio_disk(name))
            .filter(|name| {
                attribute(&blocks.join(name).join("serial")).is_some_and(|text| text == serial)
            });
        let first = found.next().ok_or(DiskError::Missing { serial })?;
        if let Some(second) = found.next() {
            return Err(DiskError::Ambiguous { serial, first, second });
        }
        let (dev, size) = (blocks.join(&first).join("dev"), blocks.join(&first).join("size"));
        let device = parse(&dev, "MAJOR:MINOR", |text| {
            let (major, minor) = text.split_once(':')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        })?;
        let len = parse(&size, "a number of sectors", |text| {
            text.parse::<u64>().ok()?.checked_mul(SECTOR_SIZE)
        })?;
        Ok(Disk { name: first, device, len })
    }

    /// Finds the device node of the virtio-serial port with the name `name`; of several, the
    /// first in the order of the kernel's names.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PathBuf> {
        let ports = self.path("sys/class/virtio-ports");
        let port = names(&ports).ok()?.into_iter().filter(|port| is_port(port)).find(|port| {
            attribute(&ports.join(port).join("name")).is_some_and(|text| text == name)
        })?;
        Some(self.path("dev").join(port))
    }

    /// Whether a device that could still announce ports is there.
    #[must_use]
    pub fn has_virtio_console(&self) -> bool {
        names(&self.path("sys/bus/virtio/drivers/virtio_console"))
            .is_ok_and(|names| names.iter().any(|name| is_numbered(name, "virtio")))
    }
}

/// The names in a directory, sorted; names that are not UTF-8 are no kernel's.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Reads an attribute, bounded, without the newline at its end.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok().filter(|bytes| bytes.len() <= MAX_ATTRIBUTE)?;
    let text = String::from_utf8(bytes).ok()?;
    Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

fn parse<T>(
    path: &Path,
    expected: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, DiskError> {
    let text = attribute(path).unwrap_or_default();
    read(&text).ok_or_else(|| DiskError::Attribute { path: path.to_owned(), text, expected })
}

/// `vda` to `vdzzz`: whole disks of virtio-blk, never a partition.
fn is_virtio_disk(name: &str) -> bool {
    name.strip_prefix("vd").is_some_and(|letters| {
        (1..=3).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_lowercase())
    })
}

/// `vport<N>p<N>`.
fn is_port(name: &str) -> bool {
    name.strip_prefix("vport")
        .and_then(|rest| rest.split_once('p'))
        .is_some_and(|(device, port)| is_numbered(device, "") && is_numbered(port, ""))
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|digits| {
        (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn put(&self, path: &str, text: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn disk(&self, name: &str, serial: &str, dev: &str, size: &str) -> &Self {
            self.put(&format!("sys/block/{name}/serial"), serial)
                .put(&format!("sys/block/{name}/dev"), dev)
                .put(&format!("sys/block/{name}/size"), size)
        }

        fn root(&self) -> SysRoot {
            SysRoot::new(self.0.path())
        }
    }

    #[test]
    fn a_disk_is_known_by_its_serial_alone() {
        let fake = Fake::new();
        fake.disk("vda", "other", "254:0\n", "8\n")
            .disk("vdb", "casemate-root", "254:16\n", "16\n")
            .disk("sda", "casemate-root", "8:0\n", "8\n")
            .disk("vdb1", "casemate-root", "254:17\n", "8\n")
            .put("sys/block/loop0/size", "0\n");
        let disk = fake.root().disk("casemate-root").unwrap();
        assert_eq!(disk, Disk { name: "vdb".into(), device: (254, 16), len: 8192 });
        assert!(matches!(fake.root().disk("casemate-launch"), Err(DiskError::Missing { .. })));
    }

    #[test]
    fn two_disks_with_one_serial_are_refused() {
        let fake = Fake::new();
        fake.disk("vda", "casemate-root", "254:0\n", "8\n").disk(
            "vdc",
            "casemate-root\n",
            "254:32\n",
            "8\n",
        );
        let error = fake.root().disk("casemate-root").unwrap_err();
        assert!(matches!(error, DiskError::Ambiguous { .. }));
        assert!(error.to_string().contains("vda and vdc"), "{error}");
    }

    #[test]
    fn nonsense_in_sysfs_is_refused() {
        for (dev, size) in
            [("254", "8"), ("254:-1", "8"), ("254:0", "18446744073709551615"), ("254:0", "")]
        {
            let fake = Fake::new();
            fake.disk("vda", "casemate-root", dev, size);
            let error = fake.root().disk("casemate-root").unwrap_err();
            assert!(matches!(error, DiskError::Attribute { .. }), "{dev} {size}: {error}");
        }
        assert!(matches!(Fake::new().root().disk("casemate-root"), Err(DiskError::List { .. })));
    }

    #[test]
    fn ports_are_known_by_name() {
        let fake = Fake::new();
        fake.put("sys/class/virtio-ports/vport0p1/name", "casemate.psp\n")
            .put("sys/class/virtio-ports/vport1p2/name", "casemate.stage\n")
            .put("sys/class/virtio-ports/vport1p0/other", "")
            .put("sys/class/virtio-ports/evil/name", "casemate.other\n");
        let root = fake.root();
        assert_eq!(root.port("casemate.stage"), Some(fake.0.path().join("dev/vport1p2")));
        assert_eq!(root.port("casemate.psp"), Some(fake.0.path().join("dev/vport0p1")));
        assert_eq!(root.port("casemate.other"), None);
        assert_eq!(root.port("casemate.none"), None);
    }

    #[test]
    fn a_console_device_is_seen() {
        let fake = Fake::new();
        fake.put("sys/bus/virtio/drivers/virtio_console/bind", "");
        assert!(!fake.root().has_virtio_console());
        fake.put("sys/bus/virtio/drivers/virtio_console/virtio3/x", "");
        assert!(fake.root().has_virtio_console());
    }

    proptest! {
        #[test]
        fn names_never_panic(name in ".*") {
            let _ = (is_virtio_disk(&name), is_port(&name), is_numbered(&name, "virtio"));
        }

        #[test]
        fn accepted_names_cannot_leave_their_directory(name in "(vport|vd)?[a-z0-9./p]*") {
            if is_virtio_disk(&name) || is_port(&name) {
                prop_assert!(!name.contains(['/', '.']));
            }
        }
    }
}

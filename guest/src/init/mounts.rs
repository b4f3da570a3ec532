//! Which file systems the guest starts with.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::InitError;

/// A tmpfs over a directory of the root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tmpfs {
    /// The directory, relative to the root.
    pub target: &'static str,
    /// Whether programs in it may be executed.
    pub executable: bool,
    /// The options of the file system: mode, owner and size.
    pub options: &'static str,
}

/// All that can be written in a guest, and how much of the memory each may take. Nothing in
/// them is set-user-ID or a device.
pub const WRITABLE: &[Tmpfs] = &[
    Tmpfs { target: "run", executable: false, options: "mode=0755,size=20%,nr_inodes=400k" },
    Tmpfs { target: "var", executable: false, options: "mode=0755,size=10%,nr_inodes=100k" },
    Tmpfs { target: "tmp", executable: true, options: "mode=1777,size=30%,nr_inodes=1m" },
    // The sandbox's home, containers and all.
    Tmpfs {
        target: "home/sandbox",
        executable: true,
        options: "mode=0700,uid=1000,gid=1000,size=75%,nr_inodes=0",
    },
];

/// The kernel's own file systems, as the init itself needs them; systemd mounts the others.
const KERNEL: &[(&str, &str, MsFlags, &str)] = &[
    ("proc", "/proc", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC), ""),
    ("sysfs", "/sys", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC), ""),
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC), "mode=0755,size=4m"),
];

/// Where they are, in the order in which they are moved into the new root.
pub(super) const MOVED: &[&str] = &["dev", "proc", "sys"];

/// Mounts `/proc`, `/sys` and `/dev`.
pub(super) fn mount_kernel_file_systems() -> Result<(), InitError> {
    for &(kind, target, flags, options) in KERNEL {
        mount(Some(kind), target, Some(kind), flags, Some(options))
            .map_err(|source| InitError::MountKernel { kind, target, source })?;
    }
    Ok(())
}

/// Mounts the verified device as an erofs, read-only and without device nodes. It keeps
/// set-user-ID: rootless containers need `newuidmap`, and what carries the bit is measured.
pub(super) fn mount_root(device: &Path, target: &Path) -> Result<(), InitError> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(device), target, Some("erofs"), flags, None::<&str>).map_err(|source| {
        let (device, target) = (device.to_owned(), target.to_owned());
        InitError::MountRoot { device, target, source }
    })
}

/// Mounts the file systems of [`WRITABLE`] into `root`.
pub(super) fn mount_writable(root: &Path) -> Result<(), InitError> {
    for tmpfs in WRITABLE {
        let target = root.join(tmpfs.target);
        mount_tmpfs(tmpfs, &target)
            .map_err(|source| InitError::MountTmpfs { target: PathBuf::from(&target), source })?;
    }
    Ok(())
}

fn mount_tmpfs(tmpfs: &Tmpfs, target: &Path) -> Result<(), Errno> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    flags.set(MsFlags::MS_NOEXEC, !tmpfs.executable);
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(tmpfs.options))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_writable_place_is_bounded_and_given_once() {
        let targets: BTreeSet<_> = WRITABLE.iter().map(|tmpfs| tmpfs.target).collect();
        assert_eq!(targets.len(), WRITABLE.len());
        for tmpfs in WRITABLE {
            assert!(!tmpfs.target.starts_with('/'), "{tmpfs:?} would leave the new root");
            for option in ["mode=", "size="] {
                assert!(tmpfs.options.contains(option), "{tmpfs:?} lacks {option}");
            }
        }
    }
}

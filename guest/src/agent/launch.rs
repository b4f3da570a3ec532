//! The launch config: read as bytes, held to `HOST_DATA`, and only then understood.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::string::FromUtf8Error;

use casemate_measurements::hash::{HostData, Sha256Hash};
use casemate_measurements::launch_config::{
    DISK_SERIAL, LaunchConfig, LaunchConfigError, MAX_LEN, host_data,
};

use super::keys::SshHostKey;
use crate::sysfs::{DiskError, SysRoot};

/// Why the launch config is refused.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no one disk for it.
    #[error("cannot find the disk of the launch config")]
    Disk(#[from] DiskError),
    /// The disk could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The disk's node.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk is too long.
    #[error("disk of the launch config has {found} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// Its length.
        found: u64,
    },
    /// It is not the one that this VM was launched with.
    #[error("launch config hashes to {found}, expected {expected} (HOST_DATA)")]
    NotHostData {
        /// Its SHA-256.
        found: HostData,
        /// `HOST_DATA` of the report.
        expected: HostData,
    },
    /// It does not say what a launch config says.
    #[error("launch config is not understood")]
    Malformed(#[source] LaunchConfigError),
    /// It is not text.
    #[error("launch config is not UTF-8")]
    NotUtf8(#[source] FromUtf8Error),
    /// A file for sshd could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bytes of a launch config, not yet understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchBytes(Vec<u8>);

impl LaunchBytes {
    /// Takes the bytes of a disk: a launch config, then zero bytes.
    #[must_use]
    pub fn from_disk(mut bytes: Vec<u8>) -> Self {
        let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        bytes.truncate(len);
        Self(bytes)
    }

    /// Reads the disk once; what the host makes of it later is never looked at.
    pub(super) fn read(root: &SysRoot) -> Result<Self, LaunchError> {
        let disk = root.disk(DISK_SERIAL)?;
        if disk.len > MAX_LEN as u64 {
            return Err(LaunchError::TooLong { found: disk.len });
        }
        let path = root.path("dev").join(&disk.name);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(disk.len).read_to_end(&mut bytes))
            .map_err(|source| LaunchError::Read { path, source })?;
        Ok(Self::from_disk(bytes))
    }

    /// Holds the bytes to `HOST_DATA`.
    ///
    /// # Errors
    /// When their SHA-256 is another.
    pub fn check(&self, expected: &HostData) -> Result<(), LaunchError> {
        let found = host_data(&self.0);
        if found == *expected {
            return Ok(());
        }
        Err(LaunchError::NotHostData { found, expected: *expected })
    }

    /// The bytes without the padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Their SHA-256.
    #[must_use]
    pub fn sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.0)
    }
}

/// Writes what sshd reads, into a directory that only root can write: the host key, for root
/// alone, and the keys that may log in.
pub(super) fn write_session_files(
    root: &SysRoot,
    config: &LaunchConfig,
    host_key: &SshHostKey,
) -> Result<(), LaunchError> {
    let directory = root.path("run/casemate");
    fs::create_dir_all(&directory)
        .map_err(|source| LaunchError::Write { path: directory.clone(), source })?;
    let keys: String =
        config.ssh_authorized_keys.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    let name = format!("{}\n", config.name);
    for (file, mode, content) in [
        ("ssh_host_ed25519_key", 0o600, host_key.private()),
        ("authorized_keys", 0o644, keys.as_str()),
        ("hostname", 0o644, name.as_str()),
    ] {
        let path = directory.join(file);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()))
            .map_err(|source| LaunchError::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_stripped_and_nothing_else() {
        assert_eq!(LaunchBytes::from_disk(b"{}\0\0".to_vec()).as_bytes(), b"{}");
        assert_eq!(LaunchBytes::from_disk(b"{}".to_vec()).as_bytes(), b"{}");
        assert_eq!(LaunchBytes::from_disk(b"\0{}\n\0".to_vec()).as_bytes(), b"\0{}\n");
        assert_eq!(LaunchBytes::from_disk(vec![0; 512]).as_bytes(), b"");
    }

    #[test]
    fn host_data_decides() {
        let bytes = LaunchBytes::from_disk(b"{}\0".to_vec());
        assert!(bytes.check(&Sha256Hash::of(b"{}").into()).is_ok());
        let error = bytes.check(&Sha256Hash::of(b"{}\0").into()).unwrap_err();
        assert!(matches!(error, LaunchError::NotHostData { .. }));
        assert!(bytes.check(&HostData::from_bytes([0; 32])).is_err());
    }

    #[test]
    fn an_overlong_disk_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("sys/block/vda");
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("serial"), DISK_SERIAL).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("size"), format!("{}\n", MAX_LEN / 512 + 1)).unwrap();
        let error = LaunchBytes::read(&SysRoot::new(dir.path())).unwrap_err();
        assert!(matches!(error, LaunchError::TooLong { .. }), "{error}");
    }
}

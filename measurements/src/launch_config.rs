//! The launch config: what varies from VM to VM of one image.
//!
//! The launcher writes it as canonical JSON to a disk with the serial [`DISK_SERIAL`] and puts
//! its SHA-256 into `HOST_DATA`. The guest's agent compares before it uses a byte of it.

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::gpu_evidence::GpuSet;
use crate::hash::{HostData, Sha256Hash};
use crate::ssh_key::{self, KeyError};

/// Serial of the virtio disk that holds the launch config, padded with zero bytes.
pub const DISK_SERIAL: &str = "casemate-launch";
/// Serial of the virtio disk that holds the root file system and its hash tree.
pub const ROOT_DISK_SERIAL: &str = "casemate-root";
/// Most bytes that a launch config may have.
pub const MAX_LEN: usize = 256 * 1024;

/// What varies from VM to VM of one image. Everything in it is known to the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LaunchConfig {
    /// Version of this format: [`LaunchConfig::SCHEMA`].
    pub schema: u32,
    /// Keys that may log in as `sandbox`, each a line of OpenSSH's `authorized_keys` without
    /// options: `ssh-ed25519 <base64> [comment]`.
    pub ssh_authorized_keys: Vec<String>,
    /// Name of the VM, for its host name.
    pub name: String,
    /// The GPUs that the VM is promised; absent without GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<GpuSet>,
}

/// Why a launch config is refused.
#[derive(Debug, thiserror::Error)]
pub enum LaunchConfigError {
    /// It is not canonical JSON of the expected shape.
    #[error("launch config is malformed")]
    Malformed(#[from] CanonicalError),
    /// It is of another version.
    #[error("launch config has schema {found}, expected {}", LaunchConfig::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// It is too long.
    #[error("launch config has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
    /// A key line is no key, or could change what sshd does.
    #[error("ssh_authorized_keys[{index}] is {line:?}")]
    Key {
        /// Which key.
        index: usize,
        /// Its text, shortened.
        line: String,
        /// Why it is none.
        source: KeyError,
    },
    /// The name is no host name.
    #[error("name is {name:?}: expected 1 to 63 of a-z, 0-9 and '-', not at the ends")]
    Name {
        /// The name found, shortened.
        name: String,
    },
    /// The GPUs are none that a VM can have.
    #[error("gpus: {0}")]
    Gpus(String),
}

impl LaunchConfig {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// Reads and checks a launch config.
    ///
    /// # Errors
    /// When it is too long, not canonical, of another version, or has a field out of bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LaunchConfigError> {
        if bytes.len() > MAX_LEN {
            return Err(LaunchConfigError::TooLong { len: bytes.len() });
        }
        let config: Self = canonical::from_slice(bytes)?;
        config.check()?;
        Ok(config)
    }

    /// Writes the canonical bytes, checked.
    ///
    /// # Errors
    /// As [`LaunchConfig::from_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, LaunchConfigError> {
        self.check()?;
        let bytes = canonical::to_vec(self)?;
        if bytes.len() > MAX_LEN {
            return Err(LaunchConfigError::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    fn check(&self) -> Result<(), LaunchConfigError> {
        if self.schema != Self::SCHEMA {
            return Err(LaunchConfigError::Schema { found: self.schema });
        }
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let named = (1..=63).contains(&self.name.len())
            && self.name.bytes().all(inner)
            && !self.name.starts_with('-')
            && !self.name.ends_with('-');
        if !named {
            return Err(LaunchConfigError::Name { name: self.name.chars().take(80).collect() });
        }
        if let Some(fault) = self.gpus.as_ref().and_then(GpuSet::fault) {
            return Err(LaunchConfigError::Gpus(fault));
        }
        for (index, line) in self.ssh_authorized_keys.iter().enumerate() {
            ssh_key::check(line).map_err(|source| {
                let line = line.chars().take(80).collect();
                LaunchConfigError::Key { index, line, source }
            })?;
        }
        Ok(())
    }
}

/// `HOST_DATA` for the exact bytes of a launch config.
#[must_use]
pub fn host_data(bytes: &[u8]) -> HostData {
    Sha256Hash::of(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(key: &str) -> LaunchConfig {
        LaunchConfig {
            schema: 1,
            ssh_authorized_keys: vec![key.into()],
            name: "vm-1".into(),
            gpus: None,
        }
    }

    #[test]
    fn round_trip_is_canonical() {
        let bytes = config(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me",
        )
        .to_bytes()
        .unwrap();
        assert!(bytes.starts_with(br#"{"name":"vm-1","schema":1,"ssh_authorized_keys":["#));
        assert_eq!(LaunchConfig::from_bytes(&bytes).unwrap().name, "vm-1");
        let mut padded = bytes.clone();
        padded.push(b' ');
        assert!(LaunchConfig::from_bytes(&padded).is_err());
    }

    #[test]
    fn key_lines_cannot_carry_options_or_lines() {
        for line in [
            "command=\"x\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me\nssh-ed25519 AAAA",
            "ssh-dss AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/",
            "ssh-ed25519",
            "",
        ] {
            assert!(
                matches!(config(line).to_bytes(), Err(LaunchConfigError::Key { .. })),
                "{line}"
            );
        }
    }

    #[test]
    fn gpus_are_bounded_and_absent_without_any() {
        let none = config(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/",
        );
        let bytes = String::from_utf8(none.to_bytes().unwrap()).unwrap();
        assert!(!bytes.contains("gpus"), "{bytes}");
        let set = GpuSet { chip: "GH100".into(), count: 8, board: None, nvswitches: 4 };
        let some = LaunchConfig { gpus: Some(set.clone()), ..none.clone() };
        let bytes = some.to_bytes().unwrap();
        assert!(bytes.starts_with(br#"{"gpus":{"chip":"GH100","count":8,"nvswitches":4},"name""#));
        assert_eq!(LaunchConfig::from_bytes(&bytes).unwrap(), some);
        for bad in [
            GpuSet { chip: "gh100".into(), ..set.clone() },
            GpuSet { chip: String::new(), ..set.clone() },
            GpuSet { board: Some("G520 0200".into()), ..set.clone() },
            GpuSet { count: 0, ..set.clone() },
        ] {
            let config = LaunchConfig { gpus: Some(bad), ..none.clone() };
            assert!(matches!(config.to_bytes(), Err(LaunchConfigError::Gpus(_))), "{config:?}");
        }
    }

    #[test]
    fn names_are_host_names() {
        for name in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
            let config = LaunchConfig {
                name: name.into(),
                ..config(
                    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/",
                )
            };
            assert!(matches!(config.to_bytes(), Err(LaunchConfigError::Name { .. })), "{name}");
        }
    }
}

//! Who has which device, in a file for each, so that none is given twice and none is given again
//! before it was reset.
//!
//! It is the host's, not a user's: it lies in `/run/casemate/devices` whoever asks, and is gone
//! after a reboot, as what it tells of is. A file is replaced as a whole, under a lock that dies
//! with who took it. A holder is a process, told apart from later ones of its number by its start
//! and by the host's boot: one that is gone left its devices *used*, and whoever takes such a
//! device is told so and has to reset it first.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::host;
use crate::inventory::Address;
use crate::process::ProcessId;
use crate::state::{self, StateError};

/// How long another may be in the middle of a change.
const PATIENCE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// Why a device is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Another has it.
    #[error("{address} is held by {name}")]
    Held {
        /// Which.
        address: Address,
        /// Who.
        name: String,
    },
    /// It is out of use.
    #[error("{address} is out of use: {reason}")]
    Quarantined {
        /// Which.
        address: Address,
        /// Why.
        reason: String,
    },
    /// The ledger cannot be read or written.
    #[error("cannot keep who has which device")]
    State(#[from] StateError),
    /// Another does not come to an end.
    #[error("{} was locked for {} s", path.display(), PATIENCE.as_secs())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

impl LedgerError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Held { .. } => "stop that VM, or choose another device",
            Self::Quarantined { .. } => {
                "mend what is wrong with it, then `casemate host release` it"
            }
            Self::State(_) => "run as root",
            Self::Locked { .. } => "end the process that hangs (`fuser` names it)",
        }
    }
}

/// How a device stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", deny_unknown_fields)]
pub enum Standing {
    /// Nobody has it, and it was reset since somebody had.
    Free,
    /// A VM or a preparation has it.
    Held {
        /// Who, in words.
        name: String,
        /// The process that watches over it.
        process: ProcessId,
        /// Which boot of the host.
        boot_id: String,
    },
    /// It must not be given to anyone.
    Quarantined {
        /// Why.
        reason: String,
    },
}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Version of this format: [`Entry::SCHEMA`].
    pub schema: u32,
    /// How it stands.
    pub standing: Standing,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Entry {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    fn new(standing: Standing) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { schema: Self::SCHEMA, standing, since: now.as_secs() }
    }

    /// Whether somebody who lives has it.
    #[must_use]
    pub fn is_held(&self, root: &Path) -> bool {
        matches!(&self.standing, Standing::Held { process, boot_id, .. }
            if *boot_id == host::boot_id(root) && process.is_alive())
    }
}

/// Devices that one process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// All of them.
    pub devices: Vec<Address>,
    /// Those that somebody had who is gone: to be reset before anything else.
    pub used: Vec<Address>,
}

/// Who has which device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    root: PathBuf,
    dir: PathBuf,
}

impl Ledger {
    /// That of the host under `root`; made when missing.
    ///
    /// # Errors
    /// When it cannot be made, or is another user's or open to others.
    pub fn at(root: &Path) -> Result<Self, LedgerError> {
        let parent = root.join("run/casemate");
        state::make_private(&parent)?;
        let dir = parent.join("devices");
        state::make_private(&dir)?;
        Ok(Self { root: root.to_owned(), dir })
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is known of each device. One whose file is malformed is out of use.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entries(&self) -> Result<BTreeMap<Address, Entry>, LedgerError> {
        let fail = |source| StateError::Read { path: self.dir.clone(), source };
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(&self.dir).map_err(fail)? {
            let name = file.map_err(fail)?.file_name();
            let address = name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok());
            if let Some(address) = address
                && let Some(entry) = self.entry(address)?
            {
                entries.insert(address, entry);
            }
        }
        Ok(entries)
    }

    /// Which devices cannot be had, and why.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn taken(&self) -> Result<BTreeMap<Address, String>, LedgerError> {
        let entries = self.entries()?.into_iter();
        Ok(entries
            .filter_map(|(address, entry)| match &entry.standing {
                Standing::Quarantined { reason } => {
                    Some((address, format!("it is out of use: {reason}")))
                }
                Standing::Held { name, .. } if entry.is_held(&self.root) => {
                    Some((address, format!("{name} has it")))
                }
                Standing::Free | Standing::Held { .. } => None,
            })
            .collect())
    }

    /// Takes devices for this process: all, or none.
    ///
    /// # Errors
    /// When another has one, or one is out of use.
    pub fn hold(&self, devices: &[Address], name: &str) -> Result<Hold, LedgerError> {
        let _lock = self.lock("lock")?;
        let mut used = Vec::new();
        for address in devices {
            let Some(entry) = self.entry(*address)? else { continue };
            let is_held = entry.is_held(&self.root);
            match entry.standing {
                Standing::Held { name, .. } if is_held => {
                    return Err(LedgerError::Held { address: *address, name });
                }
                Standing::Held { .. } => used.push(*address),
                Standing::Quarantined { reason } => {
                    return Err(LedgerError::Quarantined { address: *address, reason });
                }
                Standing::Free => {}
            }
        }
        self.write_held(devices, name)?;
        Ok(Hold { devices: devices.to_vec(), used })
    }

    /// Takes devices for this process, those that are out of use too: to mend them.
    ///
    /// # Errors
    /// When another has one.
    pub fn hold_broken(&self, devices: &[Address], name: &str) -> Result<Hold, LedgerError> {
        let _lock = self.lock("lock")?;
        for address in devices {
            if let Some(entry) = self.entry(*address)?
                && entry.is_held(&self.root)
                && let Standing::Held { name, .. } = entry.standing
            {
                return Err(LedgerError::Held { address: *address, name });
            }
        }
        self.write_held(devices, name)?;
        Ok(Hold { devices: devices.to_vec(), used: devices.to_vec() })
    }

    /// Says that a device of this process is free: it was reset, or nobody used it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn free(&self, address: Address) -> Result<(), LedgerError> {
        let _lock = self.lock("lock")?;
        self.write(address, Standing::Free)
    }

    /// Says that a device must not be given to anyone.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn quarantine(&self, address: Address, reason: &str) -> Result<(), LedgerError> {
        let _lock = self.lock("lock")?;
        self.write(address, Standing::Quarantined { reason: reason.to_owned() })
    }

    fn write_held(&self, devices: &[Address], name: &str) -> Result<(), LedgerError> {
        let boot_id = host::boot_id(&self.root);
        for address in devices {
            let (name, boot_id) = (name.to_owned(), boot_id.clone());
            let process = ProcessId::own();
            self.write(*address, Standing::Held { name, process, boot_id })?;
        }
        Ok(())
    }

    fn path(&self, address: Address) -> PathBuf {
        self.dir.join(format!("{address}.json"))
    }

    fn write(&self, address: Address, standing: Standing) -> Result<(), LedgerError> {
        Ok(state::write_json(&self.path(address), &Entry::new(standing))?)
    }

    fn entry(&self, address: Address) -> Result<Option<Entry>, LedgerError> {
        let malformed = |reason: String| Entry::new(Standing::Quarantined { reason });
        match state::read_json::<Entry>(&self.path(address)) {
            Ok(Some(entry)) if entry.schema != Entry::SCHEMA => {
                let (found, expected) = (entry.schema, Entry::SCHEMA);
                Ok(Some(malformed(format!("its record has schema {found}, expected {expected}"))))
            }
            Ok(entry) => Ok(entry),
            Err(error @ StateError::Malformed { .. }) => Ok(Some(malformed(error.to_string()))),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes a lock, which is free when the file is dropped or its process gone.
    pub(super) fn lock(&self, name: &str) -> Result<File, LedgerError> {
        self.lock_within(name, PATIENCE)
    }

    pub(super) fn lock_within(&self, name: &str, patience: Duration) -> Result<File, LedgerError> {
        let path = self.dir.join(name);
        let fail = |source: io::Error| StateError::Write { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(fail)?;
        let until = Instant::now() + patience;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(fail(source).into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(LedgerError::Locked { path });
                }
                Err(TryLockError::WouldBlock) => thread::sleep(TICK),
            }
        }
    }
}

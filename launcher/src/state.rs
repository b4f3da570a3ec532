//! Where the state of VMs lies and what it says: a private directory per VM, a lock that its
//! supervisor holds as long as it lives, and a `state.json` that is replaced as a whole.
//!
//! A VM is alive exactly while its lock is held. Process ids are told apart from later ones of
//! the same number by their start time.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::{HostData, LaunchDigest};
use casemate_measurements::platform::Platform;
use casemate_measurements::stage::Stage;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::confine::Confinement;
use crate::host::Kvm;
use crate::machine::{Accel, Forward};
use crate::plan::LaunchPlan;
use crate::process::ProcessId;

pub use crate::name::VmName;

/// Most bytes that a path of a Unix socket may have.
const SOCKET_PATH_MAX: usize = 107;

/// Why state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A directory cannot be made or is not private.
    #[error("cannot use {} for the state of VMs: {problem}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what this program writes.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A socket's path would be too long.
    #[error(
        "{} is too long for a Unix socket ({} bytes, expected at most {SOCKET_PATH_MAX}): set \
         XDG_RUNTIME_DIR to a shorter directory or choose a shorter name",
        path.display(),
        path.as_os_str().len()
    )]
    LongPath {
        /// The path.
        path: PathBuf,
    },
    /// The name is no host name.
    #[error("name {name:?}: expected 1 to 63 of a-z, 0-9 and '-', not at the ends")]
    Name {
        /// The name, shortened.
        name: String,
    },
}

/// The directory under which this user's VMs have theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateRoot(PathBuf);

impl StateRoot {
    /// `$XDG_RUNTIME_DIR/casemate`, else `/run/casemate` for root, else
    /// `/tmp/casemate-<uid>`; made private when missing.
    ///
    /// # Errors
    /// When it cannot be made, or is another user's or open to others.
    pub fn from_environment() -> Result<Self, StateError> {
        let uid = nix::unistd::geteuid();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let dir = match runtime.filter(|dir| dir.is_absolute() && dir.is_dir()) {
            Some(dir) => dir.join("casemate"),
            None if uid.is_root() && Path::new("/run").is_dir() => "/run/casemate".into(),
            None => format!("/tmp/casemate-{uid}").into(),
        };
        Self::at(&dir)
    }

    /// A directory of the caller's choice; made private when missing.
    ///
    /// # Errors
    /// When it cannot be made, or is another user's or open to others.
    pub fn at(dir: &Path) -> Result<Self, StateError> {
        let dir = std::path::absolute(dir).map_err(|error| directory(dir, &error))?;
        make_private(&dir)?;
        make_private(&dir.join("vms"))?;
        make_private(&dir.join("locks"))?;
        Ok(Self(dir))
    }

    /// The directory of another user's daemon, which keeps it: nothing is made or checked.
    #[must_use]
    pub fn of_daemon(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The paths of one VM.
    ///
    /// # Errors
    /// When they would be too long for Unix sockets or are not UTF-8.
    pub fn vm(&self, name: &VmName) -> Result<VmPaths, StateError> {
        VmPaths::new(self.0.join("vms").join(name.as_str()))
    }

    /// The names of the VMs that have a directory, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self) -> Result<Vec<VmName>, StateError> {
        let path = self.0.join("vms");
        let fail = |source| StateError::Read { path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse::<VmName>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Takes the lock of a name; `None` when another process holds it.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub(crate) fn lock(&self, name: &VmName) -> Result<Option<File>, StateError> {
        let path = self.0.join("locks").join(name.as_str());
        let fail = |source| StateError::Write { path: path.clone(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(fail)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(fail(source)),
        }
    }

    fn confinement_path(&self) -> PathBuf {
        self.0.join("confine.json")
    }

    /// How the daemon of this root has QEMU confined, if one wrote it down.
    pub(crate) fn read_confinement(&self) -> Result<Option<Confinement>, StateError> {
        read_json(&self.confinement_path())
    }

    /// Has QEMU confined so from now on.
    pub(crate) fn write_confinement(&self, confinement: &Confinement) -> Result<(), StateError> {
        write_json(&self.confinement_path(), confinement)
    }

    fn kvm_path(&self) -> PathBuf {
        self.0.join("kvm.json")
    }

    /// What was learnt of KVM, if anything.
    pub(crate) fn read_kvm(&self) -> Result<Option<KnownKvm>, StateError> {
        read_json(&self.kvm_path())
    }

    /// Keeps what was learnt of KVM.
    pub(crate) fn write_kvm(&self, known: &KnownKvm) -> Result<(), StateError> {
        write_json(&self.kvm_path(), known)
    }
}

/// What was learnt of KVM since the host booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KnownKvm {
    /// Which boot of the host.
    pub(crate) boot_id: String,
    /// What was learnt.
    pub(crate) kvm: Kvm,
}

/// The files of one VM's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmPaths(PathBuf);

impl VmPaths {
    /// The files under `dir`, which need not exist.
    ///
    /// # Errors
    /// When they would be too long for Unix sockets or are not UTF-8.
    pub fn new(dir: PathBuf) -> Result<Self, StateError> {
        if dir.to_str().is_none() {
            let problem = "its path is not UTF-8".to_owned();
            return Err(StateError::Directory { path: dir, problem });
        }
        let paths = Self(dir);
        let longest = paths.control_socket();
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(StateError::LongPath { path: longest });
        }
        Ok(paths)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The state root that the directory lies under.
    pub(crate) fn root(&self) -> Result<StateRoot, StateError> {
        let root = self.0.parent().and_then(Path::parent);
        let problem = "it is no directory of a VM".to_owned();
        StateRoot::at(root.ok_or(StateError::Directory { path: self.0.clone(), problem })?)
    }

    /// The plan that the supervisor executes.
    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }

    /// What the VM is doing.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The image of the disk with the launch config.
    pub(crate) fn launch_disk(&self) -> PathBuf {
        self.0.join("launch.img")
    }

    /// The table of kernel hashes.
    pub(crate) fn hashes(&self) -> PathBuf {
        self.0.join("hashes.bin")
    }

    /// Where QEMU's monitor connects to.
    pub(crate) fn qmp_socket(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    /// Where stage codes arrive.
    pub(crate) fn stage_socket(&self) -> PathBuf {
        self.0.join("stage.sock")
    }

    /// Where requests for reports arrive.
    pub(crate) fn psp_socket(&self) -> PathBuf {
        self.0.join("psp.sock")
    }

    /// Where the supervisor tells who started it how the boot goes.
    pub(crate) fn start_socket(&self) -> PathBuf {
        self.0.join("start.sock")
    }

    /// Where the supervisor takes orders.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Makes the directory, which must not exist.
    pub(crate) fn create(&self) -> Result<(), StateError> {
        let made = DirBuilder::new().mode(0o700).create(&self.0);
        made.map_err(|error| directory(&self.0, &error))
    }

    /// Removes the directory and all that is in it, and what its VM left of a network; one that
    /// is gone is no error.
    pub(crate) fn remove(&self) -> Result<(), StateError> {
        crate::network::clear(&self.plan());
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(directory(&self.0, &error))
            }
            _ => Ok(()),
        }
    }

    /// Reads plan.json; `None` when it is not there.
    pub(crate) fn read_plan(&self) -> Result<Option<LaunchPlan>, StateError> {
        read_json(&self.plan())
    }

    /// Reads state.json; `None` when it is not there yet.
    pub(crate) fn read_state(&self) -> Result<Option<VmState>, StateError> {
        read_json(&self.state())
    }

    /// Replaces state.json.
    pub(crate) fn write_state(&self, state: &VmState) -> Result<(), StateError> {
        write_json(&self.state(), state)
    }
}

/// How far a VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase", deny_unknown_fields)]
pub enum Phase {
    /// It boots.
    Booting,
    /// It serves evidence.
    Running,
    /// It ended.
    Ended {
        /// How.
        reason: String,
        /// By whose doing.
        by: EndedBy,
        /// What a person can do about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// By whose doing a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndedBy {
    /// It was told to stop.
    Order,
    /// The guest powered off.
    Guest,
    /// Something failed: the guest, QEMU, or the host.
    Failure,
}

/// A [`Stage`] that JSON carries as its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StageCode(pub Stage);

impl Serialize for StageCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.0.code())
    }
}

impl<'de> Deserialize<'de> for StageCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u8::deserialize(deserializer)?;
        let unknown = || serde::de::Error::custom(format!("{code:#04x} is no stage code"));
        Stage::from_code(code).map(Self).ok_or_else(unknown)
    }
}

/// What `state.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmState {
    /// Version of this format: [`VmState::SCHEMA`].
    pub schema: u32,
    /// The VM's name.
    pub name: VmName,
    /// Name and version of its release.
    pub release: String,
    /// Its platform.
    pub platform: Platform,
    /// How far it is.
    pub phase: Phase,
    /// The last stage that it reported.
    pub stage: Option<StageCode>,
    /// What executes it.
    pub accel: Accel,
    /// Its ports.
    pub forwards: Vec<Forward>,
    /// The launch digest that its reports must carry.
    pub digest: LaunchDigest,
    /// `HOST_DATA` that its reports must carry.
    pub host_data: HostData,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// QEMU.
    pub qemu: Option<ProcessId>,
    /// When it was started, in seconds since 1970.
    pub started: u64,
    /// Milliseconds from QEMU's start to each stage reached, by stage code.
    #[serde(with = "pairs")]
    pub reached_ms: BTreeMap<u8, u64>,
}

/// A map whose keys are numbers, as a list of pairs: JSON's own keys are text.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<u8, u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u8, u64>, D::Error> {
        Ok(Vec::<(u8, u64)>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl VmState {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// The host's port for a port of the guest.
    #[must_use]
    pub fn host_port(&self, guest: u16) -> Option<u16> {
        self.forwards.iter().find(|forward| forward.guest == guest).map(|forward| forward.host)
    }
}

fn directory(path: &Path, error: &io::Error) -> StateError {
    StateError::Directory { path: path.to_owned(), problem: error.to_string() }
}

/// Makes a directory of mode 0700, or holds an existing one to it: others may at most pass through.
pub(crate) fn make_private(dir: &Path) -> Result<(), StateError> {
    let refuse = |problem: String| StateError::Directory { path: dir.to_owned(), problem };
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(refuse(error.to_string()));
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(dir).map_err(|error| refuse(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(refuse("it is no directory".to_owned()));
    }
    let (uid, own) = (metadata.uid(), nix::unistd::geteuid().as_raw());
    if uid != own {
        return Err(refuse(format!("it belongs to user {uid}, expected {own}")));
    }
    // QEMU's own user may pass through to its VM's directory, which has a mode of its own.
    if metadata.mode() & 0o066 != 0 {
        return Err(refuse(format!("its mode is {:o}, expected 700", metadata.mode() & 0o777)));
    }
    Ok(())
}

/// Reads a JSON file; `None` when it is not there.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
) -> Result<Option<T>, StateError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Read { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| StateError::Malformed { path: path.to_owned(), source })
}

/// Writes a JSON file as a whole or not at all, readable by this user alone.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| StateError::Malformed { path: path.to_owned(), source })?;
    write_file(path, &bytes)
}

/// Writes a file as a whole or not at all, readable by this user alone.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let fail = |source| StateError::Write { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

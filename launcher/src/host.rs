//! What a plan needs to know of the host: which QEMU, whether KVM was seen to work, whether this
//! is an SNP host. Facts only; what follows from them is the plan's matter.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_measurements::launch::CpuModel;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::kvm::LinuxVersion;
use serde::{Deserialize, Serialize};

use crate::committed::{self, Committed};
use crate::state::{StateError, StateRoot};
use crate::topology::GpuHost;

/// QEMU's name where no path is given.
pub const QEMU: &str = "qemu-system-x86_64";
/// The oldest QEMU that reads `-device` as JSON.
pub const LEAST_QEMU: QemuVersion = QemuVersion { major: 6, minor: 2 };
/// The oldest QEMU that starts SNP guests.
pub const LEAST_QEMU_SNP: QemuVersion = QemuVersion { major: 9, minor: 1 };
/// The oldest QEMU that gives an SNP guest a device: 9.1 cannot discard memory that devices see.
pub const LEAST_QEMU_VFIO: QemuVersion = QemuVersion { major: 9, minor: 2 };
/// The oldest QEMU that gives the firmware the kernel as it is on disk, without being told to.
pub const LEAST_QEMU_PLAIN_KERNEL: QemuVersion = QemuVersion { major: 10, minor: 0 };
/// The oldest QEMU that knows the CPU models of EPYC 9005.
const LEAST_QEMU_TURIN: QemuVersion = QemuVersion { major: 10, minor: 1 };

/// The oldest QEMU whose emulated vCPUs can run beside each other. Before, one of them could go on
/// with code that another had patched meanwhile (QEMU's commit deba78709ae8): of 430 boots under
/// 7.2 one kernel died of a breakpoint that its own patching had long taken back.
pub const LEAST_QEMU_PARALLEL_TCG: QemuVersion = QemuVersion { major: 8, minor: 1 };

/// Why the host's facts cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// QEMU cannot be started.
    #[error("cannot start {}; install QEMU (Debian: qemu-system-x86) or name it", path.display())]
    Start {
        /// What was started.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// QEMU does not say its version.
    #[error("{} --version said {said:?}, expected \"QEMU emulator version N.N\"", path.display())]
    Version {
        /// What was started.
        path: PathBuf,
        /// Its first line, shortened.
        said: String,
    },
    /// What was learnt of KVM since the host booted cannot be read or written.
    #[error("cannot keep what was learnt of KVM")]
    Cache(#[from] StateError),
}

/// A TCP port of 127.0.0.1 that nobody uses now.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Its version.
    pub version: QemuVersion,
    /// Whether it was built with a seccomp sandbox.
    pub sandbox: bool,
}

impl Qemu {
    /// The oldest QEMU that knows a CPU model, where this one does not: QEMU ends at once when it
    /// is told of a model that it does not know.
    #[must_use]
    pub fn too_old_for(&self, model: CpuModel) -> Option<QemuVersion> {
        let newer = model.name().is_some_and(|name| name.starts_with("EPYC-Turin"));
        (newer && self.version < LEAST_QEMU_TURIN).then_some(LEAST_QEMU_TURIN)
    }

    /// Asks a QEMU for its version. A bare name is looked up in `PATH`.
    ///
    /// # Errors
    /// When it cannot be started or says no version.
    pub fn probe(path: Option<&Path>) -> Result<Self, HostError> {
        let path = find(path.unwrap_or(Path::new(QEMU)));
        let said = output(&path, "--version")?;
        let version = parse_version(&said).ok_or_else(|| HostError::Version {
            path: path.clone(),
            said: said.lines().next().unwrap_or_default().chars().take(120).collect(),
        })?;
        let sandbox = output(&path, "-help")?.contains("-sandbox ");
        Ok(Self { path, version, sandbox })
    }
}

/// Resolves a bare name by `PATH`; leaves it as it is when it is not there.
fn find(path: &Path) -> PathBuf {
    if path.components().count() != 1 {
        return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    }
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs)
        .map(|dir| dir.join(path))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| path.to_owned())
}

fn output(path: &Path, argument: &str) -> Result<String, HostError> {
    let output = Command::new(path)
        .arg(argument)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|source| HostError::Start { path: path.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_version(said: &str) -> Option<QemuVersion> {
    let version = said.lines().next()?.split_once("version ")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(QemuVersion { major, minor })
}

/// What is known of KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", deny_unknown_fields)]
pub enum Kvm {
    /// It cannot be opened.
    Absent {
        /// Why.
        reason: String,
    },
    /// It can be opened; no VM ran on it since the host booted.
    Untried,
    /// A VM ran on it since the host booted.
    Works,
    /// A VM could not run on it since the host booted, and the same VM ran without it.
    Broken {
        /// How that showed.
        reason: String,
        /// The platform of that VM; nothing follows for VMs of another. Records of versions that
        /// took any failure for KVM's have none, and nothing follows from them.
        #[serde(default)]
        platform: Option<Platform>,
    },
}

/// What QEMU must be told of an SNP host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevFacts {
    /// Position of the C-bit in a page-table entry: CPUID 0x8000001f, EBX, bits 5 to 0.
    pub cbitpos: u8,
    /// By how many bits encryption shortens physical addresses.
    pub reduced_phys_bits: u8,
}

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Which QEMU.
    pub qemu: Qemu,
    /// What is known of KVM.
    pub kvm: Kvm,
    /// What QEMU must be told of SNP, or why this is no SNP host.
    pub sev: Result<SevFacts, String>,
    /// Its kernel's version, where it says one.
    pub linux: Option<LinuxVersion>,
    /// Its bytes of memory, where it says so.
    pub memory: Option<u64>,
    /// What its VMs already have.
    pub committed: Committed,
    /// What it has to give to VMs; `None` where nobody looked.
    pub gpus: Option<Box<GpuHost>>,
}

impl HostFacts {
    /// Looks at the host under `sys` (`/`, or a fake in tests).
    ///
    /// # Errors
    /// When QEMU cannot be asked, or what was learnt of KVM cannot be read.
    pub fn probe(sys: &Path, state: &StateRoot, qemu: Option<&Path>) -> Result<Self, HostError> {
        let release = fs::read_to_string(sys.join("proc/sys/kernel/osrelease"));
        let linux = release.ok().and_then(|release| LinuxVersion::from_release(&release));
        let (qemu, kvm) = (Qemu::probe(qemu)?, kvm(sys, state)?);
        let (memory, committed) = (committed::memory_of(sys), Committed::below(state));
        Ok(Self { qemu, kvm, sev: sev(sys), linux, memory, committed, gpus: None })
    }
}

fn kvm(sys: &Path, state: &StateRoot) -> Result<Kvm, HostError> {
    let device = sys.join("dev/kvm");
    if let Err(error) = OpenOptions::new().read(true).write(true).open(&device) {
        let reason = format!("{} cannot be opened: {error}", device.display());
        return Ok(Kvm::Absent { reason });
    }
    let boot_id = boot_id(sys);
    // What cannot be read any more, as another version wrote it, was no more than a memory.
    let known = match state.read_kvm() {
        Err(StateError::Malformed { .. }) => None,
        known => known?,
    };
    match known {
        Some(known) if known.boot_id == boot_id && !boot_id.is_empty() => Ok(known.kvm),
        _ => Ok(Kvm::Untried),
    }
}

/// What the kernel drew when it booted; empty where it does not say.
pub(crate) fn boot_id(sys: &Path) -> String {
    fs::read_to_string(sys.join("proc/sys/kernel/random/boot_id"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn sev(sys: &Path) -> Result<SevFacts, String> {
    let parameter = sys.join("sys/module/kvm_amd/parameters/sev_snp");
    let text = fs::read_to_string(&parameter)
        .map_err(|error| format!("{} cannot be read: {error}", parameter.display()))?;
    if !matches!(text.trim(), "Y" | "1") {
        let found = text.trim().chars().take(20).collect::<String>();
        return Err(format!("{} is {found:?}, expected \"Y\"", parameter.display()));
    }
    let device = sys.join("dev/sev");
    File::open(&device).map_err(|error| format!("{}: {error}", device.display()))?;
    let leaf = std::arch::x86_64::__cpuid(0x8000_001f);
    let cbitpos = u8::try_from(leaf.ebx & 0x3f).unwrap_or_default();
    // SNP hosts reserve bits for other guests too; what a guest loses is one, the C-bit.
    Ok(SevFacts { cbitpos, reduced_phys_bits: 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(parse_version(debian), Some(QemuVersion { major: 7, minor: 2 }));
        let plain = "QEMU emulator version 10.1.0";
        assert!(parse_version(plain).unwrap() > LEAST_QEMU_PLAIN_KERNEL);
        for said in ["", "QEMU", "QEMU emulator version ", "version 7", "version x.y"] {
            assert_eq!(parse_version(said), None, "{said}");
        }
    }

    #[test]
    fn a_host_without_the_parameter_is_no_snp_host() {
        let sys = tempfile::tempdir().unwrap();
        let reason = sev(sys.path()).unwrap_err();
        assert!(reason.contains("sev_snp"), "{reason}");
        let parameters = sys.path().join("sys/module/kvm_amd/parameters");
        fs::create_dir_all(&parameters).unwrap();
        fs::write(parameters.join("sev_snp"), "N\n").unwrap();
        assert!(sev(sys.path()).unwrap_err().contains("\"N\""));
        fs::write(parameters.join("sev_snp"), "Y\n").unwrap();
        assert!(sev(sys.path()).unwrap_err().contains("dev/sev"));
    }
}

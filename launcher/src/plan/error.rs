//! Why a launch is refused before anything is started.

use casemate_measurements::hash::LaunchDigest;
use casemate_measurements::launch::{CpuModel, Shape};
use casemate_measurements::launch_config::LaunchConfigError;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::kvm::KvmRefusal;

use crate::committed::TooLittleMemory;
use crate::host::QemuVersion;
use crate::id_block::NoIdBlock;
use crate::profile::ProfileError;
use crate::topology::GpuRefusal;

/// Why a launch is refused before anything is started.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The release is built for another platform.
    #[error(
        "release {release} is built for platform {found}, expected {expected}: the platform is \
         in its measured command line, so build it with --platform {expected}"
    )]
    Platform {
        /// Name and version.
        release: String,
        /// What the caller asked for.
        expected: Platform,
        /// What the manifest says.
        found: Platform,
    },
    /// No row of the manifest has this shape.
    #[error(
        "the manifest of {release} lists no launch digest for {shape}, so no verifier would \
         accept this VM; it lists {listed}"
    )]
    Unlisted {
        /// Name and version.
        release: String,
        /// What was asked for.
        shape: String,
        /// What the manifest lists.
        listed: String,
    },
    /// The CPU is given by its numbers.
    #[error(
        "CPU {cpu} has no name, and QEMU's -cpu needs one: expected one of the CPU models that \
         the manifest lists"
    )]
    NamelessCpu {
        /// What was asked for.
        cpu: CpuModel,
    },
    /// QEMU does not know the CPU model.
    #[error(
        "{path} is version {found} and does not know the CPU model {cpu}, expected {least} or \
         newer, or another model that the manifest lists with so many vCPUs"
    )]
    UnknownCpu {
        /// The model.
        cpu: CpuModel,
        /// Which QEMU.
        path: String,
        /// Its version.
        found: QemuVersion,
        /// The oldest that knows it.
        least: QemuVersion,
    },
    /// The row of the manifest has another digest than this launch would have.
    #[error("{shape} would have the launch digest {found}, expected {expected} by the manifest")]
    Digest {
        /// The shape.
        shape: Shape,
        /// What this launch would have.
        found: Box<LaunchDigest>,
        /// What the manifest lists.
        expected: Box<LaunchDigest>,
    },
    /// The launch config is refused.
    #[error("the launch config is refused")]
    Config(#[from] LaunchConfigError),
    /// This is no SNP host.
    #[error("this host cannot start SEV-SNP guests: {reason}")]
    NoSnp {
        /// Why not.
        reason: String,
    },
    /// KVM is needed and is not to be had.
    #[error("KVM cannot be used here: {reason}; {hint}")]
    NoKvm {
        /// Why not.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The host's KVM starts no guest with this policy.
    #[error("this host cannot start a VM of the release")]
    Policy(#[from] KvmRefusal),
    /// There is no ID block for this launch.
    #[error("this launch has no ID block")]
    IdBlock(#[from] NoIdBlock),
    /// SNP guests are not emulated.
    #[error("SEV-SNP guests run on KVM only, expected --accel auto or kvm, found tcg")]
    SnpOnTcg,
    /// QEMU is too old.
    #[error("{path} is version {found}, expected {least} or newer for platform {platform}")]
    OldQemu {
        /// Which QEMU.
        path: String,
        /// Its version.
        found: QemuVersion,
        /// The oldest that does.
        least: QemuVersion,
        /// The platform.
        platform: Platform,
    },
    /// The host keeps too little memory.
    #[error(transparent)]
    Memory(#[from] TooLittleMemory),
    /// A path is not UTF-8, which QEMU's JSON options need.
    #[error("{path:?} is not UTF-8, which QEMU's options need: move the release elsewhere")]
    Path {
        /// The path.
        path: std::path::PathBuf,
    },
    /// The VM does not get its GPUs.
    #[error("this VM does not get its GPUs")]
    Gpus(#[from] GpuRefusal),
    /// The profiles of GPUs that this program carries are malformed.
    #[error("cannot tell GPUs apart")]
    Profiles(#[from] ProfileError),
    /// Two forwards or a forward and the host are at odds.
    #[error("port {port} of 127.0.0.1 is forwarded twice, expected a port of its own for each")]
    PortTwice {
        /// The port.
        port: u16,
    },
}

impl PlanError {
    /// What a person can do about it, where the error does not say so itself.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Gpus(refusal) => Some(refusal.hint()),
            Self::Memory(short) => Some(short.hint()),
            _ => None,
        }
    }
}

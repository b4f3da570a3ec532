//! Why a boot ends, and with which stage code.

use std::io;
use std::path::PathBuf;

use casemate_measurements::cmdline::CmdlineError;
use casemate_measurements::stage::Stage;
use nix::errno::Errno;

use super::device_mapper::DeviceMapperError;
use crate::sysfs::DiskError;

/// Why the init gives up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file system of the kernel's own could not be mounted.
    #[error("cannot mount {kind} at {target}")]
    MountKernel {
        /// Type of the file system.
        kind: &'static str,
        /// Where.
        target: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// `/proc/cmdline` could not be read.
    #[error("cannot read /proc/cmdline")]
    ReadCommandLine(#[source] io::Error),
    /// The command line does not say which root to mount.
    #[error("command line refused")]
    CommandLine(#[from] CmdlineError),
    /// The kernel has no list of processors, or no PCI host bridge: the host gave no ACPI tables.
    #[error("{} is missing: the machine is not described", path.display())]
    Platform {
        /// What the kernel would have made of the tables.
        path: PathBuf,
    },
    /// The list of modules is unreadable or malformed.
    #[error("cannot read the list of modules {}", path.display())]
    ListModules {
        /// The list.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A module did not load.
    #[error("cannot load the module {}", path.display())]
    LoadModule {
        /// The module.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The root disk was not found.
    #[error("cannot find the root disk")]
    Disk(#[from] DiskError),
    /// The root disk is shorter than the command line says.
    #[error("root disk {name} has {found} bytes, expected at least {expected}")]
    DiskTooSmall {
        /// Name of the disk.
        name: String,
        /// Its length.
        found: u64,
        /// Length of data and hash tree.
        expected: u64,
    },
    /// The device mapper refused.
    #[error("cannot set up dm-verity")]
    DeviceMapper(#[from] DeviceMapperError),
    /// The root file system did not mount.
    #[error("cannot mount {} at {}", device.display(), target.display())]
    MountRoot {
        /// The verified device.
        device: PathBuf,
        /// Where.
        target: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// A tmpfs did not mount.
    #[error("cannot mount a tmpfs at {}", target.display())]
    MountTmpfs {
        /// Where.
        target: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
    /// A step of the hand-over failed.
    #[error("cannot {step}")]
    Handover {
        /// Which step.
        step: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

impl InitError {
    /// The code that the host is told.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::ReadCommandLine(_) | Self::CommandLine(_) => Stage::CommandLineRefused,
            Self::Platform { .. } => Stage::PlatformRefused,
            Self::ListModules { .. } | Self::LoadModule { .. } => Stage::ModulesFailed,
            Self::Disk(DiskError::Ambiguous { .. }) => Stage::DiskAmbiguous,
            Self::Disk(_) => Stage::RootDiskMissing,
            Self::DiskTooSmall { .. } | Self::DeviceMapper(_) => Stage::VerityFailed,
            Self::MountRoot { .. } | Self::MountTmpfs { .. } => Stage::RootMountFailed,
            Self::MountKernel { .. } | Self::Handover { .. } => Stage::HandoverFailed,
        }
    }
}

//! Why the agent ends the VM, and with which stage code.

use std::io;

use casemate_measurements::cmdline::CmdlineError;
use casemate_measurements::stage::Stage;

use super::keys::KeyError;
use super::launch::LaunchError;
use super::reporter::ReporterError;
use crate::gpu::helper::GpuError;
use crate::sysfs::DiskError;

/// Why the agent gives up.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// `/proc/cmdline` could not be read.
    #[error("cannot read /proc/cmdline")]
    ReadCommandLine(#[source] io::Error),
    /// The command line does not say which platform this is.
    #[error("command line refused")]
    CommandLine(#[from] CmdlineError),
    /// The launch config is missing, malformed or not the one that `HOST_DATA` names.
    #[error("launch config refused")]
    Launch(#[from] LaunchError),
    /// The thread that asks for reports could not be started.
    #[error("cannot start the thread that asks for reports")]
    Spawn(#[source] io::Error),
    /// No report can be had.
    #[error("no attestation report to be had")]
    Report(#[from] ReporterError),
    /// The GPUs are refused.
    #[error("GPUs refused")]
    Gpus(#[from] GpuError),
    /// A key could not be made.
    #[error("keys could not be made")]
    Keys(#[from] KeyError),
    /// The port could not be opened.
    #[error("cannot listen for verifiers")]
    Listen(#[source] io::Error),
    /// The service manager could not be told.
    #[error("cannot tell the service manager")]
    Notify(#[source] io::Error),
}

impl AgentError {
    /// The code that the host is told.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::ReadCommandLine(_) | Self::CommandLine(_) => Stage::CommandLineRefused,
            Self::Launch(LaunchError::Disk(DiskError::Ambiguous { .. })) => Stage::DiskAmbiguous,
            Self::Launch(LaunchError::Write { .. }) | Self::Keys(_) => Stage::KeysFailed,
            Self::Launch(_) => Stage::LaunchConfigRefused,
            Self::Gpus(GpuError::Pci(_) | GpuError::NotPromised { .. }) => Stage::GpusRefused,
            Self::Gpus(_) => Stage::GpuCheckFailed,
            Self::Spawn(_) | Self::Report(_) => Stage::ReportUnavailable,
            Self::Listen(_) | Self::Notify(_) => Stage::ServeFailed,
        }
    }
}

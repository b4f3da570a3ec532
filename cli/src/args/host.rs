//! `casemate host`.

use std::path::PathBuf;

use casemate_launcher::inventory::Address;
use clap::{Args, Subcommand, ValueEnum};

use super::OutputArgs;

/// `casemate host …`
#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Say whether this host can launch confidential VMs, and how to mend what is wrong:
    /// exit 0 fit, 3 not fit
    Doctor(DoctorArgs),
    /// Print everything that the doctor looks at as JSON, to keep or to send
    Inventory(InventoryArgs),
    /// List the GPUs and their switches: mode, driver, and who has each
    Devices(DevicesArgs),
    /// Make GPUs ready for VMs: take them from the host's drivers, bind them to vfio-pci, set
    /// their mode
    Prepare(PrepareArgs),
    /// Reset GPUs and give them back to the host's drivers; mends those that are out of use
    Release(PrepareArgs),
}

/// `casemate host devices`
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Look at a tree of files that stands for a host
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate host prepare`, `release`
#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    /// Devices, as 0000:41:00.0
    #[arg(value_name = "ADDRESS", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) devices: Vec<Address>,
    /// Every GPU of a family that VMs can have, and every switch that has a mode
    #[arg(long)]
    pub(crate) all: bool,
    /// Mode to set: every GPU of a host has to be in the same
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,
    /// NVIDIA's admin tool, which sets modes
    #[arg(long, value_name = "PATH", env = "CASEMATE_GPU_TOOL")]
    pub(crate) gpu_tool: Option<PathBuf>,
    /// Work on a tree of files that stands for a host
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    pub(crate) root: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A mode that may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Not confidential: for work on the host itself.
    Off,
    /// Confidential.
    On,
    /// Confidential, for a whole HGX Hopper board in one VM.
    Ppcie,
}

/// `casemate host doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Judge a host from what `host inventory` printed there, instead of this one
    #[arg(long, value_name = "FILE", conflicts_with = "qemu")]
    pub(crate) inventory: Option<PathBuf>,
    /// QEMU to ask [default: qemu-system-x86_64 in PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
    /// Also list what is as it should be
    #[arg(long, short)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate host inventory`
#[derive(Debug, Args)]
pub(crate) struct InventoryArgs {
    /// QEMU to ask [default: qemu-system-x86_64 in PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
}

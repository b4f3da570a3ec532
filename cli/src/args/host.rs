//! `casemate host`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

/// `casemate host …`
#[derive(Debug, Subcommand)]
pub(crate) enum HostVerb {
    /// Say whether this host can launch confidential VMs, and how to mend what is wrong:
    /// exit 0 fit, 3 not fit
    Doctor(DoctorArgs),
    /// Print everything that the doctor looks at as JSON, to keep or to send
    Inventory(InventoryArgs),
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

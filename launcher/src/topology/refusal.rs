//! Why a VM does not get its GPUs, and what mends it.

use crate::committed::{Committed, TooLittleMemory};
use crate::host::QemuVersion;
use crate::inventory::{Address, FABRIC_MANAGER, GpuMode, SUBNET_MANAGER};

use super::space::SpaceError;

/// Why one device cannot be given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another VM has it, or it is out of use.
    #[error("{0}")]
    Taken(String),
    /// A driver of the host holds it.
    #[error("driver {0} of the host holds it, expected none or vfio-pci")]
    Driver(String),
    /// It is in no IOMMU group.
    #[error("it is in no IOMMU group")]
    NoGroup,
    /// Others are in its group.
    #[error("its IOMMU group also holds {0}, expected the device alone")]
    Group(String),
    /// It cannot be reset.
    #[error("the kernel has no way to reset it")]
    NoReset,
    /// It is a GPU without function-level reset.
    #[error("it can be reset by {0} alone, expected flr, which the guest's driver insists on")]
    NoFlr(String),
    /// Its memory has no window.
    #[error("it has no window 2, through which its memory is reached")]
    NoWindow,
    /// Its mode cannot be read.
    #[error("its mode is unknown: {0}")]
    ModeUnknown(String),
    /// It is in another mode.
    #[error("it is in mode {found}, expected {expected}")]
    Mode {
        /// The mode found.
        found: GpuMode,
        /// The mode that this VM needs.
        expected: GpuMode,
    },
}

impl Unfit {
    fn hint(&self) -> String {
        match self {
            Self::Taken(_) => "`casemate host devices` shows who has what; stop that VM, or \
                               `casemate host release` a device that is out of use"
                .into(),
            Self::Driver(_) => {
                "`casemate host prepare` takes the device from the host's driver".into()
            }
            Self::NoGroup => "enable the IOMMU (AMD-Vi) in the BIOS".into(),
            Self::Group(_) => "enable ACS (it may sit under AER) in the BIOS".into(),
            Self::NoReset | Self::NoFlr(_) => "write `default` into the device's reset_method in \
                                               /sys/bus/pci/devices, if someone narrowed it; else \
                                               update the board's firmware and the kernel"
                .into(),
            Self::NoWindow => {
                "in the BIOS enable \"above 4G decoding\" and large MMIO windows".into()
            }
            Self::ModeUnknown(_) => "run as root; `casemate host doctor` says more".into(),
            Self::Mode { expected, .. } => {
                format!("`casemate host prepare --all --mode {expected}` sets it on every GPU")
            }
        }
    }
}

/// Why a VM does not get its GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuRefusal {
    /// The platform gives none.
    #[error("a SIMULATED VM gets no GPUs, expected a release for platform snp")]
    Simulated,
    /// Nobody looked at the host.
    #[error("the host was not looked at for GPUs")]
    NotLookedAt,
    /// QEMU is too old.
    #[error("QEMU is version {found}, expected {least} or newer to give an SNP guest a device")]
    OldQemu {
        /// Its version.
        found: QemuVersion,
        /// The oldest that does.
        least: QemuVersion,
    },
    /// The kernel gives no devices to VMs.
    #[error("iommufd cannot be used: {reason}")]
    Iommufd {
        /// Why.
        reason: String,
    },
    /// There is none.
    #[error("this host has no GPU of a family that VMs can have, expected one of {known}")]
    NoGpus {
        /// The families' names.
        known: String,
    },
    /// No such family.
    #[error("no family of GPUs is called {name:?}, expected one of {known}")]
    Family {
        /// What was asked for.
        name: String,
        /// The families' names.
        known: String,
    },
    /// The host has several.
    #[error("this host has GPUs of the families {found}, expected to be told which")]
    Families {
        /// Which it has.
        found: String,
    },
    /// No such GPU.
    #[error("{address} is no GPU of this host")]
    NotAGpu {
        /// What was asked for.
        address: Address,
    },
    /// Named twice.
    #[error("{address} is named twice, expected each GPU once")]
    Twice {
        /// Which.
        address: Address,
    },
    /// GPUs of several families in one VM.
    #[error("{first} is of family {family} and {other} is not, expected one family in a VM")]
    Mixed {
        /// One GPU.
        first: Address,
        /// Its family.
        family: String,
        /// Another.
        other: Address,
    },
    /// Not so many.
    #[error("a VM cannot have {count} GPUs of family {family}, expected {allowed}")]
    Count {
        /// How many were asked for.
        count: usize,
        /// Of which family.
        family: String,
        /// How many there may be.
        allowed: String,
    },
    /// Too few can be given.
    #[error("{usable} of {family} can be given, expected {count}{}", list(reasons))]
    TooFew {
        /// How many were asked for.
        count: usize,
        /// The family.
        family: String,
        /// How many can be given.
        usable: usize,
        /// Why the others cannot.
        reasons: Vec<(Address, Unfit)>,
    },
    /// One that must be given cannot be.
    #[error("{address} cannot be given: {reason}")]
    Unfit {
        /// Which.
        address: Address,
        /// Why.
        reason: Unfit,
    },
    /// The host's GPUs disagree.
    #[error("the GPUs of this host are in the modes {found}, expected one mode on all")]
    Modes {
        /// The modes and who is in them.
        found: String,
    },
    /// No whole board.
    #[error(
        "this VM takes a whole board of {gpus} GPUs and {switches} NVSwitches, found \
         {found_gpus} and {found_switches}"
    )]
    Board {
        /// GPUs of a board.
        gpus: usize,
        /// Its switches.
        switches: usize,
        /// GPUs found.
        found_gpus: usize,
        /// Switches found.
        found_switches: usize,
    },
    /// They are no partition.
    #[error("{found} are no partition of the board, expected one of {expected}")]
    Partition {
        /// What was asked for.
        found: String,
        /// The partitions of that size.
        expected: String,
    },
    /// Enough are free, but no partition is.
    #[error("no partition of {count} GPUs is free on the board{}", list(reasons))]
    NoPartition {
        /// How many were asked for.
        count: usize,
        /// Why others cannot be given.
        reasons: Vec<(Address, Unfit)>,
    },
    /// A service is missing.
    #[error("{name} does not run on this host, and a {product} needs it")]
    Service {
        /// Which.
        name: String,
        /// The GPUs that need it.
        product: String,
    },
    /// The fabric's bridge was given away.
    #[error("{address} manages the board's fabric and is bound to vfio-pci, expected mlx5_core")]
    Bridge {
        /// Which.
        address: Address,
    },
    /// The host keeps too few threads.
    #[error(
        "{found} vCPUs of {threads} threads leave too few, expected {kept} for the host{others}"
    )]
    Vcpus {
        /// What was asked for.
        found: u32,
        /// The host's threads.
        threads: u32,
        /// How many it keeps.
        kept: u32,
        /// What its VMs have.
        others: Committed,
    },
    /// The host keeps too little memory.
    #[error(transparent)]
    Memory(#[from] TooLittleMemory),
    /// Too many devices.
    #[error("{found} devices, expected at most {most} in one VM")]
    Ports {
        /// How many.
        found: usize,
        /// How many fit.
        most: usize,
    },
    /// There is no place for their windows.
    #[error("the GPUs' windows do not fit into the VM's addresses: {0}")]
    Space(#[from] SpaceError),
}

impl GpuRefusal {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Simulated => "GPUs refuse to work in a VM that is not confidential".into(),
            Self::NotLookedAt => "look at the host before planning".into(),
            Self::OldQemu { .. } => "install QEMU 10.1 or newer".into(),
            Self::Iommufd { .. } => "load the modules iommufd and vfio-pci, and run as root".into(),
            Self::NoGpus { .. } => "`lspci -nn -d 10de:` shows NVIDIA's devices".into(),
            Self::Family { .. } | Self::Families { .. } => {
                "name the family: gpus.family in launch.toml, or --gpu-family".into()
            }
            Self::NotAGpu { .. } | Self::Twice { .. } | Self::Mixed { .. } => {
                "`casemate host devices` lists the GPUs".into()
            }
            Self::Count { .. } => {
                "ask for another number: gpus.count in launch.toml, or --gpus".into()
            }
            Self::TooFew { reasons, .. } | Self::NoPartition { reasons, .. } => reasons
                .first()
                .map_or_else(|| "stop another VM".into(), |(_, reason)| reason.hint()),
            Self::Unfit { reason, .. } => reason.hint(),
            Self::Modes { .. } => {
                "`casemate host prepare --all --mode on` (or ppcie) sets one mode on every GPU"
                    .into()
            }
            Self::Board { .. } => {
                "for one GPU to a VM set mode on: `casemate host prepare --all --mode on`".into()
            }
            Self::Partition { .. } => "name a count, and casemate chooses a partition".into(),
            Self::Service { name, .. } => format!(
                "{}, then set the mode again: `casemate host prepare --all --mode on`",
                service_mend(name)
            ),
            Self::Bridge { .. } => "bind it to mlx5_core again".into(),
            Self::Vcpus { threads, kept, others, .. } => {
                format!(
                    "ask for at most {} vCPUs that the manifest lists",
                    threads.saturating_sub(*kept).saturating_sub(others.vcpus)
                )
            }
            Self::Memory(short) => short.hint(),
            Self::Ports { .. } => "ask for fewer".into(),
            Self::Space(error) => error.hint(),
        }
    }
}

/// How a service of the fabric is brought up. A second subnet manager breaks a fabric, so none is
/// ever started by itself: Fabric Manager's unit starts its own.
pub(crate) fn service_mend(name: &str) -> String {
    if name == SUBNET_MANAGER {
        return format!(
            "install the package {SUBNET_MANAGER} and restart {FABRIC_MANAGER}, whose start \
             script starts it (never by hand: a second one breaks the fabric)"
        );
    }
    format!("install and start {name}, of the very version of the guest's driver")
}

/// The reasons, each with its devices.
fn list(reasons: &[(Address, Unfit)]) -> String {
    let mut grouped: Vec<(String, Vec<String>)> = Vec::new();
    for (address, reason) in reasons {
        let (address, reason) = (address.to_string(), reason.to_string());
        match grouped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, addresses)) => addresses.push(address),
            None => grouped.push((reason, vec![address])),
        }
    }
    let text =
        |(reason, addresses): &(String, Vec<String>)| format!("{}: {reason}", addresses.join(" "));
    let text: Vec<String> = grouped.iter().map(text).collect();
    if text.is_empty() { String::new() } else { format!(" ({})", text.join("; ")) }
}

//! The host's devices in casemate's hands: who has which, bound to the driver that gives them to
//! VMs, in the right mode, reset between tenants.
//!
//! Everything goes through a path prefix, [`Devices::at`], so a tree of files can stand for a
//! host. What must hold whatever is killed when: no device is given twice, and none is given
//! again before it was reset, see [`ledger`].

mod attach;
pub mod ledger;
mod prepare;
mod sysfs;
mod tool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::HostFacts;
use crate::inventory::{self, Address, Device, GpuMode, Inventory};
use crate::outside::OutsideError;
use crate::state::StateError;
use crate::topology::GpuHost;
pub use attach::Attached;
pub use ledger::{Entry, Ledger, LedgerError, Standing};
pub use prepare::{Prepared, Released};
pub use tool::AdminTool;

/// Why a device is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Who has which device cannot be told, or another has it.
    #[error("the device is not to be had")]
    Ledger(#[from] LedgerError),
    /// There is none.
    #[error("this host has no device {address}")]
    Absent {
        /// Which.
        address: Address,
    },
    /// The kernel does not take an order.
    #[error("cannot write {text:?} to {}", path.display())]
    Write {
        /// The file of the kernel.
        path: PathBuf,
        /// What was written.
        text: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel takes an order and does not come back.
    #[error(
        "the kernel has not taken {text:?} from {} for {} s: something uses the device, or it \
         hangs",
        path.display(),
        waited.as_secs()
    )]
    Hangs {
        /// The file of the kernel.
        path: PathBuf,
        /// What was written.
        text: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Another driver has it than should.
    #[error("{address} is bound to {found}, expected {expected}: {why}")]
    Driver {
        /// Which.
        address: Address,
        /// The driver found.
        found: String,
        /// The driver that it should have.
        expected: &'static str,
        /// What that may come from.
        why: &'static str,
    },
    /// It has no node for QEMU.
    #[error("{address} has no node in /dev/vfio/devices")]
    NoNode {
        /// Which.
        address: Address,
    },
    /// It does not answer.
    #[error("{address} does not answer: {reason}")]
    Dead {
        /// Which.
        address: Address,
        /// How that shows.
        reason: String,
    },
    /// It cannot be reset.
    #[error("{address} cannot be reset")]
    Reset {
        /// Which.
        address: Address,
        /// Why.
        source: Box<DeviceError>,
    },
    /// Nobody should have a VM with such a GPU.
    #[error("mode {mode} is never set, expected on, off or ppcie")]
    UnwantedMode {
        /// What was asked for.
        mode: GpuMode,
    },
    /// A mode is asked for and nothing sets it.
    #[error("{address} is in mode {found}, expected {expected}, and no admin tool was named")]
    NoTool {
        /// Which.
        address: Address,
        /// Its mode, or why it is unknown.
        found: String,
        /// The mode asked for.
        expected: GpuMode,
    },
    /// The tool failed.
    #[error("NVIDIA's admin tool did not set mode {mode} on {address}")]
    Tool {
        /// Which.
        address: Address,
        /// The mode asked for.
        mode: GpuMode,
        /// Why.
        source: OutsideError,
    },
    /// The tool did what it pleased.
    #[error(
        "{address} is in mode {found}, expected {expected}, although NVIDIA's admin tool said \
         that it set it"
    )]
    ModeNotSet {
        /// Which.
        address: Address,
        /// Its mode, or why it is unknown.
        found: String,
        /// The mode asked for.
        expected: GpuMode,
    },
    /// Its mode changed since the plan was made.
    #[error("{address} is in mode {found}, expected {expected} as planned")]
    OtherMode {
        /// Which.
        address: Address,
        /// Its mode, or why it is unknown.
        found: String,
        /// The mode planned for.
        expected: GpuMode,
    },
    /// State cannot be kept.
    #[error("cannot keep the state of devices")]
    State(#[from] StateError),
}

impl DeviceError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Ledger(error) => error.hint(),
            Self::Absent { .. } => "`casemate host devices` lists the devices",
            Self::Write { .. } => "run as root, and load the module vfio-pci (`modprobe vfio-pci`)",
            Self::Hangs { .. } => {
                "stop what uses it (`lsof /dev/nvidia*`, nvidia-persistenced, containers); a \
                 device that hangs needs a reboot of the host"
            }
            Self::Driver { .. } => {
                "load vfio-pci, and see the kernel's log (`dmesg | grep vfio`) for why it refuses"
            }
            Self::NoNode { .. } => "use a kernel with CONFIG_VFIO_DEVICE_CDEV",
            Self::Dead { .. } | Self::Reset { .. } => {
                "NVIDIA's admin tool may help (--recover-broken-gpu, --reset-with-sbr), else \
                 reboot the host; then `casemate host release` the device"
            }
            Self::UnwantedMode { .. } => "a validator refuses GPUs that can be debugged",
            Self::NoTool { .. } => {
                "name NVIDIA's nvidia_gpu_tools.py: --gpu-tool PATH or CASEMATE_GPU_TOOL \
                 (docs/miner.md says where it is from)"
            }
            Self::Tool { source: OutsideError::Start { .. }, .. } => {
                "is the path right, and python3 installed?"
            }
            Self::Tool { .. } | Self::ModeNotSet { .. } => {
                "the device is out of use now. The host's management controller may forbid the \
                 change; on HGX Blackwell Fabric Manager must run before. After RTX PRO 6000 \
                 went on, off and on, only a reboot helps. Then `casemate host release` it"
            }
            Self::OtherMode { .. } => "`casemate host prepare --all --mode MODE`, then run again",
            Self::State(_) => "run as root",
        }
    }

    /// Whether the device must not be given to anyone after this.
    fn is_the_device(&self) -> bool {
        match self {
            Self::Hangs { .. }
            | Self::Dead { .. }
            | Self::Reset { .. }
            | Self::ModeNotSet { .. } => true,
            Self::Tool { source, .. } => !matches!(source, OutsideError::Start { .. }),
            _ => false,
        }
    }
}

/// The devices of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    sys: sysfs::Sys,
    ledger: Ledger,
}

impl Devices {
    /// Those of the host under `root`: `/`, or a tree that stands for one.
    ///
    /// # Errors
    /// When who has which device cannot be kept: as another user than root.
    pub fn at(root: &Path) -> Result<Self, DeviceError> {
        let sys = sysfs::Sys { root: root.to_owned(), patience: Duration::MAX };
        Ok(Self { sys, ledger: Ledger::at(root)? })
    }

    /// With less patience than usual for whatever a kernel may take long to do.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.sys.patience = patience;
        self
    }

    /// Who has which.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What this machine has to give to a VM.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn offer_of_this_machine(host: &HostFacts) -> Result<GpuHost, DeviceError> {
        let root = Path::new("/");
        let inventory = Inventory::probe(root, inventory::cpuid, Some(&host.qemu.path));
        Self::at(root)?.offer(inventory)
    }

    /// What this host has to give to VMs: its inventory, in which also the modes of devices are
    /// read that sleep, and what is taken.
    ///
    /// # Errors
    /// When who has which device cannot be told.
    pub fn offer(&self, mut inventory: Inventory) -> Result<GpuHost, DeviceError> {
        let taken = self.ledger.taken()?;
        for device in &mut inventory.devices {
            if may_wake(device) && !taken.contains_key(&device.address) {
                *device = sysfs::woken(&self.sys, device.address).unwrap_or(device.clone());
            }
        }
        Ok(GpuHost { root: self.sys.root.clone(), inventory, taken })
    }

    /// The GPUs and switches of this host, with their modes read where they sleep too, and who
    /// has each.
    ///
    /// # Errors
    /// When who has which device cannot be told.
    pub fn list(&self) -> Result<Vec<(Device, Option<Entry>)>, DeviceError> {
        let mut entries = self.ledger.entries()?;
        let found = Inventory::devices(&self.sys.root).into_iter();
        let found = found.filter(|device| device.is_gpu() || device.is_switch());
        Ok(found
            .map(|device| {
                let entry = entries.remove(&device.address);
                let held = entry.as_ref().is_some_and(|entry| entry.is_held(&self.sys.root));
                let device = if may_wake(&device) && !held {
                    sysfs::woken(&self.sys, device.address).unwrap_or(device)
                } else {
                    device
                };
                (device, entry)
            })
            .collect())
    }
}

/// Whether a device sleeps, so that its mode is unknown, and no driver of the host has it.
fn may_wake(device: &Device) -> bool {
    let is_asleep = matches!(device.mode, Some(Err(_)));
    is_asleep && matches!(device.driver.as_deref(), None | Some(sysfs::VFIO))
}

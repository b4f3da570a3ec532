//! Which GPUs a VM gets and where they sit in it: from what is asked for and what the host has to
//! a [`Passthrough`], a pure function. What is refused is refused with the reason for each GPU
//! and with what mends it.
//!
//! What a VM is promised goes into its launch config, so guest and verifier hold it to the same
//! count and chip; see [`Passthrough::promised`].

mod choose;
mod refusal;
pub mod space;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use casemate_measurements::gpu_evidence::GpuSet;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::argument::{Arguments, KeyVal};
use crate::committed::Committed;
use crate::host::{LEAST_QEMU_VFIO, Qemu};
use crate::inventory::{Address, Bar, Device, GpuMode, Inventory};
use crate::machine::Memory;
use crate::profile::Profiles;
pub(crate) use refusal::service_mend;
pub use refusal::{GpuRefusal, Unfit};
use space::{AddressSpace, Limits};

/// The first slot of the root bus that a device's port takes; those below are virtio's.
const FIRST_PORT: usize = 0x10;
/// Ports that the root bus has room for.
const MOST_PORTS: usize = 15;
const GIB: u64 = 1 << 30;

/// Which GPUs are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuChoice {
    /// So many, wherever they are.
    Any {
        /// Of which family; without, of the one that the host has.
        family: Option<String>,
        /// How many.
        count: u8,
    },
    /// These.
    These(Vec<Address>),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuRequest {
    /// Which.
    pub choice: GpuChoice,
    /// The board that a verifier shall find, as reports name it; without, any of the chip.
    pub board: Option<String>,
}

/// What a host has to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuHost {
    /// Where its files are.
    pub root: PathBuf,
    /// Everything about it.
    pub inventory: Inventory,
    /// Which devices are taken or out of use, each with a reason.
    pub taken: BTreeMap<Address, String>,
}

/// What a VM needs beside its GPUs.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Its vCPUs.
    pub vcpus: u32,
    /// Its memory.
    pub memory: Memory,
    /// What other VMs of the host have.
    pub others: Committed,
    /// How many bits of an address its firmware uses.
    pub firmware_bits: u8,
    /// Which QEMU starts it.
    pub qemu: &'a Qemu,
}

/// A VM's GPUs, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passthrough {
    /// Where the files of the host are that has them: `/`, but for tests.
    pub host: PathBuf,
    /// The family of its GPUs.
    pub family: String,
    /// The mode that every device must be in.
    pub mode: GpuMode,
    /// The GPUs.
    pub gpus: Vec<Address>,
    /// The `NVSwitches`.
    pub switches: Vec<Address>,
    /// What the VM is promised.
    pub promised: GpuSet,
    /// The least version of the guest's driver.
    pub driver: String,
    /// Where their windows lie.
    pub space: AddressSpace,
}

impl Passthrough {
    /// Decides.
    ///
    /// # Errors
    /// When the host cannot give such a VM what it asks for.
    pub fn new(
        request: &GpuRequest,
        needs: Needs<'_>,
        host: &GpuHost,
        profiles: &Profiles,
    ) -> Result<Self, GpuRefusal> {
        if needs.qemu.version < LEAST_QEMU_VFIO {
            let found = needs.qemu.version;
            return Err(GpuRefusal::OldQemu { found, least: LEAST_QEMU_VFIO });
        }
        let inventory = &host.inventory;
        if let Err(reason) = &inventory.iommufd {
            return Err(GpuRefusal::Iommufd { reason: reason.clone() });
        }
        let chosen = choose::choose(request, host, profiles)?;
        let family = chosen.family;
        leave_for_host(needs, inventory, family.host_threads)?;
        let devices: Vec<&Device> = chosen.gpus.iter().chain(&chosen.switches).copied().collect();
        if devices.len() > MOST_PORTS {
            return Err(GpuRefusal::Ports { found: devices.len(), most: MOST_PORTS });
        }
        let bars: Vec<&[Bar]> = devices.iter().map(|device| device.bars.as_slice()).collect();
        let processor = u8::try_from(inventory.cpu.physical_bits).unwrap_or(u8::MAX);
        let limits = Limits { firmware: needs.firmware_bits, processor };
        let least = chosen.shape.window_gib * GIB;
        let space = space::lay_out(needs.memory, &bars, least, limits)?;
        let addresses = |devices: &[&Device]| devices.iter().map(|d| d.address).collect();
        let count = |len: usize| u8::try_from(len).unwrap_or(u8::MAX);
        Ok(Self {
            host: host.root.clone(),
            family: family.name.clone(),
            mode: chosen.shape.mode,
            promised: GpuSet {
                chip: family.chip.to_owned(),
                count: count(chosen.gpus.len()),
                board: request.board.clone(),
                nvswitches: count(chosen.switches.len()),
            },
            gpus: addresses(&chosen.gpus),
            switches: addresses(&chosen.switches),
            driver: chosen.shape.driver.clone(),
            space,
        })
    }

    /// Every device, in the order of their root ports.
    pub fn devices(&self) -> impl Iterator<Item = Address> {
        self.gpus.iter().chain(&self.switches).copied()
    }

    /// QEMU's arguments. A device stands behind a root port of its own: CUDA finds no GPU on the
    /// root bus itself. Nothing is ever plugged in later, and a port that says so makes the firmware
    /// keep room for it, of which there is little. The firmware is shown no option ROM: those are the host's, and unmeasured.
    pub(crate) fn arguments(&self, args: &mut Arguments) {
        let window = KeyVal::default().with("name", "opt/ovmf/X-PciMmio64Mb");
        args.option("-fw_cfg", window.with("string", self.space.window_mib()));
        args.option("-object", json!({"qom-type": "iommufd", "id": "iommufd0"}));
        for (index, device) in self.devices().enumerate() {
            let (port, number) = (format!("port{index}"), index + 1);
            args.option(
                "-device",
                json!({
                    "driver": "pcie-root-port",
                    "id": port,
                    "bus": "pcie.0",
                    "addr": format!("{:x}.0", FIRST_PORT + index),
                    "chassis": number,
                    "slot": number,
                    "hotplug": false,
                }),
            );
            args.option(
                "-device",
                json!({
                    "driver": "vfio-pci",
                    "id": format!("device{index}"),
                    "bus": port,
                    "host": device.to_string(),
                    "iommufd": "iommufd0",
                    "rombar": 0,
                }),
            );
        }
    }
}

impl fmt::Display for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |devices: &[Address]| {
            devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let AddressSpace { ram_end, base, window, bits } = self.space;
        writeln!(f, "GPUs           {} of {}, mode {}", self.gpus.len(), self.family, self.mode)?;
        writeln!(f, "  at           {}", names(&self.gpus))?;
        if !self.switches.is_empty() {
            writeln!(f, "NVSwitches     {}", names(&self.switches))?;
        }
        writeln!(f, "promised       {}", self.promised)?;
        writeln!(f, "guest driver   {} or newer", self.driver)?;
        writeln!(
            f,
            "addresses      memory ends at {} MiB, window of {} GiB at {} GiB, {bits} bits",
            ram_end >> 20,
            window / GIB,
            base / GIB
        )
    }
}

/// Whether the host keeps what it needs to serve its VMs.
fn leave_for_host(needs: Needs<'_>, host: &Inventory, kept: u32) -> Result<(), GpuRefusal> {
    let threads = host.cpu.threads;
    let others = needs.others;
    if needs.vcpus.saturating_add(others.vcpus).saturating_add(kept) > threads {
        return Err(GpuRefusal::Vcpus { found: needs.vcpus, threads, kept, others });
    }
    let total = host.memory.total;
    let kept = (total / 16).clamp(8 * GIB, 64 * GIB);
    Ok(others.leave(needs.memory, total, kept)?)
}

//! What a VM consists of, and QEMU's arguments for it: a pure function, so that `--plan` prints
//! what a launch executes and golden files pin it.
//!
//! [`Machine::shape`] is the one source of the measured facts: vCPU count and CPU model of the
//! arguments come from it, as does the digest.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::hash::HostData;
use casemate_measurements::launch::Shape;
use casemate_measurements::launch_config;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::{simulated, stage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::argument::{Arguments, KeyVal};
use crate::host::{LEAST_QEMU_PARALLEL_TCG, LEAST_QEMU_PLAIN_KERNEL, Qemu, SevFacts};
use crate::id_block::MachineIdBlock;
use crate::network::Link;
use crate::state::VmPaths;
use crate::topology::Passthrough;

/// Why a value is no part of a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MachineError {
    /// The amount of memory is malformed or out of bounds.
    #[error(
        "memory {text:?}: expected a number of MiB or GiB such as 512M or 4G, {} MiB to {} MiB",
        Memory::LEAST_MIB,
        Memory::MOST_MIB
    )]
    Memory {
        /// The text, shortened.
        text: String,
    },
}

/// An amount of guest memory, whole MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
pub struct Memory(u32);

impl Memory {
    /// Least memory.
    pub const LEAST_MIB: u32 = 256;
    /// [`Memory::LEAST_MIB`].
    pub const LEAST: Self = Self(Self::LEAST_MIB);
    /// Most memory: 16 TiB.
    pub const MOST_MIB: u32 = 16 << 20;

    /// Takes a number of MiB.
    ///
    /// # Errors
    /// When it is out of bounds.
    pub fn from_mib(mib: u32) -> Result<Self, MachineError> {
        if (Self::LEAST_MIB..=Self::MOST_MIB).contains(&mib) {
            return Ok(Self(mib));
        }
        Err(MachineError::Memory { text: format!("{mib}M") })
    }

    /// The number of MiB.
    #[must_use]
    pub const fn mib(self) -> u32 {
        self.0
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.0 as u64) << 20
    }
}

impl TryFrom<u32> for Memory {
    type Error = MachineError;

    fn try_from(mib: u32) -> Result<Self, MachineError> {
        Self::from_mib(mib)
    }
}

impl From<Memory> for u32 {
    fn from(memory: Memory) -> Self {
        memory.0
    }
}

impl FromStr for Memory {
    type Err = MachineError;

    fn from_str(text: &str) -> Result<Self, MachineError> {
        let malformed = || MachineError::Memory { text: text.chars().take(40).collect() };
        let (number, factor) = match text.strip_suffix(['G', 'g']) {
            Some(number) => (number, 1024),
            None => (text.strip_suffix(['M', 'm']).ok_or_else(malformed)?, 1),
        };
        let number: u32 = number.parse().map_err(|_| malformed())?;
        Self::from_mib(number.checked_mul(factor).ok_or_else(malformed)?).map_err(|_| malformed())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0)
    }
}

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// QEMU's translator: slow, needs nothing of the host.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// A TCP port of the guest that is reachable at 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Port on 127.0.0.1.
    pub host: u16,
    /// Port in the guest.
    pub guest: u16,
}

/// A disk that no release knows of: what a host may attach, and a guest must ignore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraDisk {
    /// The image, raw.
    pub path: PathBuf,
    /// The serial that it claims.
    pub serial: String,
}

/// A console that a host may attach, and that a guest must leave silent. Output goes to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Console {
    /// The first serial port of a PC.
    IsaSerial {
        /// Where its output goes.
        path: PathBuf,
    },
    /// A serial port on PCI.
    PciSerial {
        /// Where its output goes.
        path: PathBuf,
    },
    /// A virtio console.
    Virtio {
        /// Where its output goes.
        path: PathBuf,
    },
    /// The parallel port.
    Parallel {
        /// Where its output goes.
        path: PathBuf,
    },
    /// A debug port, 0x402 for OVMF and 0xe9 for Bochs.
    Debugcon {
        /// Where its output goes.
        path: PathBuf,
        /// Which I/O port.
        iobase: u16,
    },
}

/// Where the table of kernel hashes goes when no security processor puts it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashesTable {
    /// Guest physical address, from the firmware's own tables.
    pub gpa: u32,
}

/// What runs the machine: SNP, or QEMU alone with the security processor simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "platform", deny_unknown_fields)]
pub enum Backing {
    /// AMD SEV-SNP.
    Snp(SevFacts),
    /// SIMULATED.
    Simulated(HashesTable),
}

impl Backing {
    /// The platform.
    #[must_use]
    pub const fn platform(self) -> Platform {
        match self {
            Self::Snp(_) => Platform::Snp,
            Self::Simulated(_) => Platform::Simulated,
        }
    }
}

/// A VM, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its name, for the process list.
    pub name: String,
    /// What runs it.
    pub backing: Backing,
    /// What of it is measured beside the files.
    pub shape: Shape,
    /// Its memory; not measured.
    pub memory: Memory,
    /// What the host may do to it.
    pub policy: GuestPolicy,
    /// Who vouches for it; none without.
    pub id_block: Option<MachineIdBlock>,
    /// `HOST_DATA` of its reports.
    pub host_data: HostData,
    /// The firmware file.
    pub firmware: PathBuf,
    /// The kernel file.
    pub kernel: PathBuf,
    /// The initrd file.
    pub initrd: PathBuf,
    /// The exact command line.
    pub cmdline: String,
    /// The root disk.
    pub root_disk: PathBuf,
    /// Its network.
    pub network: Link,
    /// Ports.
    pub forwards: Vec<Forward>,
    /// Its GPUs.
    pub passthrough: Option<Passthrough>,
    /// Disks for tests.
    pub extra_disks: Vec<ExtraDisk>,
    /// Consoles for tests.
    pub consoles: Vec<Console>,
}

impl Machine {
    /// QEMU's arguments, all of them.
    #[must_use]
    pub fn arguments(&self, qemu: &Qemu, paths: &VmPaths, accel: Accel) -> Arguments {
        let mut args = Arguments::default();
        args.option("-name", KeyVal::new(&format!("casemate-{}", self.name)));
        args.flag("-nodefaults");
        args.flag("-no-user-config");
        args.option("-display", "none");
        args.flag("-no-reboot");
        if qemu.sandbox {
            let deny = KeyVal::new("on").with("obsolete", "deny");
            let deny = deny.with("elevateprivileges", "deny").with("spawn", "deny");
            args.option("-sandbox", deny.with("resourcecontrol", "deny"));
        }
        self.processor(&mut args, qemu, accel);
        self.boot(&mut args, qemu, paths);
        self.disks(&mut args, paths);
        self.devices(&mut args);
        self.channels(&mut args, paths);
        if let Some(devices) = &self.passthrough {
            devices.arguments(&mut args);
        }
        for (index, console) in self.consoles.iter().enumerate() {
            add_console(&mut args, index, console);
        }
        args
    }

    /// Machine type, memory and vCPUs.
    fn processor(&self, args: &mut Arguments, qemu: &Qemu, accel: Accel) {
        let machine = KeyVal::new("q35").with("memory-backend", "ram").with("vmport", "off");
        let machine = machine.with("hpet", "off");
        let vcpus = self.shape.vcpus;
        let (machine, cpu) = match self.backing {
            Backing::Snp(sev) => {
                args.option("-object", self.sev_object(sev));
                let machine = machine.with("confidential-guest-support", "sev0");
                // A plan has a named model: QEMU refuses the text of any other.
                let cpu = KeyVal::new(&self.shape.cpu_model.to_string());
                let cpu = cpu.with("host-phys-bits", "on");
                (machine.with("kernel-irqchip", "split"), cpu)
            }
            // No silicon measures this processor: the digest has the shape's model all the same,
            // and the guest gets the most that QEMU can give.
            Backing::Simulated(_) if accel == Accel::Kvm => (machine, KeyVal::new("max")),
            // QEMU 7.2 leaves wrong flags behind CMPXCHG16B when vCPUs run in parallel, and the
            // kernel's allocator crashes on it early in some boots. Nothing needs it.
            Backing::Simulated(_) => (machine, KeyVal::new("max").with("cx16", "off")),
        };
        // Beside SNP the processor has what it is given; there it has what the host has.
        let cpu = match (&self.passthrough, self.backing) {
            (Some(devices), Backing::Simulated(_)) => cpu.with("phys-bits", devices.space.bits),
            _ => cpu,
        };
        args.option("-machine", machine);
        let accel = match accel {
            Accel::Tcg if qemu.version < LEAST_QEMU_PARALLEL_TCG => {
                KeyVal::new("tcg").with("thread", "single")
            }
            accel => KeyVal::new(&accel.to_string()),
        };
        args.option("-accel", accel);
        args.option("-cpu", cpu);
        args.option("-smp", KeyVal::default().with("cpus", vcpus).with("maxcpus", vcpus));
        args.option("-m", format_args!("{}M", self.memory.mib()));
        let ram = json!({
            "qom-type": "memory-backend-memfd",
            "id": "ram",
            "size": self.memory.bytes(),
            "share": true,
        });
        args.option("-object", ram);
    }

    fn sev_object(&self, sev: SevFacts) -> Value {
        let mut object = json!({
            "qom-type": "sev-snp-guest",
            "id": "sev0",
            "cbitpos": sev.cbitpos,
            "reduced-phys-bits": sev.reduced_phys_bits,
            "policy": self.policy.raw(),
            "kernel-hashes": true,
            "host-data": STANDARD.encode(self.host_data.as_bytes()),
        });
        if let Some(MachineIdBlock { block, auth, author_key_enabled }) = &self.id_block {
            object["id-block"] = json!(block);
            object["id-auth"] = json!(auth);
            object["author-key-enabled"] = json!(author_key_enabled);
        }
        object
    }

    /// Firmware, kernel, initrd and command line.
    fn boot(&self, args: &mut Arguments, qemu: &Qemu, paths: &VmPaths) {
        args.option("-bios", self.firmware.display());
        args.option("-kernel", self.kernel.display());
        args.option("-initrd", self.initrd.display());
        args.option("-append", &self.cmdline);
        let Backing::Simulated(table) = self.backing else { return };
        if qemu.version < LEAST_QEMU_PLAIN_KERNEL {
            // Without SEV an older QEMU writes boot parameters into the kernel's header before
            // the firmware sees it, so it would not hash to the table. Newer ones offer the
            // file as it is under this name, which the firmware prefers.
            let plain = KeyVal::default().with("name", "etc/boot/kernel");
            args.option("-fw_cfg", plain.with("file", self.kernel.display()));
        }
        let loader = json!({
            "driver": "loader",
            "file": text(&paths.hashes()),
            "addr": table.gpa,
            "force-raw": true,
        });
        args.option("-device", loader);
    }

    /// The disks, each found in the guest by its serial.
    fn disks(&self, args: &mut Arguments, paths: &VmPaths) {
        add_disk(args, "root", &self.root_disk, launch_config::ROOT_DISK_SERIAL);
        add_disk(args, "launch", &paths.launch_disk(), launch_config::DISK_SERIAL);
        for (index, disk) in self.extra_disks.iter().enumerate() {
            add_disk(args, &format!("extra{index}"), &disk.path, &disk.serial);
        }
    }

    /// Network and entropy.
    fn devices(&self, args: &mut Arguments) {
        args.option("-netdev", self.network.backend(&self.forwards));
        args.option("-device", virtio(self.network.card()));
        let entropy = json!({"qom-type": "rng-random", "id": "rng0", "filename": "/dev/urandom"});
        args.option("-object", entropy);
        args.option("-device", virtio(json!({"driver": "virtio-rng-pci", "rng": "rng0"})));
    }

    /// Stage codes, the simulated security processor and QMP. The supervisor listens, QEMU
    /// connects, so none of them is reachable by a name once the VM runs.
    fn channels(&self, args: &mut Arguments, paths: &VmPaths) {
        args.option("-device", virtio(json!({"driver": "virtio-serial-pci", "id": "serial0"})));
        add_port(args, 1, "stage", &paths.stage_socket(), stage::PORT);
        if self.backing.platform() == Platform::Simulated {
            add_port(args, 2, "psp", &paths.psp_socket(), simulated::PORT);
        }
        args.option("-chardev", socket("qmp", &paths.qmp_socket()));
        args.option("-mon", KeyVal::default().with("chardev", "qmp").with("mode", "control"));
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A guest whose memory is encrypted can share only what it chose to: every virtio device must
/// ask the guest's DMA layer for addresses. The simulated platform has the same devices.
fn virtio(mut device: Value) -> Value {
    device["iommu_platform"] = json!(true);
    device["disable-legacy"] = json!("on");
    device
}

fn socket(id: &str, path: &Path) -> KeyVal {
    KeyVal::new("socket").with("id", id).with("path", path.display()).with("server", "off")
}

fn add_port(args: &mut Arguments, number: u8, id: &str, path: &Path, name: &str) {
    args.option("-chardev", socket(id, path));
    let port = json!({
        "driver": "virtserialport",
        "bus": "serial0.0",
        "nr": number,
        "chardev": id,
        "name": name,
    });
    args.option("-device", port);
}

fn add_disk(args: &mut Arguments, id: &str, path: &Path, serial: &str) {
    let file = json!({
        "driver": "raw",
        "node-name": id,
        "read-only": true,
        "file": {"driver": "file", "filename": text(path), "read-only": true},
    });
    args.option("-blockdev", file);
    args.option(
        "-device",
        virtio(json!({"driver": "virtio-blk-pci", "drive": id, "serial": serial})),
    );
}

fn add_console(args: &mut Arguments, index: usize, console: &Console) {
    let id = format!("console{index}");
    let (path, device) = match console {
        Console::IsaSerial { path } => (path, json!({"driver": "isa-serial"})),
        Console::PciSerial { path } => (path, json!({"driver": "pci-serial"})),
        Console::Parallel { path } => (path, json!({"driver": "isa-parallel"})),
        Console::Debugcon { path, iobase } => {
            (path, json!({"driver": "isa-debugcon", "iobase": iobase}))
        }
        Console::Virtio { path } => {
            let bus = format!("vc{index}");
            args.option("-device", virtio(json!({"driver": "virtio-serial-pci", "id": bus})));
            (path, json!({"driver": "virtconsole", "bus": format!("{bus}.0")}))
        }
    };
    args.option("-chardev", KeyVal::new("file").with("id", &id).with("path", path.display()));
    let mut device = device;
    device["chardev"] = json!(id);
    args.option("-device", device);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_number_with_a_unit() {
        assert_eq!("2G".parse(), Memory::from_mib(2048));
        assert_eq!("512M".parse::<Memory>().unwrap().bytes(), 512 << 20);
        for text in ["", "2", "G", "255M", "-1G", "99999999G", "1.5G", "2G,maxmem=4G", "2 G"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }
}

//! What a host is, as values: read once by [`Inventory::probe`], judged by [`crate::doctor`],
//! saved as JSON and read back as a fixture of that host.
//!
//! Reading changes nothing on the host, and a fact that cannot be read is kept with its reason:
//! a host that hides something is described like any other.

mod cpu;
mod fabric;
mod files;
mod gpu_mode;
mod kernel;
mod pci;
mod qemu;
mod sev;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use cpu::{Cpu, CpuidLeaf};
pub(crate) use fabric::{FABRIC_MANAGER, SUBNET_MANAGER};
pub use fabric::{Fabric, SubnetManager};
pub use gpu_mode::{GpuMode, decode as decode_gpu_mode};
#[cfg(test)]
pub(crate) use kernel::is_about_the_subject;
pub use kernel::{Board, Kernel, Memory, Node};
pub use pci::{Address, Bar, Device, ParseAddressError};
pub use qemu::{QemuAnswers, SevCapabilities};
pub use sev::{Asids, KvmFacts, PlatformStatus};

/// Something that was read, or why it could not be.
pub type Fact<T> = Result<T, String>;

/// The CPUID instruction, or what stands for it: leaf and subleaf to EAX, EBX, ECX, EDX.
pub type Cpuid = fn(u32, u32) -> [u32; 4];

/// Everything that is asked of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Version of this format: [`Inventory::SCHEMA`].
    pub schema: u32,
    /// The processors.
    pub cpu: Cpu,
    /// The kernel and how it was started.
    pub kernel: Kernel,
    /// Board and BIOS.
    pub board: Board,
    /// Memory and its nodes.
    pub memory: Memory,
    /// KVM: its device, what it can start, its parameters.
    pub kvm: KvmFacts,
    /// What the security processor says of itself.
    pub sev: Fact<PlatformStatus>,
    /// How many encrypted VMs may run at once.
    pub asids: Fact<Asids>,
    /// Number of IOMMU groups.
    pub iommu_groups: usize,
    /// Whether `/dev/iommu` can be opened.
    pub iommufd: Fact<()>,
    /// Most bytes of memory that a process may lock; `None` when unlimited.
    pub memlock: Fact<Option<u64>>,
    /// What QEMU itself answers.
    pub qemu: Fact<QemuAnswers>,
    /// NVIDIA's devices, and the bridges of their fabrics.
    pub devices: Vec<Device>,
    /// Services that fabrics of GPUs need, and whether they run.
    pub services: BTreeMap<String, bool>,
    /// What manages the fabric beside them; inventories that were written before this field have
    /// none, and their `services` know NVLSM in a unit of its own alone.
    #[serde(default)]
    pub fabric: Option<Fabric>,
}

/// The memory of the host below `root`.
pub(crate) fn memory(root: &Path) -> Memory {
    kernel::memory(root)
}

impl Inventory {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// Reads the host under `root` (`/`, or a tree that stands for one). `qemu` is the binary
    /// that launches would use.
    #[must_use]
    pub fn probe(root: &Path, cpuid: Cpuid, qemu: Option<&Path>) -> Self {
        let fabric = fabric::probe(root);
        Self {
            schema: Self::SCHEMA,
            cpu: cpu::probe(root, cpuid),
            kernel: kernel::probe(root),
            board: kernel::board(root),
            memory: kernel::memory(root),
            kvm: sev::kvm(root),
            sev: sev::platform_status(root),
            asids: sev::asids(root),
            iommu_groups: files::entries(&root.join("sys/kernel/iommu_groups")).len(),
            iommufd: files::opens(&root.join("dev/iommu")),
            memlock: kernel::memlock(root),
            qemu: qemu::ask(qemu),
            devices: pci::probe(root),
            services: fabric::services(root, &fabric),
            fabric: Some(fabric),
        }
    }

    /// NVIDIA's devices of the host under `root`, and the bridges of their fabrics.
    #[must_use]
    pub fn devices(root: &Path) -> Vec<Device> {
        pci::probe(root)
    }

    /// One of them.
    #[must_use]
    pub fn device(root: &Path, address: Address) -> Option<Device> {
        pci::one(root, address)
    }
}

/// The CPUID instruction of this processor.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let found = std::arch::x86_64::__cpuid_count(leaf, subleaf);
    [found.eax, found.ebx, found.ecx, found.edx]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tree_is_an_inventory_of_reasons() {
        let root = tempfile::tempdir().unwrap();
        let nothing = Inventory::probe(root.path(), |_, _| [0; 4], Some(Path::new("/absent/qemu")));
        assert!(nothing.sev.is_err() && nothing.qemu.is_err() && nothing.kvm.device.is_err());
        assert!(nothing.devices.is_empty());
        let json = serde_json::to_string(&nothing).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), nothing);
    }

    #[test]
    fn this_machine_can_be_read() {
        let here = Inventory::probe(Path::new("/"), cpuid, None);
        assert!(here.cpu.threads > 0, "{here:?}");
        assert!(here.memory.total > 64 * 1024 * 1024, "{here:?}");
        let json = serde_json::to_string(&here).unwrap();
        assert_eq!(serde_json::from_str::<Inventory>(&json).unwrap(), here);
    }
}

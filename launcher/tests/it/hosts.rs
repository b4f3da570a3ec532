//! Hosts that stand for real ones: healthy machines of each kind, as inventories.

use std::collections::BTreeMap;

use casemate_launcher::host::QemuVersion;
use casemate_launcher::inventory::{
    Asids, Bar, Board, Cpu, CpuidLeaf, Device, Fabric, GpuMode, Inventory, Kernel, KvmFacts,
    Memory, Node, PlatformStatus, QemuAnswers, SevCapabilities, SubnetManager,
};
use casemate_measurements::tcb::Tcb;

pub(crate) const GIB: u64 = 1024 * 1024 * 1024;

/// A healthy host without GPUs of a CPUID family and model.
pub(crate) fn epyc(family: u32, model: u32) -> Inventory {
    let tcb = match (family, model) {
        (26, _) => Tcb { fmc: 1, bootloader: 1, tee: 1, snp: 4, microcode: 0x51 },
        (25, 0..=15) => Tcb { fmc: 0, bootloader: 4, tee: 0, snp: 27, microcode: 0xde },
        (25, 160) => Tcb { fmc: 0, bootloader: 12, tee: 0, snp: 28, microcode: 28 },
        _ => Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 27, microcode: 0x56 },
    };
    let node = |id| Node { id, cpus: format!("{}-{}", id * 64, id * 64 + 63), total: 512 * GIB };
    Inventory {
        schema: Inventory::SCHEMA,
        cpu: Cpu {
            vendor: "AuthenticAMD".into(),
            name: "AMD EPYC".into(),
            family,
            model,
            stepping: if model == 160 { 2 } else { 1 },
            flags: ["sme", "sev", "sev_es", "sev_snp"].map(String::from).into(),
            sockets: 2,
            cores: 64,
            threads: 128,
            physical_bits: 52,
            encryption: CpuidLeaf { eax: 0x1a, ebx: 0x173, ecx: 509, edx: 100 },
        },
        kernel: Kernel {
            release: "6.17.0-amd64".into(),
            cmdline: Ok("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet".into()),
            lockdown: Ok("none".into()),
            messages: Ok(vec!["SEV-SNP: RMP table physical range [0x1000 - 0x2000]".into()]),
        },
        board: Board { name: "a board".into(), bios: "1.0 2026-02-01".into() },
        memory: Memory { total: 1024 * GIB, nodes: vec![node(0), node(1)] },
        kvm: KvmFacts {
            device: Ok(()),
            vm_types: Ok(0b1_1111),
            parameters: BTreeMap::from([("sev_snp".into(), "Y".into())]),
        },
        sev: Ok(PlatformStatus {
            api: (1, 58),
            build: 1,
            state: 1,
            guests: 0,
            reported_tcb: tcb,
            installed_tcb: tcb,
        }),
        asids: Ok(Asids { sev: 410, sev_es: 99 }),
        iommu_groups: 120,
        iommufd: Ok(()),
        memlock: Ok(None),
        qemu: Ok(QemuAnswers {
            path: "/usr/bin/qemu-system-x86_64".into(),
            version: QemuVersion { major: 10, minor: 1 },
            sandbox: true,
            snp_guest: true,
            iommufd: true,
            sev: Ok(SevCapabilities { cbitpos: 51, reduced_phys_bits: 1 }),
            cpu_models: ["EPYC-Genoa", "EPYC-Milan", "EPYC-Turin"].map(String::from).into(),
        }),
        devices: Vec::new(),
        services: BTreeMap::from([("nvidia-fabricmanager".into(), false), ("nvlsm".into(), false)]),
        fabric: Some(Fabric {
            subnet_manager: SubnetManager::Absent,
            mode: Err("fabricmanager.cfg: No such file or directory".into()),
        }),
    }
}

/// A device bound to `vfio-pci`, alone in its group, in a mode.
fn device(slot: u8, id: u16, class: u32, bars: &[(u8, u64)], mode: Option<GpuMode>) -> Device {
    Device {
        address: format!("0000:{slot:02x}:00.0").parse().unwrap(),
        vendor: 0x10de,
        device: id,
        subsystem_vendor: 0x10de,
        subsystem_device: 1,
        class,
        driver: Some("vfio-pci".into()),
        iommu_group: Some(slot.into()),
        group_mates: Vec::new(),
        numa_node: Some(u32::from(slot / 0x80)),
        bars: bars
            .iter()
            .map(|(index, size)| Bar { index: *index, size: *size, prefetchable: true, wide: true })
            .collect(),
        reset_methods: vec!["flr".into(), "bus".into()],
        vfio_cdev: true,
        manages_fabric: false,
        mode: mode.map(Ok),
    }
}

fn gpus(host: &mut Inventory, id: u16, registers_mib: u64, memory_gib: u64, mode: GpuMode) {
    let bars = [(0, registers_mib << 20), (2, memory_gib * GIB), (4, 32 << 20)];
    host.devices.extend((1..=8).map(|n| device(n * 0x1c, id, 0x03_0200, &bars, Some(mode))));
}

/// Eight H100 on an HGX board, all in ppcie with the four switches.
pub(crate) fn hgx_h100() -> Inventory {
    let mut host = epyc(25, 17);
    gpus(&mut host, 0x2330, 16, 128, GpuMode::Ppcie);
    let switch = |slot| device(slot, 0x22a3, 0x06_8000, &[(0, 32 << 20)], Some(GpuMode::Ppcie));
    host.devices.extend([0x05, 0x06, 0x85, 0x86].map(switch));
    for switch in host.devices.iter_mut().filter(|device| device.is_switch()) {
        switch.bars[0].prefetchable = false;
    }
    host
}

/// The same board, each GPU for a VM of its own.
pub(crate) fn hgx_h100_singles() -> Inventory {
    let mut host = hgx_h100();
    for device in &mut host.devices {
        device.mode = Some(Ok(if device.is_gpu() { GpuMode::On } else { GpuMode::Off }));
    }
    host
}

/// Eight RTX PRO 6000.
pub(crate) fn rtx_pro_6000() -> Inventory {
    let mut host = epyc(26, 2);
    gpus(&mut host, 0x2bb5, 64, 128, GpuMode::On);
    host
}

/// Eight B200 on an HGX board, with what manages the fabric running on the host.
pub(crate) fn b200() -> Inventory {
    blackwell(0x2901, 256)
}

/// Eight B300 on an HGX board.
pub(crate) fn b300() -> Inventory {
    blackwell(0x3182, 512)
}

fn blackwell(id: u16, bar2_gib: u64) -> Inventory {
    let mut host = epyc(26, 2);
    gpus(&mut host, id, 64, bar2_gib, GpuMode::On);
    let mut bridge = device(0x07, 0x1021, 0x02_0700, &[], None);
    (bridge.vendor, bridge.driver) = (0x15b3, Some("mlx5_core".into()));
    bridge.manages_fabric = true;
    host.devices.push(bridge);
    host.services.values_mut().for_each(|runs| *runs = true);
    // As stock installs have it: NVLSM has no unit of its own.
    host.fabric = Some(Fabric { subnet_manager: SubnetManager::FabricManager, mode: Ok(1) });
    host
}

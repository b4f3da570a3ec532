//! The doctor finds nothing wrong with healthy hosts, and exactly what was broken in others.

use casemate_launcher::doctor::{Diagnosis, Level, examine};
use casemate_launcher::host::QemuVersion;
use casemate_launcher::inventory::{GpuMode, Inventory};
use casemate_launcher::profile::Profiles;

use crate::hosts::{b200, b300, epyc, hgx_h100, rtx_pro_6000};

fn diagnose(host: &Inventory) -> Diagnosis {
    examine(host, &Profiles::shipped().unwrap())
}

/// What is not as it should be, each check once.
fn complaints(host: &Inventory) -> Vec<(&'static str, Level)> {
    let diagnosis = diagnose(host);
    let mut found: Vec<_> = diagnosis
        .findings()
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| (finding.check, finding.level))
        .collect();
    found.dedup();
    found
}

#[test]
fn healthy_hosts_are_fit() {
    for (family, model) in [(25, 1), (25, 17), (26, 2)] {
        assert_eq!(complaints(&epyc(family, model)), []);
    }
    for host in [rtx_pro_6000(), hgx_h100()] {
        assert_eq!(complaints(&host), []);
        assert!(diagnose(&host).is_fit());
    }
    // Windows of 128 GiB fit below what is reserved under 1 TiB, larger ones do not.
    for host in [b200(), b300()] {
        assert_eq!(complaints(&host), [("gpu.firmware-window", Level::Warning)]);
        assert!(diagnose(&host).is_fit());
    }
}

/// A check, how bad it is, and what breaks a host so that it is found.
type Breakage = (&'static str, Level, fn(&mut Inventory));

const BROKEN_PLATFORM: &[Breakage] = &[
    ("cpu.product", Level::Problem, |h| h.cpu.vendor = "GenuineIntel".into()),
    ("cpu.bare-metal", Level::Problem, |h| _ = h.cpu.flags.insert("hypervisor".into())),
    ("cpu.snp", Level::Problem, |h| h.cpu.encryption.eax = 0xa),
    ("cpu.snp-in-use", Level::Problem, |h| _ = h.cpu.flags.remove("sev_snp")),
    ("kernel.version", Level::Problem, |h| h.kernel.release = "6.8.0-45-generic".into()),
    ("kernel.cmdline", Level::Problem, |h| h.kernel.cmdline = Ok("quiet iommu=pt".into())),
    ("kernel.cmdline", Level::Unknown, |h| h.kernel.cmdline = Err("denied".into())),
    ("kernel.rmp", Level::Problem, |h| {
        let line = "SEV-SNP: Memory for the RMP table has not been reserved by BIOS";
        h.kernel.messages = Ok(vec![line.into()]);
    }),
    ("kernel.rmp", Level::Unknown, |h| h.kernel.messages = Err("/dev/kmsg: denied".into())),
    ("kvm.device", Level::Problem, |h| h.kvm.device = Err("/dev/kvm: denied".into())),
    ("kvm.snp", Level::Problem, |h| _ = h.kvm.parameters.insert("sev_snp".into(), "N".into())),
    ("kvm.vm-types", Level::Problem, |h| h.kvm.vm_types = Ok(0b1111)),
    ("kvm.asids", Level::Problem, |h| h.asids.as_mut().unwrap().sev_es = 0),
    ("sev.firmware", Level::Problem, |h| h.sev = Err("/dev/sev: No such file".into())),
    ("sev.firmware", Level::Unknown, |h| h.sev = Err("/dev/sev: Permission denied".into())),
    ("sev.firmware", Level::Problem, |h| h.sev.as_mut().unwrap().state = 0),
    ("sev.tcb-committed", Level::Warning, |h| {
        h.sev.as_mut().unwrap().installed_tcb.microcode += 1;
    }),
    ("sev.tcb-floor", Level::Warning, |h| {
        let status = h.sev.as_mut().unwrap();
        status.reported_tcb.snp -= 1;
        status.installed_tcb = status.reported_tcb;
    }),
    ("iommu.groups", Level::Problem, |h| h.iommu_groups = 0),
    ("memory.nodes", Level::Warning, |h| h.memory.nodes[1].total = 0),
    ("qemu.version", Level::Problem, |h| h.qemu = Err("cannot start qemu".into())),
    ("qemu.version", Level::Problem, |h| {
        h.qemu.as_mut().unwrap().version = QemuVersion { major: 9, minor: 0 };
    }),
    ("qemu.snp-guest", Level::Problem, |h| h.qemu.as_mut().unwrap().snp_guest = false),
    ("qemu.sandbox", Level::Warning, |h| h.qemu.as_mut().unwrap().sandbox = false),
    ("qemu.sev", Level::Unknown, |h| h.qemu.as_mut().unwrap().sev = Err("not here".into())),
    ("qemu.sev", Level::Problem, |h| {
        h.qemu.as_mut().unwrap().sev.as_mut().unwrap().cbitpos = 47;
    }),
    ("qemu.cpu-model", Level::Warning, |h| h.qemu.as_mut().unwrap().cpu_models.clear()),
];

#[test]
fn each_broken_platform_is_told_by_its_own_finding() {
    for (check, level, destroy) in BROKEN_PLATFORM {
        let mut host = epyc(25, 17);
        destroy(&mut host);
        let found = complaints(&host);
        assert_eq!(found, [(*check, *level)], "{check}");
        assert_eq!(diagnose(&host).is_fit(), *level != Level::Problem, "{check}");
        let diagnosis = diagnose(&host);
        let finding = diagnosis.findings().iter().find(|f| f.check == *check).unwrap();
        assert!(finding.mend.as_ref().is_some_and(|mend| mend.len() > 20), "{check}");
    }
}

const BROKEN_GPUS: &[Breakage] = &[
    ("iommu.iommufd", Level::Problem, |h| h.iommufd = Err("/dev/iommu: absent".into())),
    ("limits.memlock", Level::Warning, |h| h.memlock = Ok(Some(8 << 20))),
    ("kernel.lockdown", Level::Warning, |h| h.kernel.lockdown = Ok("integrity".into())),
    ("qemu.version", Level::Warning, |h| {
        h.qemu.as_mut().unwrap().version = QemuVersion { major: 9, minor: 2 };
    }),
    ("qemu.version", Level::Problem, |h| {
        h.qemu.as_mut().unwrap().version = QemuVersion { major: 9, minor: 1 };
    }),
    ("qemu.iommufd", Level::Problem, |h| h.qemu.as_mut().unwrap().iommufd = false),
    ("gpu.window", Level::Warning, |h| h.devices[2].bars[1].size /= 2),
    ("gpu.window", Level::Problem, |h| h.devices[2].bars.clear()),
    ("gpu.numa", Level::Warning, |h| h.devices[2].numa_node = None),
    ("device.driver", Level::Problem, |h| h.devices[2].driver = Some("nvidia".into())),
    ("device.vfio-node", Level::Problem, |h| h.devices[2].vfio_cdev = false),
    ("device.iommu-group", Level::Problem, |h| h.devices[2].iommu_group = None),
    ("device.iommu-group", Level::Problem, |h| {
        let other = h.devices[3].address;
        h.devices[2].group_mates.push(other);
    }),
    ("device.reset", Level::Problem, |h| h.devices[2].reset_methods.clear()),
];

#[test]
fn each_broken_gpu_host_is_told_by_its_own_finding() {
    for (check, level, destroy) in BROKEN_GPUS {
        let mut host = rtx_pro_6000();
        destroy(&mut host);
        assert_eq!(complaints(&host), [(*check, *level)], "{check}");
    }
}

#[test]
fn modes_that_no_validator_accepts_are_told() {
    let with = |mode: Result<GpuMode, String>| {
        let mut host = rtx_pro_6000();
        host.devices.iter_mut().for_each(|gpu| gpu.mode = Some(mode.clone()));
        complaints(&host)
    };
    assert_eq!(with(Ok(GpuMode::Off)), [("gpu.mode", Level::Warning)]);
    assert_eq!(with(Ok(GpuMode::Devtools)), [("gpu.mode", Level::Problem)]);
    let asleep = with(Err("asleep".into()));
    assert_eq!(asleep, [("gpu.mode", Level::Unknown), ("gpus.mode", Level::Unknown)]);
    let mut mixed = rtx_pro_6000();
    mixed.devices[7].mode = Some(Ok(GpuMode::Off));
    let found = complaints(&mixed);
    assert_eq!(found, [("gpu.mode", Level::Warning), ("gpus.mode", Level::Problem)]);
}

#[test]
fn a_board_in_ppcie_is_whole() {
    let mut missing = hgx_h100();
    missing.devices.pop();
    assert_eq!(complaints(&missing), [("gpus.board", Level::Problem)]);
    let mut other = hgx_h100();
    other.devices.last_mut().unwrap().mode = Some(Ok(GpuMode::Off));
    assert_eq!(complaints(&other), [("gpus.board", Level::Problem)]);
    let mut seven = hgx_h100();
    seven.devices.remove(0);
    assert_eq!(complaints(&seven), [("gpus.board", Level::Problem)]);
}

#[test]
fn a_fabric_stays_on_the_host() {
    let mut given = b200();
    given.devices.last_mut().unwrap().driver = Some("vfio-pci".into());
    // Beside what its windows need of the firmware.
    assert_eq!(complaints(&given)[1..], [("fabric.bridge", Level::Problem)]);
    let mut stopped = b200();
    stopped.services.insert("nvlsm".into(), false);
    assert_eq!(complaints(&stopped)[1..], [("fabric.service", Level::Problem)]);
}

#[test]
fn a_gpu_of_no_family_is_no_reason_to_refuse_the_host() {
    let mut host = rtx_pro_6000();
    host.devices[0].device = 0x2bb1;
    let found = complaints(&host);
    let expected = [("gpu.family", Level::Warning), ("gpu.mode", Level::Warning)];
    assert_eq!(found, expected);
    assert!(diagnose(&host).is_fit());
}

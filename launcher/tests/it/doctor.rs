//! The doctor finds nothing wrong with healthy hosts, and exactly what was broken in others.

use casemate_launcher::doctor::{Diagnosis, Finding, Level, examine};
use casemate_launcher::host::QemuVersion;
use casemate_launcher::inventory::{GpuMode, Inventory, SubnetManager};
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
    for (family, model) in [(25, 17), (25, 160), (26, 2)] {
        assert_eq!(complaints(&epyc(family, model)), []);
    }
    // Validators accept chips of Milan by their ids alone.
    assert_eq!(complaints(&epyc(25, 1)), [("sev.chip-by-id", Level::Warning)]);
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

/// The kernel's log goes on with a line.
fn say(host: &mut Inventory, line: &str) {
    host.kernel.messages.as_mut().unwrap().push(line.into());
}

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
    // The failure outranks the line before it, which says how well it began.
    ("kernel.rmp", Level::Problem, |h| {
        say(
            h,
            "SEV-SNP: Memory reserved for the RMP table does \
        not cover full system RAM (expected 0x40500000 got 0x32100000)",
        );
    }),
    ("iommu.snp", Level::Problem, |h| {
        say(
            h,
            "AMD-Vi: SNP: IOMMU is configured in passthrough \
        mode, SNP cannot be supported.",
        );
    }),
    ("iommu.fault", Level::Warning, |h| {
        say(
            h,
            "AMD-Vi: Event logged [IO_PAGE_FAULT \
        device=0000:1c:00.0 domain=0x0 address=0x0 flags=0x20]",
        );
    }),
    ("sev.log", Level::Warning, |h| {
        say(
            h,
            "ccp 0000:46:00.5: SEV-SNP: failed to INIT rc -5, \
        error 0x3",
        );
    }),
    ("kernel.cmdline", Level::Problem, |h| h.kernel.cmdline = Ok("iommu.passthrough=on".into())),
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
    ("sev.tcb-floor", Level::Warning, |h| h.cpu.stepping = 0),
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
    ("device.reset", Level::Problem, |h| h.devices[2].reset_methods = vec!["bus".into()]),
    ("device.dead", Level::Warning, |h| {
        say(h, "vfio-pci 0000:54:00.0: not ready 65535ms after FLR; giving up");
    }),
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
fn failures_in_the_log_are_quoted_once_for_each_device() {
    let mut host = rtx_pro_6000();
    let line = |slot: &str, ms| {
        format!("vfio-pci 0000:{slot}:00.0: not ready {ms}ms after FLR; giving up")
    };
    for (slot, ms) in [("1c", 65535), ("54", 65535), ("1c", 32767), ("99", 65535)] {
        say(&mut host, &line(slot, ms));
    }
    let diagnosis = diagnose(&host);
    let found: Vec<_> = diagnosis.findings().iter().filter(|f| f.level != Level::Ok).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].device.as_deref(), Some("0000:1c:00.0"));
    assert_eq!(found[0].found, line("1c", 65535) + " (and 1 such lines more)");
    assert_eq!(found[1].found, line("54", 65535));
    assert!(found[0].mend.as_ref().unwrap().contains("power off and on"), "{found:?}");
    // Of a fabric that this host does not have.
    let mut host = rtx_pro_6000();
    say(&mut host, "nv-fabricmanager: FABRIC_MODE=0");
    say(&mut host, "SEV-SNP: something new about the RMP table");
    assert_eq!(complaints(&host), []);
    let mut host = b200();
    say(&mut host, "nv-fabricmanager: FABRIC_MODE=0");
    assert_eq!(complaints(&host)[0], ("fabric.mode", Level::Problem));
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
    let mut bare_metal = b200();
    bare_metal.fabric.as_mut().unwrap().mode = Ok(0);
    assert_eq!(complaints(&bare_metal)[1..], [("fabric.mode", Level::Problem)]);
}

fn finding(host: &Inventory, check: &str, word: &str) -> Finding {
    let diagnosis = diagnose(host);
    let found = diagnosis.findings().iter().find(|f| f.check == check && f.found.contains(word));
    found.unwrap_or_else(|| panic!("{check} says nothing of {word}")).clone()
}

/// Stock installs start NVLSM from Fabric Manager's unit; one more breaks the fabric.
#[test]
fn a_second_subnet_manager_is_never_advised() {
    let found = finding(&b200(), "fabric.service", "nvlsm");
    assert_eq!(found.level, Level::Ok);
    assert!(found.found.contains("control group of nvidia-fabricmanager"), "{}", found.found);
    let mut stopped = b200();
    stopped.services.insert("nvlsm".into(), false);
    stopped.fabric.as_mut().unwrap().subnet_manager = SubnetManager::Absent;
    let found = finding(&stopped, "fabric.service", "nvlsm");
    assert_eq!(found.level, Level::Problem);
    let mend = found.mend.unwrap();
    assert!(mend.contains("restart nvidia-fabricmanager"), "{mend}");
    assert!(mend.contains("never by hand"), "{mend}");
    // An inventory from before that was looked at says that there is no unit, and no more.
    let mut json = serde_json::to_value(&stopped).unwrap();
    json.as_object_mut().unwrap().remove("fabric");
    let old: Inventory = serde_json::from_value(json).unwrap();
    let found = finding(&old, "fabric.service", "nvlsm");
    assert_eq!(found.level, Level::Unknown);
    assert!(!found.mend.unwrap().contains("restart"), "a fabric that may well run is left alone");
    assert!(diagnose(&old).is_fit());
    let mut nothing = old;
    nothing.services.insert("nvidia-fabricmanager".into(), false);
    assert!(!diagnose(&nothing).is_fit());
}

#[test]
fn a_gpu_of_no_family_is_no_reason_to_refuse_the_host() {
    let mut host = rtx_pro_6000();
    host.devices[0].device = 0x2bb1;
    let found = complaints(&host);
    assert_eq!(found, [("gpu.family", Level::Warning)]);
    // It may be the host's own screen: whatever is the matter with it, no VM gets it.
    let gpu = &mut host.devices[0];
    (gpu.driver, gpu.iommu_group) = (Some("nvidia".into()), None);
    (gpu.reset_methods, gpu.bars) = (vec!["bus".into()], Vec::new());
    assert_eq!(complaints(&host), [("gpu.family", Level::Warning)]);
    assert!(diagnose(&host).is_fit());
}

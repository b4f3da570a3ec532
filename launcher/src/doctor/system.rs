//! IOMMU, memory and QEMU: what a launch uses beside SNP itself.

use casemate_measurements::tcb::Product;

use super::{Findings, Level, Texts, problem_unless, warning_unless};
use crate::host::{LEAST_QEMU_SNP, LEAST_QEMU_VFIO, QemuVersion};
use crate::inventory::{Device, Inventory, QemuAnswers};

/// The oldest QEMU that maps only shared pages for devices and boots with large windows quickly.
const GOOD_QEMU_VFIO: QemuVersion = QemuVersion { major: 10, minor: 1 };

pub(super) fn examine(host: &Inventory, findings: &mut Findings) {
    iommu(host, findings);
    memory(host, findings);
    match &host.qemu {
        Ok(qemu) => answers(host, qemu, findings),
        Err(reason) => findings.host(
            "qemu.version",
            Level::Problem,
            reason.clone(),
            Texts {
                why: "QEMU is what casemate launches VMs with",
                mend: "install QEMU 10.1 or newer (Debian: qemu-system-x86 of trixie-backports), \
                       or name it with --qemu",
            },
        ),
    }
}

fn has_gpus(host: &Inventory) -> bool {
    host.devices.iter().any(Device::is_gpu)
}

fn iommu(host: &Inventory, findings: &mut Findings) {
    findings.host(
        "iommu.groups",
        problem_unless(host.iommu_groups > 0),
        format!("{} groups", host.iommu_groups),
        Texts {
            why: "SNP is switched off without an IOMMU that is in use",
            mend: "enable the IOMMU (AMD-Vi) in the BIOS, and remove iommu=off from the kernel's \
                   command line",
        },
    );
    if !has_gpus(host) {
        return;
    }
    findings.host(
        "iommu.iommufd",
        problem_unless(host.iommufd.is_ok()),
        host.iommufd.clone().err().unwrap_or_else(|| "/dev/iommu can be opened".into()),
        Texts {
            why: "devices are given to VMs through iommufd",
            mend: "load the modules iommufd and vfio-pci (a kernel with CONFIG_IOMMUFD and \
                   CONFIG_VFIO_DEVICE_CDEV), and let your user open /dev/iommu",
        },
    );
    let (level, found) = match &host.memlock {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(None) => (Level::Ok, "unlimited".into()),
        Ok(Some(bytes)) => (Level::Warning, format!("{} MiB", bytes / (1024 * 1024))),
    };
    findings.host(
        "limits.memlock",
        level,
        found,
        Texts {
            why: "memory that a device can reach is locked and counts against this limit",
            mend: "raise it: LimitMEMLOCK=infinity in the unit, or memlock in limits.conf",
        },
    );
    if let Ok(mode) = &host.kernel.lockdown {
        findings.host(
            "kernel.lockdown",
            warning_unless(mode == "none"),
            mode.clone(),
            Texts {
                why: "a locked-down kernel lets nobody read a GPU's registers, so its mode stays \
                      unknown here",
                mend: "boot without Secure Boot's lockdown, or check the mode in another way",
            },
        );
    }
}

fn memory(host: &Inventory, findings: &mut Findings) {
    let gib = |bytes: u64| bytes / (1024 * 1024 * 1024);
    let nodes: Vec<String> = host
        .memory
        .nodes
        .iter()
        .map(|node| format!("node {}: {} GiB, threads {}", node.id, gib(node.total), node.cpus))
        .collect();
    let bare = host.memory.nodes.iter().any(|node| node.total == 0);
    findings.host(
        "memory.nodes",
        warning_unless(!bare && host.memory.total > 0),
        format!("{} GiB; {}", gib(host.memory.total), nodes.join("; ")),
        Texts {
            why: "a VM runs best on the memory next to its processors and GPUs",
            mend: "a node has no memory: populate its channels, or set one node per socket (NPS1)",
        },
    );
}

fn answers(host: &Inventory, qemu: &QemuAnswers, findings: &mut Findings) {
    let gpus = has_gpus(host);
    let least = if gpus { LEAST_QEMU_VFIO } else { LEAST_QEMU_SNP };
    let level = if qemu.version < least {
        Level::Problem
    } else {
        warning_unless(!gpus || qemu.version >= GOOD_QEMU_VFIO)
    };
    findings.host(
        "qemu.version",
        level,
        format!("{} {}", qemu.path.display(), qemu.version),
        Texts {
            why: "9.1 starts SNP guests, 9.2 gives them devices, 10.1 does so with large windows \
                  in minutes instead of an hour",
            mend: "install QEMU 10.1 or newer (Debian: qemu-system-x86 of trixie-backports)",
        },
    );
    findings.host(
        "qemu.snp-guest",
        problem_unless(qemu.snp_guest),
        if qemu.snp_guest { "has" } else { "lacks" }.to_owned() + " the object sev-snp-guest",
        Texts {
            why: "the object is how QEMU is told to start an SNP guest",
            mend: "use a QEMU that was built for x86-64 with KVM, 9.1 or newer",
        },
    );
    if gpus {
        findings.host(
            "qemu.iommufd",
            problem_unless(qemu.iommufd),
            if qemu.iommufd { "has" } else { "lacks" }.to_owned() + " the object iommufd",
            Texts {
                why: "devices are given to VMs through iommufd",
                mend: "use a QEMU that was built with iommufd, 8.2 or newer",
            },
        );
    }
    findings.host(
        "qemu.sandbox",
        warning_unless(qemu.sandbox),
        if qemu.sandbox { "has" } else { "lacks" }.to_owned() + " a seccomp sandbox",
        Texts {
            why: "a guest that breaks out of QEMU should find a locked room",
            mend: "use a QEMU that was built with seccomp, as Debian's is",
        },
    );
    let leaf = host.cpu.encryption.ebx & 0x3f;
    let (level, found) = match &qemu.sev {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(sev) => {
            let agrees = u32::from(sev.cbitpos) == leaf;
            let found = format!(
                "C-bit {}, {} address bits fewer; CPUID says C-bit {leaf}",
                sev.cbitpos, sev.reduced_phys_bits
            );
            (problem_unless(agrees), found)
        }
    };
    findings.host(
        "qemu.sev",
        level,
        found,
        Texts {
            why: "QEMU must know which address bit marks encrypted memory",
            mend: "let your user open /dev/sev and /dev/kvm, and mend the findings above",
        },
    );
    let Some(product) = super::platform::product(host) else { return };
    let model = match product {
        Product::Milan => "EPYC-Milan",
        Product::Genoa => "EPYC-Genoa",
        Product::Turin => "EPYC-Turin",
    };
    findings.host(
        "qemu.cpu-model",
        warning_unless(qemu.cpu_models.iter().any(|name| name == model)),
        qemu.cpu_models.join(" "),
        Texts {
            why: "a VM that claims an older processor than it has lacks its instructions",
            mend: "use a newer QEMU (EPYC-Turin is in 10.1), or a release whose table lists an \
                   older model",
        },
    );
}

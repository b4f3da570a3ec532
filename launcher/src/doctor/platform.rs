//! Processor, kernel, KVM and security processor: can an SNP guest start at all?

use casemate_measurements::appraisal::Policy;
use casemate_measurements::silicon::{self, Line};
use casemate_measurements::tcb::{Product, Tcb};

use super::cmdline::forbidding;
use super::{Findings, Level, Texts, log, problem_unless};
use crate::inventory::Inventory;

/// The oldest kernel that starts SNP guests with what its developers released.
const LEAST_KERNEL: (u32, u32) = (6, 11);
/// `KVM_X86_SNP_VM`'s bit of `KVM_CAP_VM_TYPES`.
const VM_TYPE_SNP: u32 = 1 << 4;

pub(super) fn examine(host: &Inventory, findings: &mut Findings) {
    processor(host, findings);
    kernel(host, findings);
    kvm(host, findings);
    security_processor(host, findings);
}

/// The product of the processors.
pub(super) fn product(host: &Inventory) -> Option<Product> {
    let byte = |number: u32| u8::try_from(number).ok();
    Product::from_cpuid(byte(host.cpu.family)?, byte(host.cpu.model)?)
}

/// The silicon of the processors.
fn line(host: &Inventory) -> Option<Line> {
    let byte = |number: u32| u8::try_from(number).ok();
    let cpu = &host.cpu;
    Line::from_cpuid((byte(cpu.family)?, byte(cpu.model)?, byte(cpu.stepping)?))
}

fn processor(host: &Inventory, findings: &mut Findings) {
    let cpu = &host.cpu;
    let amd = cpu.vendor == "AuthenticAMD";
    let product = product(host).filter(|_| amd);
    findings.host(
        "cpu.product",
        problem_unless(product.is_some()),
        product.map_or_else(
            || format!("{} ({} family {} model {})", cpu.name, cpu.vendor, cpu.family, cpu.model),
            |product| format!("{} ({product}), {} sockets", cpu.name, cpu.sockets),
        ),
        Texts {
            why: "SEV-SNP is a feature of EPYC processors, and a verifier knows these products",
            mend: "use a machine with EPYC 7003 (Milan), 8004 or 9004 (Genoa) or 9005 (Turin)",
        },
    );
    let nested = cpu.flags.contains("hypervisor");
    findings.host(
        "cpu.bare-metal",
        problem_unless(!nested),
        if nested { "this is itself a virtual machine" } else { "bare metal" }.into(),
        Texts {
            why: "SNP guests cannot be started from within a virtual machine",
            mend: "run casemate on the bare-metal host",
        },
    );
    findings.host(
        "cpu.snp",
        problem_unless(cpu.has_snp()),
        format!("CPUID 0x8000001f EAX {:#x}", cpu.encryption.eax),
        Texts {
            why: "bit 4 says whether the processor offers SEV-SNP",
            mend: "in the BIOS set SMEE (memory encryption) and SEV-SNP support to enabled, for \
                   the processor and for the north bridge (NBIO)",
        },
    );
    let kernel_agrees = cpu.flags.contains("sev_snp");
    findings.host(
        "cpu.snp-in-use",
        problem_unless(kernel_agrees),
        format!("the kernel lists {:?}", cpu.flags.iter().collect::<Vec<_>>()),
        Texts {
            why: "the kernel takes sev_snp off its list when BIOS, IOMMU or RMP do not allow it",
            mend: "see the findings on RMP and IOMMU and `dmesg | grep -e SEV -e AMD-Vi`; the RMP \
                   must be reserved in the BIOS (SNP memory coverage)",
        },
    );
}

fn kernel(host: &Inventory, findings: &mut Findings) {
    let release = &host.kernel.release;
    let version = version(release);
    findings.host(
        "kernel.version",
        match version {
            Some(found) => problem_unless(found >= LEAST_KERNEL),
            None => Level::Unknown,
        },
        release.clone(),
        Texts {
            why: "KVM starts SNP guests from 6.11 on, and earlier ones measure otherwise",
            mend: "boot Linux 6.11 or newer (Debian 13 has 6.12)",
        },
    );
    let (level, found) = match &host.kernel.cmdline {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(cmdline) => {
            let wrong = forbidding(cmdline);
            let none = "nothing that switches SNP off".to_owned();
            let found = if wrong.is_empty() { none } else { wrong.join(" ") };
            (problem_unless(wrong.is_empty()), found)
        }
    };
    findings.host(
        "kernel.cmdline",
        level,
        found,
        Texts {
            why: "the IOMMU must translate every access with version 1 page tables, or the kernel \
                  switches SNP off",
            mend: "remove these words from the kernel's command line and reboot",
        },
    );
    rmp(host, findings);
}

/// The reverse map table as the kernel's log has it, unless the log tells its failure.
fn rmp(host: &Inventory, findings: &mut Findings) {
    if findings.has(log::RMP) {
        return;
    }
    let (level, found) = match &host.kernel.messages {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(messages) => {
            let set_up = |line: &&String| line.contains("RMP") && line.contains("physical");
            match messages.iter().find(set_up) {
                None => (Level::Unknown, "the kernel's log says nothing of an RMP".to_owned()),
                Some(line) => (Level::Ok, line.clone()),
            }
        }
    };
    findings.host(
        log::RMP,
        level,
        found,
        Texts {
            why: "the reverse map table says which guest owns which page; the BIOS reserves it",
            mend: "in the BIOS set SNP memory (RMP table) coverage to enabled; read the log as root",
        },
    );
}

/// Major and minor version of a release such as `6.12.107-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kvm(host: &Inventory, findings: &mut Findings) {
    let kvm = &host.kvm;
    findings.host(
        "kvm.device",
        problem_unless(kvm.device.is_ok()),
        kvm.device.clone().err().unwrap_or_else(|| "can be opened".into()),
        Texts {
            why: "QEMU starts guests through it",
            mend: "load kvm_amd, enable SVM in the BIOS, and add your user to the group kvm",
        },
    );
    let parameter = kvm.parameters.get("sev_snp").map_or("absent", String::as_str);
    findings.host(
        "kvm.snp",
        problem_unless(matches!(parameter, "Y" | "1")),
        format!("kvm_amd's parameter sev_snp is {parameter}"),
        Texts {
            why: "kvm_amd offers SNP only when processor, BIOS, IOMMU and security processor do",
            mend: "mend what is above, load the module ccp before kvm_amd, then reload kvm_amd",
        },
    );
    findings.host(
        "kvm.vm-types",
        match kvm.vm_types {
            Ok(types) => problem_unless(types & VM_TYPE_SNP != 0),
            Err(_) => Level::Unknown,
        },
        kvm.vm_types.clone().map_or_else(|reason| reason, |types| format!("{types:#x}")),
        Texts {
            why: "bit 4 of what KVM answers says whether it makes SNP guests",
            mend: "mend the findings above; a kernel without CONFIG_KVM_AMD_SEV cannot",
        },
    );
    let found = match &host.asids {
        Ok(asids) => format!("{} for SEV-ES and SNP, {} for SEV", asids.sev_es, asids.sev),
        Err(reason) => reason.clone(),
    };
    let level = match &host.asids {
        Ok(asids) => problem_unless(asids.sev_es > 0),
        Err(_) => Level::Unknown,
    };
    findings.host(
        "kvm.asids",
        level,
        found,
        Texts {
            why: "each running SNP guest takes one of these numbers",
            mend: "in the BIOS raise \"SEV-ES ASID space limit\" (100 gives 99 guests; 1 gives none)",
        },
    );
}

fn security_processor(host: &Inventory, findings: &mut Findings) {
    let status = match &host.sev {
        Ok(status) => status,
        Err(reason) => {
            // A host that lacks the device cannot start an SNP guest; one that hides it from
            // this user may.
            let denied = reason.contains("denied") || reason.contains("not known");
            let level = if denied { Level::Unknown } else { Level::Problem };
            return findings.host(
                "sev.firmware",
                level,
                reason.clone(),
                Texts {
                    why: "the security processor launches and measures every SNP guest",
                    mend: "load the module ccp and read this as root; if /dev/sev is missing, \
                           enable the security processor's driver and SNP in the BIOS",
                },
            );
        }
    };
    let (major, minor) = status.api;
    findings.host(
        "sev.firmware",
        problem_unless(status.state == 1),
        format!(
            "ABI {major}.{minor} build {}, state {}, {} guests",
            status.build, status.state, status.guests
        ),
        Texts {
            why: "SNP guests start only when the firmware is initialised (state 1)",
            mend: "reload ccp and kvm_amd; `dmesg | grep ccp` says what the firmware refused",
        },
    );
    let reported = status.reported_tcb;
    findings.host(
        "sev.tcb-committed",
        super::warning_unless(reported == status.installed_tcb),
        format!("attests {reported}, installed {}", status.installed_tcb),
        Texts {
            why: "validators hold the attested version against their floor, not the installed one",
            mend: "commit the installed firmware: `snphost commit`",
        },
    );
    attested_firmware(host, reported, findings);
}

/// Whether validators accept the firmware, by the rows that they hold reports to.
fn attested_firmware(host: &Inventory, reported: Tcb, findings: &mut Findings) {
    let Some(product) = product(host) else { return };
    let floors = Policy::strict().tcb_floor;
    let line = line(host).and_then(|line| Some((line, floors.get(&line)?)));
    let (level, found) = match line {
        Some((line, floor)) => (
            super::warning_unless(reported.is_at_least(floor)),
            format!(
                "attests {reported}; validators ask {line} for at least {floor} unless told \
                 otherwise"
            ),
        ),
        None => (
            Level::Warning,
            format!(
                "attests {reported}; for stepping {} of this {product} validators know no least \
                 firmware, and refuse it unless told otherwise",
                host.cpu.stepping
            ),
        ),
    };
    findings.host(
        "sev.tcb-floor",
        level,
        found,
        Texts {
            why: "a validator refuses machines whose firmware has known holes",
            mend: "install the newest BIOS, or newer SEV firmware (linux-firmware's amd/), and \
                   commit it: `snphost commit`",
        },
    );
    if let Some(why) = silicon::by_id_alone(product) {
        findings.host(
            "sev.chip-by-id",
            Level::Warning,
            format!("{product}: validators accept its chips by their ids alone"),
            Texts {
                why,
                mend: "tell validators the ids of this machine's chips (`snphost show \
                       identifier`): a policy accepts them by `chips.allow`",
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_kernels_are_read() {
        assert_eq!(version("6.12.107+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("six"), None);
    }
}

//! What the kernel's log says of failures: one table of the lines that are known, what each means
//! and what mends it. A line that the table does not know is no problem, whatever it mentions, and
//! a failure outranks the lines beside it that say how well something began.
//!
//! Texts: Linux 6.11 to 6.18, arch/x86/virt/svm/sev.c, drivers/iommu/amd, drivers/crypto/ccp,
//! arch/x86/kvm/svm, drivers/vfio, drivers/pci.

use super::{Findings, Level, Texts};
use crate::inventory::{Device, Inventory};

/// What a line must be about to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The host: always.
    Host,
    /// A device of the inventory, which the line names by its address.
    Device,
    /// The fabric of a board: where the host has one.
    Fabric,
}

/// A line that is known.
#[derive(Debug)]
struct Known {
    check: &'static str,
    level: Level,
    about: About,
    /// All of them stand in the line.
    parts: &'static [&'static str],
    why: &'static str,
    mend: &'static str,
}

/// The check of the reverse map table, which is also told where it is as it should be.
pub(super) const RMP: &str = "kernel.rmp";

const WHY_RMP: &str =
    "the reverse map table says which guest owns which page; without it there is no SNP";
const WHY_IOMMU: &str = "SNP is switched off unless the IOMMU translates every access of devices";
const WHY_FIRMWARE: &str = "the security processor launches and measures every SNP guest";
const WHY_DEAD: &str = "a device that does not answer is given to no VM";
const POWER: &str = "switch the host's power off and on again (a reboot leaves the device its power); if \
                     it comes back, update its firmware and the BIOS";

const fn host(
    check: &'static str,
    level: Level,
    parts: &'static [&'static str],
    why: &'static str,
    mend: &'static str,
) -> Known {
    Known { check, level, about: About::Host, parts, why, mend }
}

const fn device(
    check: &'static str,
    parts: &'static [&'static str],
    why: &'static str,
    mend: &'static str,
) -> Known {
    Known { check, level: Level::Warning, about: About::Device, parts, why, mend }
}

/// The table. Of a line the first row counts that knows it.
const TABLE: &[Known] = &[
    host(
        RMP,
        Level::Problem,
        &["RMP", "not been reserved"],
        WHY_RMP,
        "in the BIOS set SNP memory (RMP table) coverage to enabled",
    ),
    host(
        RMP,
        Level::Problem,
        &["RMP", "does not cover"],
        WHY_RMP,
        "in the BIOS set SNP memory (RMP table) coverage to all memory instead of an amount, and \
         again after memory was added",
    ),
    host(
        RMP,
        Level::Problem,
        &["RMP configuration not valid"],
        WHY_RMP,
        "update the BIOS: it set up a table that cannot be",
    ),
    host(
        RMP,
        Level::Problem,
        &["SEV-SNP: Invalid RMP"],
        WHY_RMP,
        "update the BIOS: it set up a table that cannot be",
    ),
    host(
        RMP,
        Level::Problem,
        &["RMP segment size", "not within"],
        WHY_RMP,
        "update the BIOS: it set up a table that cannot be",
    ),
    host(
        RMP,
        Level::Problem,
        &["Failed to map RMP"],
        WHY_RMP,
        "update the kernel and the BIOS: the table lies where the kernel cannot reach it",
    ),
    host(
        "iommu.snp",
        Level::Problem,
        &["AMD-Vi", "passthrough mode", "SNP cannot be supported"],
        WHY_IOMMU,
        "add iommu=nopt to the kernel's command line: its own configuration may pass everything \
         through (CONFIG_IOMMU_DEFAULT_PASSTHROUGH); remove iommu=pt, and enable the IOMMU in the \
         BIOS",
    ),
    host(
        "iommu.snp",
        Level::Problem,
        &["AMD-Vi", "V2 page table", "SNP cannot be supported"],
        WHY_IOMMU,
        "add amd_iommu=pgtbl_v1 to the kernel's command line, and remove pgtbl_v2",
    ),
    host(
        "iommu.snp",
        Level::Problem,
        &["AMD-Vi", "SNP feature not enabled"],
        WHY_IOMMU,
        "in the BIOS enable SEV-SNP for the north bridge (NBIO) too",
    ),
    host(
        "iommu.snp",
        Level::Problem,
        &["AMD-Vi", "SNP cannot be supported"],
        WHY_IOMMU,
        "enable the IOMMU in the BIOS, and mend what the findings on the RMP say",
    ),
    host(
        "iommu.hardware",
        Level::Warning,
        &["AMD-Vi", "Event logged [", "HARDWARE_ERROR"],
        "an IOMMU that errs keeps devices from VMs",
        POWER,
    ),
    host(
        "iommu.stuck",
        Level::Warning,
        &["AMD-Vi", "Completion-Wait loop timed out"],
        "the IOMMU waited in vain for a device to let go of addresses",
        POWER,
    ),
    host(
        "iommu.stuck",
        Level::Warning,
        &["AMD-Vi", "IOTLB_INV_TIMEOUT"],
        "the IOMMU waited in vain for a device to let go of addresses",
        POWER,
    ),
    host(
        "iommu.fault",
        Level::Warning,
        &["AMD-Vi", "RMP_PAGE_FAULT"],
        "a device reached for memory that a confidential VM owns, and was refused",
        "find the driver of that device and update it and the kernel",
    ),
    host(
        "iommu.fault",
        Level::Warning,
        &["AMD-Vi", "IO_PAGE_FAULT"],
        "a device reached for memory that it was not given, and was refused",
        "a GPU whose VM was killed may do so once; if it goes on, reset the device (`casemate host \
         release ADDRESS`), and update its firmware and its driver",
    ),
    host(
        "kernel.rmpupdate",
        Level::Warning,
        &["RMPUPDATE failed"],
        "a page could not be given to a guest or taken back from one; that guest ends",
        "update the kernel: such failures were its faults, and were mended in later ones",
    ),
    host(
        "sev.log",
        Level::Warning,
        &["SEV", "failed to INIT"],
        WHY_FIRMWARE,
        "boot by UEFI, let the RMP cover all memory and update the BIOS; then reload ccp and \
         kvm_amd",
    ),
    host(
        "sev.log",
        Level::Warning,
        &["SNP_DF_FLUSH failed"],
        WHY_FIRMWARE,
        "update the BIOS; then reload ccp and kvm_amd",
    ),
    host(
        "sev.log",
        Level::Warning,
        &["timed out, disabling PSP"],
        WHY_FIRMWARE,
        "boot the host again, and update the BIOS if it comes back",
    ),
    host(
        "sev.log",
        Level::Warning,
        &["unable to access the device: you might be running a broken BIOS"],
        WHY_FIRMWARE,
        "in the BIOS enable the security processor (PSP), or update it",
    ),
    host(
        "sev.log",
        Level::Warning,
        &["SEV-SNP support requires firmware version"],
        WHY_FIRMWARE,
        "install newer SEV firmware: the newest BIOS, or linux-firmware's amd/",
    ),
    host(
        "kvm.log",
        Level::Problem,
        &["kvm", "isabled", "BIOS"],
        "KVM starts every VM",
        "in the BIOS enable SVM (virtualisation)",
    ),
    host(
        "kvm.log",
        Level::Problem,
        &["kvm", "disabled by bios"],
        "KVM starts every VM",
        "in the BIOS enable SVM (virtualisation)",
    ),
    host(
        "kvm.log",
        Level::Warning,
        &["kvm_amd: SEV-SNP unusable"],
        "each running SNP guest takes one number (ASID) of those for SEV-ES and SNP",
        "in the BIOS raise \"SEV-ES ASID space limit\" (100 gives 99 guests; 1 gives none)",
    ),
    host(
        "kvm.guest",
        Level::Warning,
        &["guest requested termination"],
        "a guest asked to be ended, with a set and a code: 0x0 are of the GHCB, 0x1 of Linux",
        "nothing on the host, unless each guest does so: then its release does not fit this \
         processor or firmware",
    ),
    host(
        "limits.log",
        Level::Warning,
        &["RLIMIT_MEMLOCK", "exceeded"],
        "memory that a device can reach is locked and counts against this limit",
        "raise it: LimitMEMLOCK=infinity in the unit, or memlock in limits.conf",
    ),
    host(
        "iommu.interrupts",
        Level::Warning,
        &["No interrupt remapping support"],
        "without it a device that a VM has can send interrupts to anyone",
        "enable the IOMMU and x2APIC in the BIOS, and remove intremap=off",
    ),
    device("device.dead", &["not ready", "giving up"], WHY_DEAD, POWER),
    device("device.dead", &["Unable to change power state"], WHY_DEAD, POWER),
    device("device.dead", &["Refused to change power state"], WHY_DEAD, POWER),
    device("device.dead", &["fallen off the bus"], WHY_DEAD, POWER),
    device(
        "device.bus-error",
        &["(Fatal)"],
        "after such an error the link to the device is down",
        "seat the card and its risers anew, update the board's firmware; then switch the host's \
         power off and on again",
    ),
    device(
        "device.window",
        &["BAR ", "can't reserve"],
        "someone else on the host holds a window of the device, mostly a boot screen",
        "add initcall_blacklist=sysfb_init to the kernel's command line, or let the BIOS show its \
         screen on another card",
    ),
    Known {
        check: "fabric.mode",
        level: Level::Problem,
        about: About::Fabric,
        parts: &["nv-fabricmanager", "FABRIC_MODE=0"],
        why: super::gpu::WHY_FABRIC_MODE,
        mend: super::gpu::MEND_FABRIC_MODE,
    },
];

/// Tells every failure that is known, each once for a device, in the words of its first line.
pub(super) fn examine(host: &Inventory, has_fabric: bool, findings: &mut Findings) {
    let mut seen: Vec<(&Known, Option<&Device>, &str, usize)> = Vec::new();
    for line in host.kernel.messages.iter().flatten() {
        let named = host.devices.iter().find(|device| names(line, device));
        let matters = |known: &&Known| match known.about {
            About::Host => true,
            About::Device => named.is_some(),
            About::Fabric => has_fabric,
        };
        let Some(known) = TABLE.iter().filter(matters).find(|known| known.is_in(line)) else {
            continue;
        };
        let same = |(other, device, _, _): &&mut (&Known, Option<&Device>, &str, usize)| {
            std::ptr::eq(*other, known) && device.map(|d| d.address) == named.map(|d| d.address)
        };
        match seen.iter_mut().find(same) {
            Some((_, _, _, more)) => *more += 1,
            None => seen.push((known, named, line, 0)),
        }
    }
    for (known, device, line, more) in seen {
        let found = match more {
            0 => line.to_owned(),
            more => format!("{line} (and {more} such lines more)"),
        };
        let texts = Texts { why: known.why, mend: known.mend };
        match device {
            Some(device) => {
                findings.device(known.check, &device.address, known.level, found, texts);
            }
            None => findings.host(known.check, known.level, found, texts),
        }
    }
}

impl Known {
    fn is_in(&self, line: &str) -> bool {
        self.parts.iter().all(|part| line.contains(part))
    }
}

/// Whether a line names a device, with its function or, as NVIDIA's driver does, without.
fn names(line: &str, device: &Device) -> bool {
    let address = device.address.to_string();
    let slot = address.rsplit_once('.').map_or(address.as_str(), |(slot, _)| slot);
    line.contains(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of each row, as Linux writes it.
    const EXAMPLES: &[(&str, &str)] = &[
        (RMP, "SEV-SNP: Memory for the RMP table has not been reserved by BIOS"),
        (
            RMP,
            "SEV-SNP: Memory reserved for the RMP table does not cover full system RAM (expected \
             0x40500000 got 0x32100000)",
        ),
        (RMP, "SEV-SNP: Segmented RMP does not cover full system RAM (expected 0x2 got 0x1)"),
        (RMP, "SEV-SNP: RMP configuration not valid: base=0x2000, end=0x1000"),
        (RMP, "SEV-SNP: Invalid RMP size 0x2 for configured segment size 0x1"),
        (RMP, "SEV-SNP: RMP segment size (50) is not within advertised bounds (min=1, max=2)"),
        (RMP, "SEV-SNP: Failed to map RMP segment table addr 0x100"),
        (
            "iommu.snp",
            "AMD-Vi: SNP: IOMMU is configured in passthrough mode, SNP cannot be supported.",
        ),
        (
            "iommu.snp",
            "AMD-Vi: SNP: IOMMU disabled or configured in passthrough mode, SNP cannot be \
             supported.",
        ),
        (
            "iommu.snp",
            "AMD-Vi: SNP: IOMMU is configured with V2 page table mode, SNP cannot be supported.",
        ),
        ("iommu.snp", "AMD-Vi: SNP: IOMMU SNP feature not enabled, SNP cannot be supported."),
        ("iommu.snp", "AMD-Vi: SNP: RMP initialization failed, SNP cannot be supported."),
        ("iommu.hardware", "AMD-Vi: Event logged [DEV_TAB_HARDWARE_ERROR device=0000:01:00.0]"),
        ("iommu.stuck", "AMD-Vi: Completion-Wait loop timed out"),
        ("iommu.stuck", "AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=0000:01:00.0]"),
        ("iommu.fault", "AMD-Vi: Event logged [RMP_PAGE_FAULT vmg_tag=0x0, gpa=0x1]"),
        (
            "iommu.fault",
            "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x14 address=0x0]",
        ),
        ("kernel.rmpupdate", "SEV-SNP: RMPUPDATE failed for PFN 28357f7c, pg_level: 1, ret: 2"),
        ("sev.log", "ccp 0000:46:00.5: SEV-SNP: failed to INIT rc -5, error 0x3"),
        ("sev.log", "ccp 0000:46:00.5: SEV: failed to INIT error 0x13, rc -5"),
        ("sev.log", "ccp 0000:46:00.5: SEV-SNP: SNP_DF_FLUSH failed rc -5, error 0x1"),
        ("sev.log", "ccp 0000:46:00.5: sev command 0x81 timed out, disabling PSP"),
        (
            "sev.log",
            "ccp 0000:46:00.5: psp: unable to access the device: you might be running a broken \
             BIOS.",
        ),
        ("sev.log", "ccp 0000:46:00.5: SEV-SNP support requires firmware version >= 1:51"),
        ("kvm.log", "kvm_amd: SVM disabled (by BIOS) in MSR_VM_CR on CPU 3"),
        ("kvm.log", "kvm: disabled by bios"),
        ("kvm.log", "kvm_amd: SEV-SNP unusable (ASIDs 1 - 0)"),
        ("kvm.guest", "kvm_amd: SEV-ES guest requested termination: 0x1:0x2"),
        ("limits.log", "vfio_pin_pages_remote: RLIMIT_MEMLOCK (8388608) exceeded"),
        (
            "iommu.interrupts",
            "vfio_iommu_type1_attach_group: No interrupt remapping support.  Use the module param \
             \"allow_unsafe_interrupts\" to enable VFIO IOMMU support on this platform",
        ),
        ("device.dead", "vfio-pci 0000:1c:00.0: not ready 65535ms after FLR; giving up"),
        (
            "device.dead",
            "vfio-pci 0000:1c:00.0: Unable to change power state from D3cold to D0, device \
             inaccessible",
        ),
        ("device.dead", "vfio-pci 0000:1c:00.0: Refused to change power state from D0 to D3hot"),
        ("device.dead", "NVRM: Xid (PCI:0000:1c:00): 79, GPU has fallen off the bus."),
        (
            "device.bus-error",
            "pcieport 0000:1a:01.0: AER: Uncorrectable (Fatal) error message received from \
             0000:1c:00.0",
        ),
        (
            "device.bus-error",
            "vfio-pci 0000:1c:00.0: PCIe Bus Error: severity=Uncorrectable (Fatal), type=Inaccessible",
        ),
        ("device.window", "vfio-pci 0000:1c:00.0: BAR 2 [mem 0x1-0x2 64bit pref]: can't reserve"),
        ("fabric.mode", "nv-fabricmanager: FABRIC_MODE=0"),
    ];

    #[test]
    fn every_row_knows_a_line_that_the_inventory_keeps() {
        let mut unmet: Vec<&Known> = TABLE.iter().collect();
        for (check, line) in EXAMPLES {
            let known = TABLE.iter().find(|known| known.is_in(line));
            assert_eq!(known.map(|known| known.check), Some(*check), "{line}");
            assert!(crate::inventory::is_about_the_subject(line), "not kept: {line}");
            unmet.retain(|row| !std::ptr::eq(*row, known.unwrap()));
        }
        assert!(unmet.is_empty(), "without an example: {unmet:?}");
    }

    #[test]
    fn what_is_unknown_or_well_is_no_failure() {
        for line in [
            "SEV-SNP: RMP table physical range [0x0000000011500000 - 0x0000000051dfffff]",
            "SEV-SNP: RMP table physical address [0x100000 - 0x200000]",
            "SEV-SNP: Segmented RMP using 64GB segments",
            "SEV-SNP: RMP segment 1 physical address [0x1 - 0x2] covering [0x3 - 0x4]",
            "SEV-SNP: Reserving start/end of RMP table on a 2MB boundary [0x11400000]",
            "AMD-Vi: IOMMU SNP support enabled.",
            "AMD-Vi: Unknown option - 'on'",
            "ccp 0000:46:00.5: SEV API:1.55 build:21",
            "kvm_amd: SEV-SNP enabled (ASIDs 1 - 99)",
            "vfio-pci 0000:1c:00.0: not ready 1023ms after FLR; waiting",
            "vfio-pci 0000:1c:00.0: ready 2047ms after FLR",
            "vfio-pci 0000:1c:00.0: Relaying device request to user (#0)",
            "pcieport 0000:1a:01.0: AER: Corrected error message received from 0000:1c:00.0",
            "pcieport 0000:1a:01.0: PCIe Bus Error: severity=Uncorrectable (Non-Fatal)",
        ] {
            let known = TABLE.iter().find(|known| known.is_in(line));
            assert!(known.is_none(), "{line}: {known:?}");
        }
    }
}

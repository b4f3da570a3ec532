//! What QEMU's own words mean: why a VM did not run, told by its cause, and what a person can do.
//!
//! Texts of QEMU 7.2 to 11.1, `target/i386/sev.c` and `accel/kvm`; of the security processor,
//! AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification", status codes.

/// A cause that QEMU's words name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complaint {
    /// The cause, as a sentence goes on after "QEMU ended"; empty where the words say it already.
    pub meaning: &'static str,
    /// What a person can do.
    pub hint: &'static str,
}

/// Words that are known: all of them stand in one line.
type Known = (&'static [&'static str], Complaint);

const fn known(parts: &'static [&'static str], meaning: &'static str, hint: &'static str) -> Known {
    (parts, Complaint { meaning, hint })
}

/// Of a text the first row counts that knows a line of it.
const TABLE: &[Known] = &[
    known(
        // -EBUSY
        &["failed to initialize ret=-16"],
        "no number (ASID) is free for another encrypted VM",
        "each SEV-ES and SNP guest takes one: stop another VM, or raise \"SEV-ES ASID space limit\" \
         in the BIOS; `casemate host doctor` says how many there are",
    ),
    known(
        &["failed to initialize ret="],
        "KVM could not prepare an encrypted VM",
        "`casemate host doctor`, as root, says what keeps SNP guests from starting",
    ),
    known(
        &["SNP_LAUNCH_START", "fw_error=7 "],
        "the security processor does not allow the release's guest policy on this host",
        "the policy asks for what this host lacks: newer firmware, or SMT that is switched off; \
         `casemate run --plan` prints the policy, and a release with another one starts",
    ),
    known(
        &["SNP_LAUNCH_START"],
        "the security processor refused to begin the launch",
        "`casemate host doctor`, as root, says what keeps SNP guests from starting",
    ),
    known(
        &["SNP_LAUNCH_UPDATE"],
        "a page of the VM could not be measured in",
        "give the VM less memory, or end others: the host may be short of it; else update the \
         host's kernel",
    ),
    known(
        &["SNP_LAUNCH_FINISH", "fw_error=11 "],
        "the VM's launch digest is not the one that its ID block names",
        "fetch the release again: its ID block was signed for another launch",
    ),
    known(
        &["SNP_LAUNCH_FINISH", "fw_error=10 "],
        "a signature of the VM's ID block is not valid",
        "fetch the release again",
    ),
    known(
        &["SNP_LAUNCH_FINISH"],
        "the security processor refused to finish the launch",
        "`casemate host doctor`, as root, says what keeps SNP guests from starting",
    ),
    known(
        // KVM_EXIT_SYSTEM_EVENT, of which QEMU before 11 does not know the guest's termination.
        &["KVM: unknown exit reason 24"],
        "the guest asked to be ended (SEV termination)",
        "`dmesg | grep termination` on this host says why, as SET:CODE; of set 0x0, code 0x2, and \
         of set 0x1, the release does not fit this processor or firmware",
    ),
    known(
        &["KVM internal error"],
        "KVM could not execute an instruction of the guest",
        "the release may be damaged: fetch it again; else update the host's kernel",
    ),
    known(
        &["unable to find CPU model"],
        "",
        "this QEMU is too old for the CPU model: install a newer one, or choose another model that \
         the manifest lists with --cpu-model",
    ),
    known(&["hostfwd"], "", "another process uses the port: choose another, or none"),
    known(&["host forwarding"], "", "another process uses the port: choose another, or none"),
    known(
        &["Permission denied"],
        "",
        "QEMU's user must be able to read the release and to open /dev/kvm, /dev/sev and the \
         devices that are passed through: docs/serving.md has the rules for udev",
    ),
    known(
        &["Cannot allocate memory"],
        "",
        "the host has too little memory: choose less with --memory",
    ),
    known(
        &["cannot set up guest memory"],
        "",
        "the host has too little memory: choose less with --memory",
    ),
];

impl Complaint {
    /// The cause that a text of QEMU's names, if it is known.
    pub(crate) fn in_text(text: &str) -> Option<Self> {
        let in_a_line =
            |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        TABLE.iter().find(|(parts, _)| in_a_line(parts)).map(|(_, complaint)| *complaint)
    }
}

/// Why a guest asked to be ended, as GHCB and Linux number it (AMD 56421, "SEV-ES Guest-Hypervisor
/// Communication Block Standardization"; Linux, arch/x86/include/asm/sev-common.h).
pub(crate) const fn termination(set: u64, code: u64) -> &'static str {
    match (set, code) {
        (0, 0) => "a general request",
        (0, 1) => "no common version of the GHCB protocol",
        (0, 2) => "the host lacks an SNP feature that it insists on",
        (1, 0) => "the GHCB could not be registered",
        (1, 1) => "a page could not change between private and shared",
        (1, 2) => "a page could not be validated",
        (1, 3) => "it does not run at VMPL 0",
        (1, 4 | 5) => "the table of CPUID values is not what it can trust",
        (1, 6) => "the page with secrets is missing",
        _ => "of no reason that is known here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        for (text, said) in [
            (
                "qemu-system-x86_64: -accel kvm: sev_common_kvm_init: failed to initialize ret=-16 \
                 fw_error=0 ''\nqemu-system-x86_64: -accel kvm: failed to initialize kvm: \
                 Operation not permitted",
                "no number (ASID) is free",
            ),
            (
                "qemu-system-x86_64: sev_snp_launch_start: SNP_LAUNCH_START ret=-5 fw_error=7 \
                 'Policy is not allowed'\nqemu-system-x86_64: -accel kvm: sev_common_kvm_init: \
                 failed to create encryption context\nqemu-system-x86_64: -accel kvm: failed to \
                 initialize kvm: Operation not permitted",
                "does not allow the release's guest policy",
            ),
            (
                "qemu-system-x86_64: sev_snp_launch_finish: SNP_LAUNCH_FINISH ret=-5 fw_error=11 \
                 'Bad measurement'",
                "is not the one that its ID block names",
            ),
            (
                "KVM: unknown exit reason 24\nEAX=00000000 EBX=00000000",
                "the guest asked to be ended",
            ),
        ] {
            let complaint = Complaint::in_text(text).unwrap();
            assert!(complaint.meaning.contains(said), "{text}: {complaint:?}");
            assert!(!complaint.hint.to_ascii_lowercase().contains("tcg"), "{complaint:?}");
        }
        // Parts of a row that stand in two lines are no sign of it.
        assert_eq!(Complaint::in_text("SNP_X\nfw_error=7 "), None);
        for complaint in TABLE.iter().map(|(_, complaint)| complaint) {
            assert!(!complaint.hint.contains("--accel"), "{complaint:?}");
        }
    }
}

//! The processors.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Cpuid, files};

/// CPUID leaf 0x8000001f: memory encryption (AMD 24594, "APM volume 3", appendix E).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidLeaf {
    /// Which protections the processor has: bit 1 SEV, bit 3 SEV-ES, bit 4 SEV-SNP.
    pub eax: u32,
    /// Bits 5 to 0: position of the C-bit; bits 11 to 6: by how many bits addresses shrink.
    pub ebx: u32,
    /// Most encrypted guests.
    pub ecx: u32,
    /// Lowest ASID of a guest that is SEV only; those below are for SEV-ES and SNP.
    pub edx: u32,
}

/// The processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// `AuthenticAMD` or another.
    pub vendor: String,
    /// The marketing name.
    pub name: String,
    /// Family, model and stepping of CPUID leaf 1, extended parts included.
    pub family: u32,
    /// See [`Cpu::family`].
    pub model: u32,
    /// See [`Cpu::family`].
    pub stepping: u32,
    /// What the kernel says of memory encryption: some of `sme`, `sev`, `sev_es`, `sev_snp`,
    /// `hypervisor`.
    pub flags: BTreeSet<String>,
    /// Sockets.
    pub sockets: u32,
    /// Cores of all sockets.
    pub cores: u32,
    /// Threads of all sockets.
    pub threads: u32,
    /// Bits of a physical address.
    pub physical_bits: u32,
    /// What the processor says of memory encryption.
    pub encryption: CpuidLeaf,
}

impl Cpu {
    /// Whether the processor itself can SNP.
    #[must_use]
    pub const fn has_snp(&self) -> bool {
        self.encryption.eax & (1 << 4) != 0
    }
}

pub(super) fn probe(root: &Path, cpuid: Cpuid) -> Cpu {
    let text = files::text(&root.join("proc/cpuinfo")).unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let value = |key: &str| values(first, key).next().unwrap_or_default().to_owned();
    let number = |key: &str| value(key).parse().unwrap_or_default();
    let wanted = ["hypervisor", "sev", "sev_es", "sev_snp", "sme"];
    let distinct = |key: &str| values(&text, key).collect::<BTreeSet<_>>().len();
    let cores: BTreeSet<_> = values(&text, "physical id").zip(values(&text, "core id")).collect();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let [eax, ebx, ecx, edx] =
        if cpuid(0x8000_0000, 0)[0] >= 0x8000_001f { cpuid(0x8000_001f, 0) } else { [0; 4] };
    Cpu {
        vendor: value("vendor_id"),
        name: value("model name"),
        family: number("cpu family"),
        model: number("model"),
        stepping: number("stepping"),
        flags: value("flags")
            .split_whitespace()
            .filter(|flag| wanted.contains(flag))
            .map(str::to_owned)
            .collect(),
        sockets: count(distinct("physical id")),
        cores: count(cores.len()),
        threads: count(values(&text, "processor").count()),
        physical_bits: value("address sizes")
            .split_once(' ')
            .and_then(|(bits, _)| bits.parse().ok())
            .unwrap_or_default(),
        encryption: CpuidLeaf { eax, ebx, ecx, edx },
    }
}

/// Every value of a key of `/proc/cpuinfo`.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter(move |(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_per_socket() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let thread = |n, socket, core| {
            format!(
                "processor\t: {n}\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n\
                 model name\t: AMD EPYC 9454\nstepping\t: 1\nphysical id\t: {socket}\n\
                 core id\t\t: {core}\nflags\t\t: fpu sme sev sev_es sev_snp\n\
                 address sizes\t: 52 bits physical, 57 bits virtual\n"
            )
        };
        let text = [thread(0, 0, 0), thread(1, 0, 0), thread(2, 1, 0), thread(3, 1, 0)].join("\n");
        std::fs::write(root.path().join("proc/cpuinfo"), text).unwrap();
        let cpu = probe(root.path(), |leaf, _| {
            if leaf == 0x8000_0000 { [0x8000_0028, 0, 0, 0] } else { [0x1a, 0x173, 509, 100] }
        });
        assert_eq!((cpu.sockets, cpu.cores, cpu.threads, cpu.physical_bits), (2, 2, 4, 52));
        assert_eq!((cpu.family, cpu.model, cpu.stepping), (25, 17, 1));
        assert!(cpu.has_snp() && cpu.flags.contains("sev_snp") && !cpu.flags.contains("fpu"));
    }
}

//! The kernel, the board and the memory.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use serde::{Deserialize, Serialize};

use super::{Fact, files};

/// The kernel and how it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Its release, as `6.12.107-amd64`.
    pub release: String,
    /// Its command line.
    pub cmdline: Fact<String>,
    /// The lockdown mode in force: `none`, `integrity` or `confidentiality`.
    pub lockdown: Fact<String>,
    /// What it said since it booted of SEV, the security processor, the IOMMU, KVM, and devices
    /// that are passed through; of lines that differ in numbers alone, the first three.
    pub messages: Fact<Vec<String>>,
}

/// Board and BIOS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Who made it and which it is.
    pub name: String,
    /// Version and date of its BIOS.
    pub bios: String,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Bytes that the kernel has.
    pub total: u64,
    /// The nodes, by number.
    pub nodes: Vec<Node>,
}

/// A node of memory and processors near each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its number.
    pub id: u32,
    /// Its threads, as `0-31,64-95`.
    pub cpus: String,
    /// Its bytes of memory.
    pub total: u64,
}

pub(super) fn probe(root: &Path) -> Kernel {
    let lockdown = files::text(&root.join("sys/kernel/security/lockdown")).map(|text| {
        // The mode in force stands in brackets.
        text.split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map_or(text.clone(), |(mode, _)| mode.to_owned())
    });
    Kernel {
        release: files::text(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default(),
        cmdline: files::text(&root.join("proc/cmdline")),
        lockdown,
        messages: messages(&root.join("dev/kmsg")),
    }
}

/// Words of the lines that are kept of the kernel's log: what it says of SNP, its table, the
/// security processor, the IOMMU, KVM, devices that are passed through, their bus and fabric.
const WORDS: [&str; 15] = [
    "SEV",
    "ccp ",
    "AMD-Vi",
    "RMP",
    "kvm",
    "SVM",
    "vfio",
    "iommu",
    "IOMMU",
    "AER",
    "PCIe Bus Error",
    "NVRM",
    "power state",
    "not ready",
    "fabricmanager",
];
/// Most lines that are kept.
const MOST_LINES: usize = 400;
/// Most lines that are kept of one kind: those that differ in numbers alone.
const MOST_ALIKE: usize = 3;

/// Whether a line of the kernel's log is about what a confidential VM needs of the host.
pub(crate) fn is_about_the_subject(line: &str) -> bool {
    WORDS.iter().any(|word| line.contains(word))
}

/// The lines that matter of the kernel's log.
#[derive(Debug, Default)]
struct Kept {
    lines: Vec<String>,
    kinds: BTreeMap<String, usize>,
}

impl Kept {
    /// Takes a line of a record: the message, or after it, indented, what it is about.
    fn take(&mut self, line: &str) {
        if line.starts_with(' ') {
            return;
        }
        let text = line.split_once(';').map_or(line, |(_, text)| text);
        if !is_about_the_subject(text) || self.lines.len() >= MOST_LINES {
            return;
        }
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        // A fault that comes a million times must not keep out what is said once.
        let kind = text.chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        let known = self.kinds.entry(kind).or_default();
        *known += 1;
        if *known <= MOST_ALIKE {
            self.lines.push(text);
        }
    }
}

/// The lines that matter of the kernel's log.
fn messages(path: &Path) -> Fact<Vec<String>> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let refused = |error| format!("{}: {error}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(refused)?;
    let (mut kept, mut record) = (Kept::default(), vec![0; 8192]);
    // One read gives one record. The bound holds off a log that grows while it is read.
    for _ in 0..100_000 {
        let len = match file.read(&mut record) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            // The record was overwritten before it was read; the next one follows.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => continue,
            Err(error) => return Err(refused(error)),
        };
        String::from_utf8_lossy(&record[..len]).lines().for_each(|line| kept.take(line));
    }
    Ok(kept.lines)
}

pub(super) fn board(root: &Path) -> Board {
    let dmi = root.join("sys/class/dmi/id");
    let word = |name: &str| files::text(&dmi.join(name)).unwrap_or_default();
    let two = |a: &str, b: &str| format!("{} {}", word(a), word(b)).trim().to_owned();
    Board { name: two("board_vendor", "board_name"), bios: two("bios_version", "bios_date") }
}

pub(super) fn memory(root: &Path) -> Memory {
    let total = |path: &Path| {
        let text = files::text(path).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("MemTotal:"));
        let kib = line.and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    };
    let nodes = files::entries(&root.join("sys/devices/system/node"))
        .into_iter()
        .filter_map(|dir| {
            let id = dir.file_name()?.to_str()?.strip_prefix("node")?.parse().ok()?;
            let cpus = files::text(&dir.join("cpulist")).unwrap_or_default();
            Some(Node { id, cpus, total: total(&dir.join("meminfo")) })
        })
        .collect();
    Memory { total: total(&root.join("proc/meminfo")), nodes }
}

/// Of this process: QEMU inherits it.
pub(super) fn memlock(root: &Path) -> Fact<Option<u64>> {
    if root != Path::new("/") {
        return Err("not known of a tree that stands for a host".to_owned());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|error| error.to_string())?;
    Ok((hard != RLIM_INFINITY).then_some(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.12.107-amd64\n");
        write("proc/cmdline", "quiet iommu=pt\n");
        write("sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
        write("dev/kmsg", "6,1,2,-;SEV-SNP: RMP table physical range [0x1 - 0x2]\n DRIVER=ccp \n");
        write("proc/meminfo", "MemTotal:       1024 kB\nMemFree: 1 kB\n");
        write("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:       512 kB\n");
        write("sys/devices/system/node/node1/cpulist", "8-15\n");
        write("sys/devices/system/node/possible", "0-1\n");
        let kernel = probe(root.path());
        assert_eq!(kernel.release, "6.12.107-amd64");
        assert_eq!(kernel.lockdown.as_deref(), Ok("integrity"));
        assert_eq!(kernel.cmdline.as_deref(), Ok("quiet iommu=pt"));
        let said = kernel.messages.unwrap();
        assert_eq!(said, ["SEV-SNP: RMP table physical range [0x1 - 0x2]"]);
        let memory = memory(root.path());
        assert_eq!(memory.total, 1024 * 1024);
        let node = Node { id: 1, cpus: "8-15".into(), total: 512 * 1024 };
        assert_eq!(memory.nodes, [node]);
        assert!(memlock(root.path()).is_err());
    }

    #[test]
    fn a_line_that_comes_again_and_again_keeps_none_out() {
        let mut kept = Kept::default();
        for n in 0..10_000 {
            kept.take(&format!("4,{n},5,-;AMD-Vi: Event logged [IO_PAGE_FAULT address={n:#x}]"));
            kept.take(&format!("4,{n},5,-;usb {n}: new device"));
        }
        kept.take("4,1,5,-;vfio-pci 0000:1c:00.0: not ready 65535ms after FLR; giving up");
        assert_eq!(kept.lines.len(), MOST_ALIKE + 1);
        assert!(kept.lines[MOST_ALIKE].ends_with("giving up"));
    }
}

//! The security processor and KVM, as they answer themselves.

use std::collections::BTreeMap;
use std::path::Path;

use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use casemate_measurements::tcb::Tcb;

use super::{Fact, files};

/// `KVM_CAP_VM_TYPES`: a bit for each kind of VM (linux/kvm.h).
const CAP_VM_TYPES: core::ffi::c_ulong = 235;

/// KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvmFacts {
    /// Whether `/dev/kvm` can be opened.
    pub device: Fact<()>,
    /// Bit n is set when VMs of type n can be made; 4 is SNP.
    pub vm_types: Fact<u32>,
    /// Parameters of `kvm_amd`.
    pub parameters: BTreeMap<String, String>,
}

/// `SNP_PLATFORM_STATUS` (AMD 56860, "SEV Secure Nested Paging Firmware ABI Specification").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformStatus {
    /// Version of the ABI, major and minor.
    pub api: (u8, u8),
    /// Build of the firmware.
    pub build: u32,
    /// Whether SNP is initialised: 1.
    pub state: u8,
    /// Guests that exist now.
    pub guests: u32,
    /// What the firmware attests: [`Tcb`] of the product.
    pub reported_tcb: Tcb,
    /// What is installed.
    pub installed_tcb: Tcb,
}

/// How many encrypted VMs may run at once (`misc.capacity`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asids {
    /// VMs that are SEV only.
    pub sev: u64,
    /// SEV-ES and SNP.
    pub sev_es: u64,
}

pub(super) fn kvm(root: &Path) -> KvmFacts {
    let device = files::opens(&root.join("dev/kvm"));
    let vm_types = match (&device, root == Path::new("/")) {
        (Err(reason), _) => Err(reason.clone()),
        (Ok(()), false) => Err("not known of a tree that stands for a host".to_owned()),
        (Ok(()), true) => Kvm::new()
            .map(|kvm| u32::try_from(kvm.check_extension_raw(CAP_VM_TYPES)).unwrap_or_default())
            .map_err(|error| format!("/dev/kvm: {error}")),
    };
    let parameters = files::entries(&root.join("sys/module/kvm_amd/parameters"))
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some((name, files::text(&path).ok()?))
        })
        .collect();
    KvmFacts { device, vm_types, parameters }
}

pub(super) fn platform_status(root: &Path) -> Fact<PlatformStatus> {
    let device = root.join("dev/sev");
    files::opens(&device)?;
    if root != Path::new("/") {
        return Err("not known of a tree that stands for a host".to_owned());
    }
    let refused = |what: &dyn std::fmt::Display| format!("{}: {what}", device.display());
    let mut firmware = sev::firmware::host::Firmware::open().map_err(|error| refused(&error))?;
    let status = firmware.snp_platform_status().map_err(|error| refused(&error))?;
    Ok(PlatformStatus {
        api: status.version,
        build: status.build_id,
        state: status.state,
        guests: status.guest_count,
        reported_tcb: tcb(status.reported_tcb_version),
        installed_tcb: tcb(status.platform_tcb_version),
    })
}

fn tcb(found: sev::firmware::host::TcbVersion) -> Tcb {
    Tcb {
        fmc: found.fmc.unwrap_or_default(),
        bootloader: found.bootloader,
        tee: found.tee,
        snp: found.snp,
        microcode: found.microcode,
    }
}

pub(super) fn asids(root: &Path) -> Fact<Asids> {
    let path = root.join("sys/fs/cgroup/misc.capacity");
    let text = files::text(&path)?;
    let count = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    };
    Ok(Asids { sev: count("sev"), sev_es: count("sev_es") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asids_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        assert!(asids(root.path()).unwrap_err().contains("misc.capacity"));
        let dir = root.path().join("sys/fs/cgroup");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("misc.capacity"), "sev 410\nsev_es 99\n").unwrap();
        assert_eq!(asids(root.path()), Ok(Asids { sev: 410, sev_es: 99 }));
    }

    #[test]
    fn kvm_answers_itself() {
        let facts = kvm(Path::new("/"));
        if facts.device.is_ok() {
            assert!(facts.vm_types.is_ok(), "{facts:?}");
        } else {
            eprintln!("skipped: /dev/kvm cannot be opened: {:?}", facts.device);
        }
    }
}

//! Which GPUs and `NVSwitches` the bus has.
//!
//! The host made the bus, so this is its word: what counts is what the devices sign.

use std::io;
use std::path::PathBuf;

use casemate_measurements::gpu_evidence::chip_of;

use crate::sysfs::{SysRoot, attribute, names};

/// NVIDIA.
const VENDOR: &str = "0x10de";
/// Classes of GPUs, without the programming interface: VGA and 3D controllers.
const GPU_CLASSES: [&str; 2] = ["0x0300", "0x0302"];
/// The class of an `NVSwitch`: another bridge.
const SWITCH_CLASS: &str = "0x0680";

/// Why the bus cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// sysfs could not be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A device's address or number is not what the kernel writes.
    #[error("the PCI device {name} is malformed")]
    Malformed {
        /// The device.
        name: String,
    },
}

/// A GPU on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its directory in sysfs.
    pub path: PathBuf,
    /// Domain, bus and device.
    pub address: (u32, u32, u32),
    /// Its PCI device number.
    pub device: u16,
}

impl Gpu {
    /// Its chip, if it is one that casemate knows.
    #[must_use]
    pub fn chip(&self) -> Option<&'static str> {
        chip_of(self.device)
    }

    /// The driver that it is bound to.
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let target = std::fs::read_link(self.path.join("driver")).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }
}

/// What the bus has of NVIDIA's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The GPUs, by address.
    pub gpus: Vec<Gpu>,
    /// How many `NVSwitches`.
    pub switches: usize,
}

impl Found {
    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.gpus.is_empty() && self.switches == 0
    }
}

/// Looks at the bus.
///
/// # Errors
/// When sysfs cannot be read, or says nonsense.
pub fn scan(root: &SysRoot) -> Result<Found, PciError> {
    let bus = root.path("sys/bus/pci/devices");
    let names = match names(&bus) {
        // A machine without a PCI bus has no GPU on it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::default()),
        names => names.map_err(|source| PciError::List { path: bus.clone(), source })?,
    };
    let mut found = Found::default();
    for name in names {
        let path = bus.join(&name);
        let read = |what: &str| attribute(&path.join(what)).unwrap_or_default();
        if read("vendor") != VENDOR {
            continue;
        }
        let class = read("class");
        if class.starts_with(SWITCH_CLASS) {
            found.switches += 1;
        } else if GPU_CLASSES.iter().any(|gpu| class.starts_with(gpu)) {
            let device = read("device");
            let device =
                device.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
            let (Some(address), Some(device)) = (address(&name), device) else {
                return Err(PciError::Malformed { name });
            };
            found.gpus.push(Gpu { path, address, device });
        }
    }
    Ok(found)
}

/// Reads `0000:01:00.0`.
fn address(name: &str) -> Option<(u32, u32, u32)> {
    let (rest, _function) = name.split_once('.')?;
    let mut parts = rest.split(':').map(|hex| u32::from_str_radix(hex, 16).ok());
    match (parts.next()??, parts.next()??, parts.next()??, parts.next()) {
        (domain, bus, device, None) => Some((domain, bus, device)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_nvidia_s_gpus_and_switches_count() {
        let dir = tempfile::tempdir().unwrap();
        let root = SysRoot::new(dir.path());
        assert!(scan(&root).unwrap().is_empty());
        let put = |name: &str, vendor: &str, device: &str, class: &str| {
            let at = dir.path().join("sys/bus/pci/devices").join(name);
            fs::create_dir_all(&at).unwrap();
            for (file, text) in [("vendor", vendor), ("device", device), ("class", class)] {
                fs::write(at.join(file), format!("{text}\n")).unwrap();
            }
        };
        put("0000:00:02.0", "0x1af4", "0x1041", "0x020000");
        put("0000:01:00.0", "0x10de", "0x2330", "0x030200");
        put("0001:0a:1f.0", "0x10de", "0x2bb5", "0x030000");
        put("0000:02:00.1", "0x10de", "0x22be", "0x040300");
        put("0000:03:00.0", "0x10de", "0x22a3", "0x068000");
        let found = scan(&root).unwrap();
        let gpus: Vec<_> = found.gpus.iter().map(|gpu| (gpu.address, gpu.chip())).collect();
        assert_eq!(gpus, [((0, 1, 0), Some("GH100")), ((1, 10, 31), Some("GB202"))]);
        assert_eq!(found.switches, 1);
        assert_eq!(found.gpus[0].driver(), None);
        put("0000:04:00.0", "0x10de", "2330", "0x030200");
        assert!(matches!(scan(&root), Err(PciError::Malformed { name }) if name.contains(":04:")));
    }
}

//! NVIDIA's devices on the PCI bus and the bridges of their fabrics, as sysfs shows them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::gpu_mode::{self, GpuMode};
use super::{Fact, files};

/// NVIDIA.
pub(crate) const NVIDIA: u16 = 0x10de;
/// The ConnectX-7 functions through which a host reaches the switches of an HGX B200 or B300.
const FABRIC_BRIDGE: (u16, u16) = (0x15b3, 0x1021);
/// What the product data of such a bridge holds (`SMDL=SW_MNG`).
const FABRIC_BRIDGE_MARK: &[u8] = b"SW_MNG";
/// Most bytes of product data that are looked at.
const MAX_VPD: u64 = 32 * 1024;

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no PCI address: expected DOMAIN:BUS:DEVICE.FUNCTION, as 0000:41:00.0")]
pub struct ParseAddressError {
    text: String,
}

/// Where a function sits on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// Every address of its slot, whether or not there is a function.
    pub(crate) fn slot(self) -> impl Iterator<Item = Self> {
        (0..8).map(move |function| Self { function, ..self })
    }
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let parse = || {
            let hex = |part: &str, len: usize| {
                let plain = part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
                plain.then(|| u16::from_str_radix(part, 16).ok()).flatten()
            };
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let byte = |part, len| hex(part, len).and_then(|n| u8::try_from(n).ok());
            let (device, function) = (byte(device, 2)?, byte(function, 1)?);
            (device < 32 && function < 8).then_some(Self {
                domain: hex(domain, 4)?,
                bus: byte(bus, 2)?,
                device,
                function,
            })
        };
        parse().ok_or_else(|| ParseAddressError { text: text.chars().take(40).collect() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A window of memory of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// Which base address register: 0 to 5.
    pub index: u8,
    /// Its bytes, as they are set now.
    pub size: u64,
    /// Whether it may be prefetched.
    pub prefetchable: bool,
    /// Whether its address has 64 bits.
    pub wide: bool,
}

/// A function of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Where it sits.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// Which it is.
    pub device: u16,
    /// Who made the board.
    pub subsystem_vendor: u16,
    /// Which board it is.
    pub subsystem_device: u16,
    /// Class, subclass and interface.
    pub class: u32,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// Other functions in that group which are no bridges.
    pub group_mates: Vec<Address>,
    /// Its node of memory.
    pub numa_node: Option<u32>,
    /// Its windows.
    pub bars: Vec<Bar>,
    /// The ways in which the kernel can reset it, best first.
    pub reset_methods: Vec<String>,
    /// Whether `/dev/vfio/devices` has a node for it.
    pub vfio_cdev: bool,
    /// Whether it manages the fabric of a board and must stay on the host.
    pub manages_fabric: bool,
    /// The confidential-computing mode in force; of GPUs and `NVSwitches` alone.
    pub mode: Option<Fact<GpuMode>>,
}

impl Device {
    /// Whether it is a GPU: a display or 3D controller of NVIDIA's.
    #[must_use]
    pub const fn is_gpu(&self) -> bool {
        self.vendor == NVIDIA && matches!(self.class >> 8, 0x0300 | 0x0302)
    }

    /// Whether it is an `NVSwitch`: a bridge of class 0680 of NVIDIA's.
    #[must_use]
    pub const fn is_switch(&self) -> bool {
        self.vendor == NVIDIA && self.class >> 8 == 0x0680
    }

    /// Whether it can be reset as VMs need it: a GPU's driver in a confidential VM insists on
    /// function-level reset.
    #[must_use]
    pub fn can_be_reset(&self) -> bool {
        let has_flr = self.reset_methods.iter().any(|method| method == "flr");
        if self.is_gpu() { has_flr } else { !self.reset_methods.is_empty() }
    }

    /// The bytes of one of its windows; 0 where it has none.
    #[must_use]
    pub fn bar(&self, index: u8) -> u64 {
        self.bars.iter().find(|bar| bar.index == index).map_or(0, |bar| bar.size)
    }
}

pub(super) fn probe(root: &Path) -> Vec<Device> {
    files::entries(&root.join("sys/bus/pci/devices"))
        .into_iter()
        .filter_map(|dir| device(root, &dir))
        .collect()
}

pub(super) fn one(root: &Path, address: Address) -> Option<Device> {
    device(root, &root.join("sys/bus/pci/devices").join(address.to_string()))
}

fn device(root: &Path, dir: &Path) -> Option<Device> {
    let address: Address = dir.file_name()?.to_str()?.parse().ok()?;
    let number = |name: &str| files::number(&files::text(&dir.join(name)).ok()?);
    let word = |name: &str| number(name).and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
    let (vendor, device) = (word("vendor"), word("device"));
    let bridge = (vendor, device) == FABRIC_BRIDGE;
    if vendor != NVIDIA && !bridge {
        return None;
    }
    let manages_fabric = bridge
        && files::bytes(&dir.join("vpd"), MAX_VPD).is_ok_and(|data| {
            data.windows(FABRIC_BRIDGE_MARK.len()).any(|part| part == FABRIC_BRIDGE_MARK)
        });
    if bridge && !manages_fabric {
        return None;
    }
    let numa = files::text(&dir.join("numa_node")).ok();
    let mut found = Device {
        address,
        vendor,
        device,
        subsystem_vendor: word("subsystem_vendor"),
        subsystem_device: word("subsystem_device"),
        class: number("class").and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        driver: files::link_name(&dir.join("driver")),
        iommu_group: files::link_name(&dir.join("iommu_group")).and_then(|n| n.parse().ok()),
        group_mates: group_mates(dir, address),
        numa_node: numa.and_then(|node| node.parse().ok()),
        bars: bars(&files::text(&dir.join("resource")).unwrap_or_default()),
        reset_methods: files::text(&dir.join("reset_method"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        vfio_cdev: files::entries(&dir.join("vfio-dev"))
            .iter()
            .filter_map(|path| path.file_name())
            .any(|name| root.join("dev/vfio/devices").join(name).exists()),
        manages_fabric,
        mode: None,
    };
    found.mode = gpu_mode::registers(&found).map(|registers| gpu_mode::read(dir, &registers));
    Some(found)
}

/// Functions of the same IOMMU group that are neither bridges nor of the same device.
fn group_mates(dir: &Path, own: Address) -> Vec<Address> {
    const PCI_BRIDGE: u64 = 0x0604;
    files::entries(&dir.join("iommu_group/devices"))
        .into_iter()
        .filter(|path| {
            let class = files::text(&path.join("class")).ok().and_then(|text| files::number(&text));
            class.is_none_or(|class| class >> 8 != PCI_BRIDGE)
        })
        .filter_map(|path| path.file_name()?.to_str()?.parse::<Address>().ok())
        .filter(|other| {
            (other.domain, other.bus, other.device) != (own.domain, own.bus, own.device)
        })
        .collect()
}

/// The windows that `resource` lists: a line of start, end and flags for each register.
fn bars(resource: &str) -> Vec<Bar> {
    const PREFETCH: u64 = 0x2000;
    const MEMORY_64: u64 = 0x10_0000;
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(files::number);
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    (0..6_u8)
        .zip(resource.lines())
        .filter_map(|(index, text)| {
            let (start, end, flags) = line(text)?;
            let size = end.checked_sub(start)?.checked_add(1)?;
            (end != 0).then_some(Bar {
                index,
                size,
                prefetchable: flags & PREFETCH != 0,
                wide: flags & MEMORY_64 != 0,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn addresses_round_trip_and_others_are_refused() {
        for text in ["0000:41:00.0", "ffff:ff:1f.7"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["41:00.0", "0000:41:00", "0000:41:20.0", "0000:41:00.8", "0000:4:00.0", "é"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn windows_have_the_sizes_of_an_h200() {
        let text = "0x00000420000000 0x00000420ffffff 0x000000000014220c\n\
                    0x0 0x0 0x0\n\
                    0x00038000000000 0x0003bfffffffff 0x000000000014220c\n\
                    0x0 0x0 0x0\n\
                    0x00000421000000 0x00000422ffffff 0x000000000014220c\n\
                    0x0 0x0 0x0\n";
        let sizes: Vec<_> = bars(text).iter().map(|bar| (bar.index, bar.size)).collect();
        assert_eq!(sizes, [(0, 16 << 20), (2, 256 << 30), (4, 32 << 20)]);
        assert!(bars(text).iter().all(|bar| bar.prefetchable && bar.wide));
        assert!(bars("0x2 0x1 0x0\nnonsense").is_empty());
    }

    #[test]
    fn only_nvidia_and_fabric_bridges_are_listed() {
        let root = tempfile::tempdir().unwrap();
        let bus = root.path().join("sys/bus/pci/devices");
        let add = |address: &str, vendor: &str, device: &str, class: &str| {
            let dir = bus.join(address);
            fs::create_dir_all(&dir).unwrap();
            for (name, text) in [("vendor", vendor), ("device", device), ("class", class)] {
                fs::write(dir.join(name), text).unwrap();
            }
            dir
        };
        let gpu = add("0000:41:00.0", "0x10de\n", "0x2335\n", "0x030200\n");
        fs::write(gpu.join("reset_method"), "flr bus\n").unwrap();
        fs::write(gpu.join("numa_node"), "-1\n").unwrap();
        symlink("../../../../drivers/vfio-pci", gpu.join("driver")).unwrap();
        add("0000:42:00.0", "0x15b3", "0x1021", "0x020700");
        let fabric = add("0000:43:00.0", "0x15b3", "0x1021", "0x020700");
        fs::write(fabric.join("vpd"), b"\x82\x01\x00SMDL=SW_MNG\x00").unwrap();
        add("0000:00:1f.2", "0x8086", "0x2922", "0x010601");
        let found = probe(root.path());
        let addresses: Vec<_> = found.iter().map(|d| d.address.to_string()).collect();
        assert_eq!(addresses, ["0000:41:00.0", "0000:43:00.0"]);
        assert!(found[0].is_gpu() && !found[0].manages_fabric && found[1].manages_fabric);
        assert_eq!(found[0].driver.as_deref(), Some("vfio-pci"));
        assert_eq!(found[0].reset_methods, ["flr", "bus"]);
        assert_eq!(found[0].numa_node, None);
        assert!(matches!(&found[0].mode, Some(Err(_))), "{:?}", found[0].mode);
        assert_eq!(found[1].mode, None);
    }
}

//! The shape of a VM: what of a launch varies within one image and is in the launch digest.
//!
//! The launcher makes QEMU's arguments from a [`Shape`], the builder enumerates shapes, a
//! verifier names the one that a report fits.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::cpu::CpuModel;
use crate::number;

/// Why a value is no part of a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The number of vCPUs is out of bounds.
    #[error("{found} vCPUs: expected 1 to {}", VcpuCount::MAX)]
    Vcpus {
        /// The number found.
        found: u64,
    },
    /// No such CPU model is known.
    #[error(
        "CPU model {name:?} is unknown: expected one of {}, or a CPU by family/model/stepping \
         such as 25/17/1 or by CPUID signature such as 0xa10f11",
        CpuModel::list()
    )]
    CpuModel {
        /// The name found, shortened.
        name: String,
    },
    /// A CPU by its numbers is impossible.
    #[error(
        "CPU {text:?} is impossible: expected a decimal family/model/stepping up to 270/255/15, \
         or a CPUID signature of 0x and hex digits with bits 12-15 and 28-31 zero"
    )]
    Signature {
        /// The text found, shortened.
        text: String,
    },
    /// The mask lacks the bit that every SNP guest has.
    #[error("guest features {found:#x} lack bit 0 (SNPActive)")]
    GuestFeatures {
        /// The mask found.
        found: u64,
    },
}

/// How many vCPUs start with the VM (`-smp cpus=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u64")]
pub struct VcpuCount(u16);

impl VcpuCount {
    /// Most vCPUs.
    pub const MAX: u16 = 512;
    /// [`VcpuCount::MAX`], as a count.
    pub const GREATEST: Self = Self(Self::MAX);

    /// Takes a number of vCPUs.
    ///
    /// # Errors
    /// When it is not 1 to [`VcpuCount::MAX`].
    pub fn new(count: u64) -> Result<Self, ShapeError> {
        match u16::try_from(count) {
            Ok(count @ 1..=Self::MAX) => Ok(Self(count)),
            _ => Err(ShapeError::Vcpus { found: count }),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for VcpuCount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "VcpuCount".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": Self::MAX })
    }
}

impl TryFrom<u64> for VcpuCount {
    type Error = ShapeError;

    fn try_from(count: u64) -> Result<Self, ShapeError> {
        Self::new(count)
    }
}

impl From<VcpuCount> for u16 {
    fn from(count: VcpuCount) -> Self {
        count.0
    }
}

impl fmt::Display for VcpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// `SEV_FEATURES` of the VMSA: which protections of SNP a vCPU starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestFeatures(u64);

impl GuestFeatures {
    /// SNP and nothing else: what stock QEMU and KVM set.
    pub const SNP_ACTIVE: Self = Self(1);
    /// SNP and `DebugSwap`: what KVM of Linux 6.6 to 6.8 set where its module has `debug_swap=1`.
    pub const DEBUG_SWAP: Self = Self(0x21);

    /// Takes a mask.
    ///
    /// # Errors
    /// When it lacks bit 0, without which a guest is no SNP guest.
    pub const fn new(raw: u64) -> Result<Self, ShapeError> {
        if raw & 1 == 0 {
            return Err(ShapeError::GuestFeatures { found: raw });
        }
        Ok(Self(raw))
    }

    /// The mask.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The names of its bits, `bit N` for one without a name here.
    #[must_use]
    pub fn names(self) -> Vec<String> {
        let name = |bit: u32| {
            let known = FEATURE_NAMES.iter().find(|(number, _)| *number == bit);
            known.map_or_else(|| format!("bit {bit}"), |(_, name)| (*name).to_owned())
        };
        (0..u64::BITS).filter(|bit| self.0 >> bit & 1 == 1).map(name).collect()
    }
}

/// Bits of `SEV_FEATURES`: AMD document 24593, revision 3.43, appendix "Layout of VMCB"; the last two
/// by the Linux patches that introduce them.
const FEATURE_NAMES: [(u32, &str); 16] = [
    (0, "SNPActive"),
    (1, "vTOM"),
    (2, "ReflectVC"),
    (3, "RestrictedInjection"),
    (4, "AlternateInjection"),
    (5, "DebugSwap"),
    (6, "PreventHostIBS"),
    (7, "BTBIsolation"),
    (8, "VmplSSS"),
    (9, "SecureTSC"),
    (10, "VmgexitParameter"),
    (12, "IbsVirtualization"),
    (14, "VmsaRegProt"),
    (15, "SmtProtection"),
    (16, "SecureAVIC"),
    (21, "IBPBOnEntry"),
];

impl Default for GuestFeatures {
    fn default() -> Self {
        Self::SNP_ACTIVE
    }
}

impl fmt::Display for GuestFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&number::format(self.0))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for GuestFeatures {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GuestFeatures".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        number::Hex::json_schema(generator)
    }
}

impl Serialize for GuestFeatures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GuestFeatures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        number::deserialize(deserializer, "a mask of guest features", Self::new)
    }
}

/// Which virtual machine monitor starts the VM: each puts other values into the VMSA.
///
/// casemate launches with QEMU only. The others can be measured, to compare with what their
/// operators publish.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Vmm {
    /// QEMU 9.1 or newer on KVM 6.11 or newer.
    #[default]
    Qemu,
    /// Amazon's.
    Ec2,
    /// Google's.
    Gce,
}

impl Vmm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Qemu, Self::Ec2, Self::Gce];

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vmm| vmm.name() == name)
    }

    /// The lower-case name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Ec2 => "ec2",
            Self::Gce => "gce",
        }
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One shape of a VM. Ordered as the table of a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Who starts it.
    pub vmm: Vmm,
    /// The model that each vCPU claims to be.
    pub cpu_model: CpuModel,
    /// The protections that each vCPU starts with.
    pub guest_features: GuestFeatures,
    /// How many vCPUs start.
    pub vcpus: VcpuCount,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vmm, cpu_model, guest_features, vcpus } = self;
        write!(f, "{vcpus} x {cpu_model}, features {guest_features}, {vmm}")
    }
}

/// Writes numbers as ranges: `1-4, 8`.
#[must_use]
pub fn ranges(numbers: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == *number => *end = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let text = |(start, end): &(u16, u16)| {
        if start == end { start.to_string() } else { format!("{start}-{end}") }
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_names() {
        let names = |raw| GuestFeatures::new(raw).unwrap().names().join("+");
        assert_eq!(names(0x1), "SNPActive");
        assert_eq!(names(0x221), "SNPActive+DebugSwap+SecureTSC");
        assert_eq!(names(1 << 63 | 1), "SNPActive+bit 63");
    }

    #[test]
    fn numbers_are_told_as_ranges() {
        assert_eq!(ranges(&BTreeSet::from([1, 2, 4, 6, 7, 8])), "1-2, 4, 6-8");
    }

    #[test]
    fn bounds() {
        assert_eq!(VcpuCount::new(512).unwrap().get(), 512);
        for count in [0, 513, 65_537, u64::MAX] {
            assert_eq!(VcpuCount::new(count), Err(ShapeError::Vcpus { found: count }));
        }
        assert!(GuestFeatures::new(0x20).is_err());
    }

    #[test]
    fn shapes_round_trip() {
        let json = r#"{"vmm":"qemu","cpu_model":"EPYC-v4","guest_features":"0x1","vcpus":4}"#;
        let shape: Shape = serde_json::from_str(json).unwrap();
        assert_eq!(shape.to_string(), "4 x EPYC-v4, features 0x1, qemu");
        assert_eq!(serde_json::to_string(&shape).unwrap(), json);
        for (from, to) in [(":4", ":0"), ("EPYC-v4", "host"), ("0x1", "0x0"), ("qemu", "kvm")] {
            assert!(serde_json::from_str::<Shape>(&json.replace(from, to)).is_err(), "{to}");
        }
    }
}

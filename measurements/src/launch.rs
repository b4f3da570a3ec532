//! The shape of a VM: what of a launch varies within one image and is in the launch digest.
//!
//! The launcher makes QEMU's arguments from a [`Shape`], the builder enumerates shapes, a
//! verifier names the one that a report fits. The table of CPU models stands here and nowhere
//! else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
    #[error("CPU model {name:?} is unknown: expected one of {}", CpuModel::list())]
    CpuModel {
        /// The name found, shortened.
        name: String,
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

/// A CPU model by QEMU's name. Its CPUID signature is what RDX holds when a vCPU starts, and so
/// is in the digest; the silicon underneath is not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuModel {
    name: &'static str,
    signature: u32,
}

const NAPLES: u32 = 0x80_0f12;
const ROME: u32 = 0x83_0f10;
const MILAN: u32 = 0xa0_0f11;
const GENOA: u32 = 0xa1_0f10;
const TURIN: u32 = 0xb0_0f00;

const fn model(name: &'static str, signature: u32) -> CpuModel {
    CpuModel { name, signature }
}

impl CpuModel {
    /// Every model, as QEMU 11.1 names them (`query-cpu-model-expansion`).
    pub const ALL: [Self; 25] = [
        model("EPYC", NAPLES),
        model("EPYC-v1", NAPLES),
        model("EPYC-v2", NAPLES),
        model("EPYC-v3", NAPLES),
        model("EPYC-v4", NAPLES),
        model("EPYC-v5", NAPLES),
        model("EPYC-IBPB", NAPLES),
        model("EPYC-Rome", ROME),
        model("EPYC-Rome-v1", ROME),
        model("EPYC-Rome-v2", ROME),
        model("EPYC-Rome-v3", ROME),
        model("EPYC-Rome-v4", ROME),
        model("EPYC-Rome-v5", ROME),
        model("EPYC-Milan", MILAN),
        model("EPYC-Milan-v1", MILAN),
        model("EPYC-Milan-v2", MILAN),
        model("EPYC-Milan-v3", MILAN),
        model("EPYC-Milan-v4", MILAN),
        model("EPYC-Genoa", GENOA),
        model("EPYC-Genoa-v1", GENOA),
        model("EPYC-Genoa-v2", GENOA),
        model("EPYC-Genoa-v3", GENOA),
        model("EPYC-Turin", TURIN),
        model("EPYC-Turin-v1", TURIN),
        model("EPYC-Turin-v2", TURIN),
    ];

    /// QEMU's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// CPUID leaf 1, EAX.
    #[must_use]
    pub const fn signature(self) -> u32 {
        self.signature
    }

    fn list() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl FromStr for CpuModel {
    type Err = ShapeError;

    fn from_str(name: &str) -> Result<Self, ShapeError> {
        let unknown = || ShapeError::CpuModel { name: name.chars().take(60).collect() };
        Self::ALL.into_iter().find(|model| model.name == name).ok_or_else(unknown)
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl fmt::Debug for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuModel({}, {:#x})", self.name, self.signature)
    }
}

impl Serialize for CpuModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for CpuModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `SEV_FEATURES` of the VMSA: which protections of SNP a vCPU starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestFeatures(u64);

impl GuestFeatures {
    /// SNP and nothing else: what stock QEMU and KVM set.
    pub const SNP_ACTIVE: Self = Self(1);

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
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_signature_and_unknown_names_are_listed() {
        for (index, model) in CpuModel::ALL.iter().enumerate() {
            assert_eq!(model.name().parse::<CpuModel>().unwrap(), *model);
            assert!(CpuModel::ALL[..index].iter().all(|other| other.name() != model.name()));
        }
        let error = "epyc-v4".parse::<CpuModel>().unwrap_err().to_string();
        assert!(error.contains("EPYC-v4, "), "{error}");
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

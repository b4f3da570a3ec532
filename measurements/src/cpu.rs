//! Which CPU a vCPU claims to be. The table of QEMU's models stands here and nowhere else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::launch::ShapeError;

/// A CPU by QEMU's name, or by its CPUID signature alone.
///
/// The signature is what RDX holds when a vCPU starts, and so is in the digest; the silicon
/// underneath is not. Only a named CPU can be launched: the name is QEMU's `-cpu`. A nameless one
/// can be measured, for VMs that others start with `-cpu host` or with a family of their own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuModel {
    name: Option<&'static str>,
    signature: u32,
}

const NAPLES: u32 = 0x80_0f12;
const ROME: u32 = 0x83_0f10;
const MILAN: u32 = 0xa0_0f11;
const GENOA: u32 = 0xa1_0f10;
const TURIN: u32 = 0xb0_0f00;
const DHYANA: u32 = 0x90_0f01;

/// Bits of CPUID leaf 1, EAX, that are zero on every AMD processor.
const RESERVED: u32 = 0xf000_f000;

const fn model(name: &'static str, signature: u32) -> CpuModel {
    CpuModel { name: Some(name), signature }
}

impl CpuModel {
    /// Every named model, as QEMU 11.1 names them (`query-cpu-model-expansion`).
    pub const ALL: [Self; 28] = [
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
        model("Dhyana", DHYANA),
        model("Dhyana-v1", DHYANA),
        model("Dhyana-v2", DHYANA),
    ];

    /// Signatures of silicon that runs SNP guests and that no model has, as reports state them:
    /// what `-cpu host` gives there. Family 25 model 17 stepping 1 and model 160 stepping 2
    /// (Genoa, Bergamo), family 26 model 2 stepping 1 (Turin).
    pub const SILICON: [Self; 3] =
        [Self::nameless(0xa1_0f11), Self::nameless(0xaa_0f02), Self::nameless(0xb0_0f21)];

    const fn nameless(signature: u32) -> Self {
        Self { name: None, signature }
    }

    /// A CPU by CPUID leaf 1, EAX.
    ///
    /// # Errors
    /// When a reserved bit is set.
    pub fn from_signature(signature: u32) -> Result<Self, ShapeError> {
        if signature & RESERVED == 0 {
            return Ok(Self::nameless(signature));
        }
        Err(ShapeError::Signature { text: format!("{signature:#x}") })
    }

    /// A CPU by its numbers, as `/proc/cpuinfo` prints them.
    ///
    /// # Errors
    /// When one of them has no place in a signature.
    pub fn from_family(family: u32, model: u32, stepping: u32) -> Result<Self, ShapeError> {
        if family > 0xf + 0xff || model > 0xff || stepping > 0xf {
            let text = format!("{family}/{model}/{stepping}");
            return Err(ShapeError::Signature { text });
        }
        let (base, extended) = if family > 0xf { (0xf, family - 0xf) } else { (family, 0) };
        let model = (model >> 4) << 16 | (model & 0xf) << 4;
        Self::from_signature(extended << 20 | base << 8 | model | stepping)
    }

    /// The first named model of each signature: every digest that a name can give.
    pub fn distinct() -> impl Iterator<Item = Self> {
        let first = |model: &Self| {
            Self::ALL.iter().find(|other| other.signature == model.signature) == Some(model)
        };
        Self::ALL.into_iter().filter(first)
    }

    /// QEMU's name, where it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        self.name
    }

    /// CPUID leaf 1, EAX.
    #[must_use]
    pub const fn signature(self) -> u32 {
        self.signature
    }

    /// Family, model and stepping.
    #[must_use]
    pub const fn family(self) -> (u32, u32, u32) {
        let s = self.signature;
        let (base, extended) = (s >> 8 & 0xf, s >> 20 & 0xff);
        let family = if base == 0xf { base + extended } else { base };
        (family, (s >> 16 & 0xf) << 4 | s >> 4 & 0xf, s & 0xf)
    }

    pub(crate) fn list() -> String {
        Self::ALL.into_iter().filter_map(Self::name).collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for CpuModel {
    type Err = ShapeError;

    fn from_str(text: &str) -> Result<Self, ShapeError> {
        let short = || text.chars().take(60).collect();
        let impossible = || ShapeError::Signature { text: short() };
        if let Some(digits) = text.strip_prefix("0x") {
            let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
            let signature = u32::from_str_radix(digits, 16).ok().filter(|_| plain);
            return Self::from_signature(signature.ok_or_else(impossible)?);
        }
        if text.contains('/') {
            let number = |part: &str| {
                let plain = part.bytes().all(|b| b.is_ascii_digit());
                part.parse().ok().filter(|_| plain)
            };
            let numbers: Option<Vec<u32>> = text.split('/').map(number).collect();
            return match numbers.as_deref() {
                Some([family, model, stepping]) => Self::from_family(*family, *model, *stepping),
                _ => Err(impossible()),
            };
        }
        let unknown = || ShapeError::CpuModel { name: short() };
        Self::ALL.into_iter().find(|model| model.name == Some(text)).ok_or_else(unknown)
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.pad(name),
            None => f.pad(&format!("{:#x}", self.signature)),
        }
    }
}

impl fmt::Debug for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuModel({self}, {:#x})", self.signature)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CpuModel {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CpuModel".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "enum": Self::ALL.map(Self::name) })
    }
}

impl Serialize for CpuModel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_signature_and_unknown_names_are_listed() {
        for (index, model) in CpuModel::ALL.iter().enumerate() {
            assert_eq!(model.name().unwrap().parse::<CpuModel>().unwrap(), *model);
            assert!(CpuModel::ALL[..index].iter().all(|other| other.name() != model.name()));
        }
        let error = "epyc-v4".parse::<CpuModel>().unwrap_err().to_string();
        assert!(error.contains("EPYC-v4, ") && error.contains("25/17/1"), "{error}");
    }

    #[test]
    fn numbers_and_signatures_are_two_spellings_of_one_cpu() {
        for (numbers, signature) in [
            ("23/1/2", 0x80_0f12),
            ("23/49/0", 0x83_0f10),
            ("25/1/1", 0xa0_0f11),
            ("25/17/0", 0xa1_0f10),
            ("25/17/1", 0xa1_0f11),
            ("25/160/2", 0xaa_0f02),
            ("26/0/0", 0xb0_0f00),
            ("26/2/1", 0xb0_0f21),
            ("24/0/1", 0x90_0f01),
            ("6/0/0", 0x600),
            ("0/0/0", 0),
            ("270/255/15", 0x0fff_0fff),
        ] {
            let cpu: CpuModel = numbers.parse().unwrap();
            assert_eq!(cpu.signature(), signature, "{numbers}");
            assert_eq!(format!("{signature:#x}").parse(), Ok(cpu));
            let (family, model, stepping) = cpu.family();
            assert_eq!(format!("{family}/{model}/{stepping}"), numbers);
            assert_eq!(cpu.name(), None, "what was given by number stays so");
            assert_eq!(serde_json::to_string(&cpu).unwrap(), format!("\"{signature:#x}\""));
        }
        assert!(
            CpuModel::SILICON.iter().all(|cpu| {
                CpuModel::ALL.iter().all(|named| named.signature() != cpu.signature())
            })
        );
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for text in [
            "271/0/0",
            "25/256/0",
            "25/17/16",
            "25/17",
            "25/17/1/0",
            "/17/1",
            "+25/17/1",
            "0x",
            "0x+1",
            "0xg",
            "0x1000",
            "0x10000000",
            "0x1000000000",
            "25/ 17/1",
        ] {
            let error = text.parse::<CpuModel>().unwrap_err();
            assert!(matches!(error, ShapeError::Signature { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn six_signatures_cover_every_name() {
        let signatures: Vec<u32> = CpuModel::distinct().map(CpuModel::signature).collect();
        assert_eq!(signatures, [NAPLES, ROME, MILAN, GENOA, TURIN, DHYANA]);
    }
}

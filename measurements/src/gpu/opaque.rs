//! What NVIDIA's firmware adds to a report: fields of type (2 bytes), length (2 bytes) and value,
//! all little-endian.
//!
//! The numbers of the fields are those of NVIDIA's published verifiers (nv-local-gpu-verifier
//! 2.7.3 and nv-attestation-sdk 2.7.3). The newer form with a header that some firmware writes is
//! refused: no sample of it could be judged.

use std::fmt;

const DRIVER_VERSION: u16 = 3;
const VBIOS_VERSION: u16 = 6;
const NVDEC0_STATUS: u16 = 11;
const CHIP_SKU: u16 = 15;
const PROJECT: u16 = 17;
const PROJECT_SKU: u16 = 18;
const FWID: u16 = 20;
const PDI: u16 = 22;
const GPU_PDIS: u16 = 26;
const CHIP_INFO: u16 = 35;
const FEATURE_FLAG: u16 = 36;

/// Why the opaque data is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpaqueError {
    /// A field goes past the end.
    #[error("the field at byte {at} goes past the end")]
    Length {
        /// Where it starts.
        at: usize,
    },
    /// A field stands there twice.
    #[error("field {field} stands there twice")]
    Twice {
        /// Its type.
        field: u16,
    },
    /// The value of a field is none that it can have.
    #[error("field {field} has the value {found}, expected {expected}")]
    Value {
        /// Its type.
        field: u16,
        /// The value found.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// What is how many GPUs and switches protect together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One GPU for one VM.
    SinglePassthrough,
    /// Several GPUs for one VM, their links encrypted.
    MultiplePassthrough,
    /// All GPUs and all switches of a Hopper machine for one VM.
    ProtectedPcie,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::SinglePassthrough => "SPT",
            Self::MultiplePassthrough => "MPT",
            Self::ProtectedPcie => "PPCIE",
        })
    }
}

/// The number that a GPU or a switch is known by in its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pdi([u8; 8]);

impl Pdi {
    /// Takes the bytes as the device itself states them.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    fn is_none(self) -> bool {
        self.0 == [0; 8]
    }
}

impl fmt::Display for Pdi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

/// The fields of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque(Vec<(u16, Vec<u8>)>);

impl Opaque {
    /// Reads fields up to the end.
    ///
    /// # Errors
    /// When one goes past the end or stands there twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpaqueError> {
        let mut fields: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let past = OpaqueError::Length { at: bytes.len() - rest.len() };
            let Some(([t0, t1, l0, l1], after)) = rest.split_first_chunk::<4>() else {
                return Err(past);
            };
            let (field, len) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*l0, *l1]));
            let Some((value, after)) = after.split_at_checked(usize::from(len)) else {
                return Err(past);
            };
            if fields.iter().any(|(other, _)| *other == field) {
                return Err(OpaqueError::Twice { field });
            }
            fields.push((field, value.to_vec()));
            rest = after;
        }
        Ok(Self(fields))
    }

    fn get(&self, field: u16) -> Option<&[u8]> {
        let (_, value) = self.0.iter().find(|(other, _)| *other == field)?;
        Some(value)
    }

    fn wrong(&self, field: u16, expected: &'static str) -> OpaqueError {
        let found = self
            .get(field)
            .map_or("absent".to_owned(), |value| hex::encode(value.get(..16).unwrap_or(value)));
        OpaqueError::Value { field, found, expected }
    }

    /// Printable text that zero bytes may end.
    fn text(&self, field: u16, expected: &'static str) -> Result<String, OpaqueError> {
        let wrong = || self.wrong(field, expected);
        let text = str::from_utf8(self.get(field).ok_or_else(wrong)?).map_err(|_| wrong())?;
        let text = text.trim_end_matches('\0').trim_ascii();
        let printable =
            (1..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if printable { Ok(text.to_owned()) } else { Err(wrong()) }
    }

    /// Version of the driver: `550.90.07`.
    ///
    /// # Errors
    /// When it is absent or no text.
    pub fn driver_version(&self) -> Result<String, OpaqueError> {
        self.text(DRIVER_VERSION, "the driver's version")
    }

    /// Version of the VBIOS: `96.00.9F.00.01`. A GPU states it as a number, a switch as text.
    ///
    /// # Errors
    /// When it is absent or neither.
    pub fn vbios_version(&self) -> Result<String, OpaqueError> {
        let Some(bytes) = self.get(VBIOS_VERSION).and_then(|v| <[u8; 8]>::try_from(v).ok()) else {
            return self.text(VBIOS_VERSION, "a version of 8 bytes or as text");
        };
        // The high half of the number, then the highest byte of the low half.
        let [d, c, b, a, last, ..] = bytes;
        Ok(format!("{a:02X}.{b:02X}.{c:02X}.{d:02X}.{last:02X}"))
    }

    /// The board: `PROJECT_PROJECTSKU_CHIPSKU`, as in the names of reference integrity manifests.
    ///
    /// # Errors
    /// When a part is absent or no text.
    pub fn board(&self) -> Result<String, OpaqueError> {
        let part = |field| self.text(field, "a part of the board's name");
        Ok(format!("{}_{}_{}", part(PROJECT)?, part(PROJECT_SKU)?, part(CHIP_SKU)?))
    }

    /// The chip that manifests for the driver are named after; absent on Hopper.
    ///
    /// # Errors
    /// When it is no text.
    pub fn chip_info(&self) -> Result<Option<String>, OpaqueError> {
        match self.get(CHIP_INFO) {
            None => Ok(None),
            Some(_) => self.text(CHIP_INFO, "a chip").map(Some),
        }
    }

    /// The firmware that the key was made for; absent on switches.
    #[must_use]
    pub fn fwid(&self) -> Option<&[u8]> {
        self.get(FWID)
    }

    /// Whether the first video decoder is on, so that its measurement (index 35) counts.
    ///
    /// # Errors
    /// When it is neither on nor off.
    pub fn nvdec0_enabled(&self) -> Result<bool, OpaqueError> {
        match self.get(NVDEC0_STATUS) {
            Some([0xaa]) => Ok(true),
            Some([0x55]) => Ok(false),
            _ => Err(self.wrong(NVDEC0_STATUS, "aa or 55")),
        }
    }

    /// The mode of a GPU; older firmware does not state it.
    ///
    /// # Errors
    /// When it is none that is known.
    pub fn mode(&self) -> Result<Option<Mode>, OpaqueError> {
        let number = self.get(FEATURE_FLAG).map(|value| match value.split_first() {
            Some((first, rest)) if rest.iter().all(|byte| *byte == 0) => Some(*first),
            _ => None,
        });
        match number {
            None => Ok(None),
            Some(Some(0)) => Ok(Some(Mode::SinglePassthrough)),
            Some(Some(1)) => Ok(Some(Mode::MultiplePassthrough)),
            Some(Some(2)) => Ok(Some(Mode::ProtectedPcie)),
            Some(_) => Err(self.wrong(FEATURE_FLAG, "0 to 2")),
        }
    }

    /// The switches at the other ends of a GPU's links, each once. The report has them backwards,
    /// which is undone here.
    ///
    /// # Errors
    /// When the field is absent or has another length.
    pub fn switches_of_gpu(&self) -> Result<Vec<Pdi>, OpaqueError> {
        let backwards = |mut bytes: [u8; 8]| {
            bytes.reverse();
            bytes
        };
        let value = self.get(PDI).filter(|value| value.len().is_multiple_of(8));
        let value = value.ok_or_else(|| self.wrong(PDI, "numbers of 8 bytes"))?;
        Ok(each_once(value.as_chunks().0.iter().copied().map(backwards)))
    }

    /// The number of a switch.
    ///
    /// # Errors
    /// When the field is absent or has another length.
    pub fn switch_pdi(&self) -> Result<Pdi, OpaqueError> {
        let bytes = self.get(PDI).and_then(|value| value.try_into().ok());
        bytes.map(Pdi).ok_or_else(|| self.wrong(PDI, "8 bytes"))
    }

    /// The GPUs at a switch, each once: the first eight numbers, ports follow.
    ///
    /// # Errors
    /// When the field is absent or shorter.
    pub fn gpus_of_switch(&self) -> Result<Vec<Pdi>, OpaqueError> {
        let value = self.get(GPU_PDIS).and_then(|value| value.get(..64));
        let value = value.ok_or_else(|| self.wrong(GPU_PDIS, "64 bytes and more"))?;
        Ok(each_once(value.as_chunks().0.iter().copied()))
    }
}

/// Sorted, without repetition and without the number of a link that is off.
fn each_once(pdis: impl Iterator<Item = [u8; 8]>) -> Vec<Pdi> {
    let mut pdis: Vec<Pdi> = pdis.map(Pdi).filter(|pdi| !pdi.is_none()).collect();
    pdis.sort_unstable();
    pdis.dedup();
    pdis
}

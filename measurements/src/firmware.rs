//! What of a firmware file decides a launch digest: the pages themselves, and the tables at the
//! file's end that tell the VMM which further pages to measure and where a second vCPU starts.
//!
//! The file may come from anyone: every offset and count is checked before it is used, and
//! nothing is allocated by a number of the file's.
//!
//! Layout: edk2, `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm` (GUID table that ends 32 bytes
//! before the end of the file, read backwards) and `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`.

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, KnownLayout, little_endian as le};

use crate::digest::Chain;
use crate::hash::{Sha256Hash, Sha384Hash};
use crate::number;

/// Length of a page.
pub const PAGE_LEN: usize = 4096;
/// Most bytes of a firmware file.
pub const MAX_LEN: usize = 16 * 1024 * 1024;
/// Most sections of the SEV metadata.
pub const MAX_SECTIONS: usize = 32;
/// Most pages of all sections together: 64 MiB.
pub const MAX_SECTION_PAGES: u32 = 16_384;

const FOUR_GIB: u64 = 1 << 32;
const PAGE: u32 = 4096;

/// Distance of the end of the GUID table from the end of the file.
const TABLE_END: usize = 32;
/// Length of an entry's length and GUID, which stand behind its data.
const ENTRY_LEN: usize = 2 + 16;
/// Most bytes of the GUID table.
const MAX_TABLE_LEN: usize = 2048;

/// 96b582de-1fb2-45f7-baea-a366c55a082d: the table itself.
const TABLE_GUID: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e: where every vCPU but the first starts.
const RESET_GUID: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
/// 7255371f-3a3b-4b04-927b-1da6efa8d454: where the table of kernel hashes goes.
const HASHES_GUID: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
/// dc886566-984a-4798-a75e-5585a7bf67cc: where the SEV metadata stands.
const METADATA_GUID: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);

/// A GUID in its mixed-endian form, from its parts as they are printed.
pub(crate) const fn guid(a: u32, b: u16, c: u16, d: u64) -> [u8; 16] {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// Why a firmware file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// The length is impossible.
    #[error("firmware has {len} bytes, expected whole pages of 4096 and at most {MAX_LEN}")]
    Length {
        /// The length found.
        len: usize,
    },
    /// No GUID table: not an edk2 firmware for x86, or the wrong half of a split one.
    #[error(
        "firmware has no OVMF table 32 bytes before its end (GUID \
         96b582de-1fb2-45f7-baea-a366c55a082d): expected an unsplit OVMF file"
    )]
    NoTable,
    /// The table contradicts itself.
    #[error("OVMF table is malformed at {from_end:#x} bytes from the file's end: {problem}")]
    Table {
        /// Where, counted from the end of the file.
        from_end: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry is missing without which no SNP guest starts.
    #[error("OVMF table has no {what}: expected a firmware built with SEV-SNP support")]
    MissingEntry {
        /// Which.
        what: &'static str,
    },
    /// The SEV metadata is outside the file or contradicts itself.
    #[error("SEV metadata is malformed: {problem}")]
    Metadata {
        /// What is wrong.
        problem: &'static str,
    },
    /// A section cannot be measured.
    #[error("SEV metadata section {index} ({gpa:#x}, {size:#x} bytes, type {kind:#x}): {problem}")]
    Section {
        /// Which, from zero.
        index: usize,
        /// Its guest physical address.
        gpa: u32,
        /// Its length.
        size: u32,
        /// Its type's number.
        kind: u32,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a section of the SEV metadata is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SectionKind {
    /// Memory that the firmware uses before it validates any itself.
    SecMem,
    /// The secrets page: measured as a page of that type, without its contents.
    Secrets,
    /// The CPUID page: measured as a page of that type, without its contents.
    Cpuid,
    /// The calling area of a service module.
    SvsmCaa,
    /// The page that the VMM puts the table of kernel hashes into.
    KernelHashes,
}

impl SectionKind {
    const fn from_number(kind: u32) -> Option<Self> {
        match kind {
            1 => Some(Self::SecMem),
            2 => Some(Self::Secrets),
            3 => Some(Self::Cpuid),
            4 => Some(Self::SvsmCaa),
            0x10 => Some(Self::KernelHashes),
            _ => None,
        }
    }

    const fn number(self) -> u32 {
        match self {
            Self::SecMem => 1,
            Self::Secrets => 2,
            Self::Cpuid => 3,
            Self::SvsmCaa => 4,
            Self::KernelHashes => 0x10,
        }
    }
}

/// One section of the SEV metadata: whole pages that are measured before the guest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Guest physical address.
    #[serde(with = "number::gpa")]
    #[cfg_attr(feature = "schema", schemars(with = "number::Hex"))]
    pub gpa: u32,
    /// Length in bytes.
    pub size: u32,
    /// What it is for.
    pub kind: SectionKind,
}

impl Section {
    /// The addresses of its pages.
    pub(crate) fn pages(self) -> impl Iterator<Item = u64> {
        (0..self.size / PAGE).map(move |page| u64::from(self.gpa) + u64::from(page * PAGE))
    }
}

/// What the tables at the end of a firmware file say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// The sections in the order in which they are measured.
    pub sections: Vec<Section>,
    /// Where every vCPU but the first starts.
    #[serde(with = "number::gpa")]
    #[cfg_attr(feature = "schema", schemars(with = "number::Hex"))]
    pub reset_eip: u32,
    /// Guest physical address of the table of kernel hashes; zero for none.
    #[serde(with = "number::gpa")]
    #[cfg_attr(feature = "schema", schemars(with = "number::Hex"))]
    pub hashes_table_gpa: u32,
}

impl Layout {
    /// Reads the tables from the end of a firmware file. `bytes` may be a suffix of the file,
    /// as long as the tables are in it.
    ///
    /// # Errors
    /// When a table is missing, outside `bytes`, or contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, FirmwareError> {
        let entries = Entries::parse(bytes)?;
        let missing = |what| FirmwareError::MissingEntry { what };
        let reset_eip = entries.reset_eip.ok_or_else(|| missing("SEV-ES reset block"))?;
        let offset = entries.metadata.ok_or_else(|| missing("SEV metadata"))?;
        let layout = Self {
            sections: metadata_sections(bytes, offset)?,
            reset_eip,
            hashes_table_gpa: entries.hashes.unwrap_or(0),
        };
        layout.check()?;
        Ok(layout)
    }

    /// Holds the sections to what can be measured.
    ///
    /// # Errors
    /// When a section is empty, not of whole pages, in the way of another, or too long.
    pub fn check(&self) -> Result<(), FirmwareError> {
        if self.sections.len() > MAX_SECTIONS {
            return Err(FirmwareError::Metadata { problem: "more than 32 sections" });
        }
        let mut pages = 0_u32;
        for (index, section) in self.sections.iter().enumerate() {
            let Section { gpa, size, kind } = *section;
            let kind = kind.number();
            let refuse = |problem| FirmwareError::Section { index, gpa, size, kind, problem };
            if size == 0 || size % PAGE != 0 || gpa % PAGE != 0 {
                return Err(refuse("expected whole pages, at least one"));
            }
            let end = gpa.checked_add(size).ok_or_else(|| refuse("ends beyond 4 GiB"))?;
            pages = pages.saturating_add(size / PAGE);
            if pages > MAX_SECTION_PAGES {
                return Err(refuse("sections have more than 64 MiB together"));
            }
            let overlaps = |other: &Section| other.gpa < end && gpa < other.gpa + other.size;
            if self.sections[..index].iter().any(overlaps) {
                return Err(refuse("overlaps an earlier section"));
            }
            let first = self.sections[..index].iter().all(|other| other.kind != section.kind);
            if section.kind == SectionKind::KernelHashes && !(first && size == PAGE) {
                return Err(refuse("expected one page of kernel hashes, once"));
            }
        }
        Ok(())
    }

    /// The section that kernel hashes go into.
    #[must_use]
    pub fn hashes_section(&self) -> Option<Section> {
        self.sections.iter().copied().find(|s| s.kind == SectionKind::KernelHashes)
    }
}

/// A firmware file, reduced to what decides a launch digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// SHA-256 of the file.
    pub sha256: Sha256Hash,
    /// Value of the digest chain after the file's pages.
    pub pages: Sha384Hash,
    /// What its tables say.
    pub layout: Layout,
}

impl Firmware {
    /// Reads and hashes a firmware file.
    ///
    /// # Errors
    /// When its length is impossible or a table is missing or malformed, or when a section lies
    /// where the file itself is mapped.
    pub fn parse(bytes: &[u8]) -> Result<Self, FirmwareError> {
        let len = bytes.len();
        if len == 0 || len > MAX_LEN || !len.is_multiple_of(PAGE_LEN) {
            return Err(FirmwareError::Length { len });
        }
        let layout = Layout::parse(bytes)?;
        let base = FOUR_GIB - len as u64;
        for (index, Section { gpa, size, kind }) in layout.sections.iter().copied().enumerate() {
            if u64::from(gpa) + u64::from(size) > base {
                let (kind, problem) = (kind.number(), "lies where the firmware is mapped");
                return Err(FirmwareError::Section { index, gpa, size, kind, problem });
            }
        }
        let pages = Chain::default().firmware(base, bytes).value();
        Ok(Self { sha256: Sha256Hash::of(bytes), pages, layout })
    }
}

/// The entries of the GUID table that matter here.
#[derive(Debug, Default)]
struct Entries {
    reset_eip: Option<u32>,
    hashes: Option<u32>,
    metadata: Option<u32>,
}

impl Entries {
    fn parse(bytes: &[u8]) -> Result<Self, FirmwareError> {
        let table_end = bytes.len().checked_sub(TABLE_END).ok_or(FirmwareError::NoTable)?;
        let body = bytes.get(..table_end).unwrap_or(&[]);
        let (rest, total, guid) = split_entry(body).ok_or(FirmwareError::NoTable)?;
        if guid != TABLE_GUID {
            return Err(FirmwareError::NoTable);
        }
        let malformed = |rest: &[u8], problem| {
            let from_end = bytes.len() - rest.len();
            FirmwareError::Table { from_end, problem }
        };
        // The table's own length counts its own length and GUID.
        let inner = total
            .checked_sub(ENTRY_LEN)
            .filter(|inner| *inner <= MAX_TABLE_LEN)
            .and_then(|inner| rest.len().checked_sub(inner))
            .ok_or_else(|| malformed(rest, "the table's length is impossible"))?;
        let mut rest = rest.get(inner..).unwrap_or(&[]);
        let start = rest;
        let mut entries = Self::default();
        while !rest.is_empty() {
            let at = bytes.len() - table_end + ENTRY_LEN + (start.len() - rest.len());
            let malformed = |problem| FirmwareError::Table { from_end: at, problem };
            let (before, len, guid) =
                split_entry(rest).ok_or_else(|| malformed("an entry is cut off"))?;
            let data = len
                .checked_sub(ENTRY_LEN)
                .and_then(|len| before.len().checked_sub(len))
                .ok_or_else(|| malformed("an entry is longer than the table"))?;
            let (before, data) = before.split_at(data);
            let (slot, expected) = match guid {
                RESET_GUID => (&mut entries.reset_eip, 4),
                HASHES_GUID => (&mut entries.hashes, 8),
                METADATA_GUID => (&mut entries.metadata, 4),
                _ => {
                    rest = before;
                    continue;
                }
            };
            let value = data
                .first_chunk::<4>()
                .filter(|_| data.len() == expected)
                .ok_or_else(|| malformed("an entry has another length than its GUID asks"))?;
            if slot.replace(u32::from_le_bytes(*value)).is_some() {
                return Err(malformed("an entry stands there twice"));
            }
            rest = before;
        }
        Ok(entries)
    }
}

/// Splits the last entry off: what stands before its length, the length, the GUID.
fn split_entry(bytes: &[u8]) -> Option<(&[u8], usize, [u8; 16])> {
    let (before, guid) = bytes.split_last_chunk::<16>()?;
    let (before, len) = before.split_last_chunk::<2>()?;
    Some((before, usize::from(u16::from_le_bytes(*len)), *guid))
}

/// The head of the SEV metadata: `OvmfSevMetadataHeader` of `OvmfSevMetadata.asm`.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MetadataAbi {
    signature: [u8; 4],
    len: le::U32,
    version: le::U32,
    count: le::U32,
}

/// A section of the SEV metadata.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SectionAbi {
    gpa: le::U32,
    size: le::U32,
    kind: le::U32,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(MetadataAbi, signature) == 0);
    assert!(offset_of!(MetadataAbi, len) == 4);
    assert!(offset_of!(MetadataAbi, version) == 8);
    assert!(offset_of!(MetadataAbi, count) == 12);
    assert!(size_of::<MetadataAbi>() == 16);
    assert!(offset_of!(SectionAbi, gpa) == 0);
    assert!(offset_of!(SectionAbi, size) == 4);
    assert!(offset_of!(SectionAbi, kind) == 8);
    assert!(size_of::<SectionAbi>() == 12);
};

/// Reads the sections of the metadata that starts `offset` bytes before the end of `bytes`.
fn metadata_sections(bytes: &[u8], offset: u32) -> Result<Vec<Section>, FirmwareError> {
    let malformed = |problem| FirmwareError::Metadata { problem };
    let metadata = usize::try_from(offset)
        .ok()
        .and_then(|offset| bytes.len().checked_sub(offset))
        .and_then(|start| bytes.get(start..))
        .ok_or_else(|| malformed("its offset lies outside the file"))?;
    let (header, rest) =
        MetadataAbi::read_from_prefix(metadata).map_err(|_| malformed("it is cut off"))?;
    if header.signature != *b"ASEV" {
        return Err(malformed("it does not start with ASEV"));
    }
    if header.version.get() != 1 {
        return Err(malformed("its version is not 1"));
    }
    let count = usize::try_from(header.count.get()).unwrap_or(usize::MAX);
    if count > MAX_SECTIONS {
        return Err(malformed("it has more than 32 sections"));
    }
    if usize::try_from(header.len.get()).ok() != Some(16 + 12 * count) {
        return Err(malformed("its length does not fit its number of sections"));
    }
    let mut sections = Vec::with_capacity(count);
    let mut rest = rest;
    for index in 0..count {
        let (SectionAbi { gpa, size, kind }, after) = SectionAbi::read_from_prefix(rest)
            .map_err(|_| malformed("its sections are cut off"))?;
        let (gpa, size, kind) = (gpa.get(), size.get(), kind.get());
        let problem = "expected type 1, 2, 3, 4 or 0x10";
        let kind = SectionKind::from_number(kind).ok_or(FirmwareError::Section {
            index,
            gpa,
            size,
            kind,
            problem,
        })?;
        sections.push(Section { gpa, size, kind });
        rest = after;
    }
    Ok(sections)
}

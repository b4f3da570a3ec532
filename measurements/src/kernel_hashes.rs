//! The table of kernel hashes: how kernel, initrd and command line get into a launch digest.
//!
//! QEMU with `kernel-hashes=on` writes it into a page that the security processor measures; the
//! `AmdSev` flavour of OVMF refuses what does not hash to it. Layout: QEMU,
//! `target/i386/sev.c`, `PaddedSevHashTable`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zerocopy::{Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::firmware::{Layout, PAGE_LEN, guid};
use crate::hash::Sha256Hash;

/// Length of the table, padding included.
pub const TABLE_LEN: usize = 176;

/// Length of an entry.
const ENTRY_LEN: u16 = 16 + 2 + 32;
/// Length of the table as its header counts it, without the padding.
const HEADER_LEN: u16 = 16 + 2 + 3 * ENTRY_LEN;

/// QEMU's `SevHashTableEntry`.
#[derive(Debug, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    len: le::U16,
    hash: [u8; 32],
}

/// QEMU's `PaddedSevHashTable`.
#[derive(Debug, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Table {
    guid: [u8; 16],
    len: le::U16,
    cmdline: Entry,
    initrd: Entry,
    kernel: Entry,
    padding: [u8; 8],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(Entry, guid) == 0);
    assert!(offset_of!(Entry, len) == 16);
    assert!(offset_of!(Entry, hash) == 18);
    assert!(size_of::<Entry>() == 50);
    assert!(offset_of!(Table, guid) == 0);
    assert!(offset_of!(Table, len) == 16);
    assert!(offset_of!(Table, cmdline) == 18);
    assert!(offset_of!(Table, initrd) == 68);
    assert!(offset_of!(Table, kernel) == 118);
    assert!(offset_of!(Table, padding) == 168);
    assert!(size_of::<Table>() == TABLE_LEN);
};

/// 9438d606-4f22-4cc9-b479-a793d411fd21: the table.
const TABLE_GUID: [u8; 16] = guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a: the command line.
const CMDLINE_GUID: [u8; 16] = guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);
/// 44baf731-3a2f-4bd7-9af1-41e29169781d: the initrd.
const INITRD_GUID: [u8; 16] = guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
/// 4de79437-abd2-427f-b835-d5b172d2045b: the kernel.
const KERNEL_GUID: [u8; 16] = guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);

/// Offset of the magic of a bzImage's header.
const HDRS_OFFSET: usize = 0x202;

/// Why kernel hashes cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelHashesError {
    /// The firmware has no page for them: kernel, initrd and command line would not be measured.
    #[error(
        "firmware has no SNP_KERNEL_HASHES section, so kernel, initrd and command line would not \
         be measured: expected the AmdSev flavour of OVMF"
    )]
    NoSection,
    /// The firmware's page and the address of the table do not go together.
    #[error(
        "firmware puts the table of kernel hashes at {table:#x}, expected {TABLE_LEN} bytes \
         within the page at {page:#x}"
    )]
    Outside {
        /// Guest physical address of the table.
        table: u32,
        /// Guest physical address of the page.
        page: u32,
    },
    /// QEMU hashes bzImages only.
    #[error(
        "kernel is no bzImage: expected \"HdrS\" at offset {HDRS_OFFSET:#x}, found {found:02x?}"
    )]
    NotBzImage {
        /// The bytes found there.
        found: Vec<u8>,
    },
}

/// The three hashes, as the firmware compares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KernelHashes {
    /// SHA-256 of the command line's bytes and one NUL.
    pub cmdline: Sha256Hash,
    /// SHA-256 of the initrd; of nothing without one.
    pub initrd: Sha256Hash,
    /// SHA-256 of the whole kernel file.
    pub kernel: Sha256Hash,
}

impl KernelHashes {
    /// Hashes what QEMU is given. `cmdline` is hashed byte for byte, spaces at its ends included,
    /// and without a NUL of its own.
    #[must_use]
    pub fn of(kernel: &[u8], initrd: &[u8], cmdline: &[u8]) -> Self {
        Self::from_digests(Sha256Hash::of(kernel), Sha256Hash::of(initrd), cmdline)
    }

    /// As [`KernelHashes::of`], for files whose SHA-256 is known.
    #[must_use]
    pub fn from_digests(kernel: Sha256Hash, initrd: Sha256Hash, cmdline: &[u8]) -> Self {
        let cmdline = Sha256::new().chain_update(cmdline).chain_update([0]).finalize();
        Self { cmdline: Sha256Hash::from_bytes(cmdline.into()), initrd, kernel }
    }

    /// The table as it stands in the guest's memory.
    #[must_use]
    pub fn table(&self) -> [u8; TABLE_LEN] {
        let entry = |guid, hash: Sha256Hash| Entry {
            guid,
            len: le::U16::new(ENTRY_LEN),
            hash: *hash.as_bytes(),
        };
        let table = Table {
            guid: TABLE_GUID,
            len: le::U16::new(HEADER_LEN),
            cmdline: entry(CMDLINE_GUID, self.cmdline),
            initrd: entry(INITRD_GUID, self.initrd),
            kernel: entry(KERNEL_GUID, self.kernel),
            padding: [0; 8],
        };
        let mut bytes = [0; TABLE_LEN];
        bytes.copy_from_slice(table.as_bytes());
        bytes
    }

    /// A page of zeros with the table at `offset`; `None` where it does not fit.
    #[must_use]
    pub fn page(&self, offset: usize) -> Option<Box<[u8; PAGE_LEN]>> {
        let mut page = Box::new([0; PAGE_LEN]);
        let slot = page.get_mut(offset..)?.first_chunk_mut::<TABLE_LEN>()?;
        *slot = self.table();
        Some(page)
    }

    /// The page that `layout` asks for.
    pub(crate) fn page_for(
        &self,
        layout: &Layout,
    ) -> Result<Box<[u8; PAGE_LEN]>, KernelHashesError> {
        let section = layout.hashes_section().ok_or(KernelHashesError::NoSection)?;
        let (table, page) = (layout.hashes_table_gpa, section.gpa);
        let outside = KernelHashesError::Outside { table, page };
        let offset = table.checked_sub(page).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.page(offset)).ok_or(outside)
    }
}

/// Refuses a kernel that QEMU would start without hashing it.
///
/// # Errors
/// When it is no bzImage.
pub fn require_bzimage(kernel: &[u8]) -> Result<(), KernelHashesError> {
    let found = kernel.get(HDRS_OFFSET..).unwrap_or(&[]);
    let found = &found[..found.len().min(4)];
    if found == b"HdrS" {
        return Ok(());
    }
    Err(KernelHashesError::NotBzImage { found: found.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_laid_out_as_the_firmware_reads_it() {
        let hashes = KernelHashes::of(b"kernel", b"", b"a ");
        let table = hashes.table();
        assert_eq!(hex::encode(&table[..18]), "06d63894224fc94cb479a793d411fd21a800");
        assert_eq!(hex::encode(&table[18..36]), "d82dd09720bd944caa78e7714d36ab2a3200");
        assert_eq!(table[36..68], *Sha256Hash::of(b"a \0").as_bytes());
        assert_eq!(table[86..118], *Sha256Hash::of(b"").as_bytes());
        assert_eq!(table[136..168], *Sha256Hash::of(b"kernel").as_bytes());
        assert_eq!(table[168..], [0; 8]);
    }

    #[test]
    fn a_table_is_never_cut_off() {
        let hashes = KernelHashes::of(b"", b"", b"");
        let page = hashes.page(PAGE_LEN - TABLE_LEN).unwrap();
        assert_eq!(page[PAGE_LEN - TABLE_LEN..], hashes.table());
        assert!(page[..PAGE_LEN - TABLE_LEN].iter().all(|byte| *byte == 0));
        assert!(hashes.page(PAGE_LEN - TABLE_LEN + 1).is_none());
        assert!(hashes.page(usize::MAX).is_none());
    }

    #[test]
    fn only_bzimages_are_hashed_by_qemu() {
        let mut kernel = vec![0; 0x206];
        assert!(require_bzimage(&kernel).is_err());
        assert!(require_bzimage(b"\x7fELF").is_err());
        kernel[HDRS_OFFSET..].copy_from_slice(b"HdrS");
        assert_eq!(require_bzimage(&kernel), Ok(()));
    }
}

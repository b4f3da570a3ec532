//! Firmware files that no honest build makes: each is refused with a reason, none panics.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ovmf;

use casemate_measurements::firmware::{Firmware, FirmwareError, Layout, PAGE_LEN, SectionKind};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError};
use casemate_measurements::law::{Law, LawError};
use ovmf::{HASHES, METADATA, RESET, SECTIONS, entries, firmware, metadata};
use proptest::prelude::*;

fn with(index: usize, section: (u32, u32, u32)) -> Vec<u8> {
    let mut sections = SECTIONS;
    sections[index] = section;
    firmware(&entries(), &metadata(&sections))
}

#[test]
fn a_good_one_is_read() {
    let bytes = firmware(&entries(), &metadata(&SECTIONS));
    let parsed = Firmware::parse(&bytes).unwrap();
    assert_eq!(parsed.sha256, Sha256Hash::of(&bytes));
    assert_eq!(parsed.layout.reset_eip, 0x80_b004);
    assert_eq!(Layout::parse(&bytes[PAGE_LEN..]).as_ref(), Ok(&parsed.layout));
    assert_eq!(parsed.layout.hashes_section().unwrap().kind, SectionKind::KernelHashes);
    let hashes = KernelHashes::of(b"k", b"i", b"c");
    let law = Law::new(&parsed, &hashes).unwrap();
    let mut flipped = bytes;
    flipped[0] ^= 1;
    let other = Firmware::parse(&flipped).unwrap();
    assert_ne!(other.pages, parsed.pages);
    assert_ne!(Law::new(&other, &hashes).unwrap(), law);
}

#[test]
fn lengths_and_tables_are_checked() {
    for len in [0, 1, 31, 32, 4095, 4097, 16 * 1024 * 1024 + 4096] {
        let refused = Firmware::parse(&vec![0; len]).unwrap_err();
        assert_eq!(refused, FirmwareError::Length { len });
    }
    assert_eq!(Firmware::parse(&[0; 4096]).unwrap_err(), FirmwareError::NoTable);
    assert_eq!(Layout::parse(&[]).unwrap_err(), FirmwareError::NoTable);
    let good = metadata(&SECTIONS);
    for missing in [0, 2] {
        let mut entries = entries();
        entries.remove(missing);
        let refused = Firmware::parse(&firmware(&entries, &good)).unwrap_err();
        assert!(matches!(refused, FirmwareError::MissingEntry { .. }), "{refused}");
    }
    for (guid, data) in [(RESET, vec![0; 4]), (HASHES, vec![0; 9]), (METADATA, vec![])] {
        let mut entries = entries();
        entries.push((guid, data));
        let refused = Firmware::parse(&firmware(&entries, &good)).unwrap_err();
        assert!(matches!(refused, FirmwareError::Table { .. }), "{refused}");
    }
    // An entry whose length reaches beyond the table, and a table longer than the file.
    let mut bytes = firmware(&entries(), &good);
    let end = bytes.len() - 32 - 18;
    bytes[end - 18..end - 16].copy_from_slice(&0xff_u16.to_le_bytes());
    assert!(matches!(Firmware::parse(&bytes).unwrap_err(), FirmwareError::Table { .. }));
    bytes[end..end + 2].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(Firmware::parse(&bytes).unwrap_err(), FirmwareError::Table { .. }));
}

#[test]
fn metadata_is_checked_before_it_is_followed() {
    for offset in [0, 1, 15, 2 * 4096 + 1, u32::MAX] {
        let mut entries = entries();
        entries[0].1 = offset.to_le_bytes().to_vec();
        let refused = Firmware::parse(&firmware(&entries, &metadata(&SECTIONS))).unwrap_err();
        assert!(matches!(refused, FirmwareError::Metadata { .. }), "{offset}: {refused}");
    }
    let good = metadata(&SECTIONS);
    for (at, value) in [(0, 0_u32), (4, 0xffff), (8, 2), (12, 10_000), (12, u32::MAX), (12, 3)] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let refused = Firmware::parse(&firmware(&entries(), &bytes)).unwrap_err();
        assert!(matches!(refused, FirmwareError::Metadata { .. }), "{at} {value}: {refused}");
    }
}

#[test]
fn sections_must_be_measurable() {
    for (section, problem) in [
        ((0x80_d000, 0, 2), "whole pages"),
        ((0x80_d001, 0x1000, 2), "whole pages"),
        ((0x80_d000, 0x800, 2), "whole pages"),
        ((0xffff_f000, 0x1000, 2), "4 GiB"),
        ((0x80_8000, 0x1000, 2), "overlaps"),
        ((0x7f_f000, 0x2000, 2), "overlaps"),
        ((0x90_0000, 0x400_0000, 1), "64 MiB"),
        ((0x90_0000, 0x1000, 5), "expected type"),
        ((0x90_0000, 0x1000, 0x10), "once"),
        ((0xffff_d000, 0x2000, 1), "firmware is mapped"),
    ] {
        // The last section is the hashes' page, so a second one of that type comes before it.
        let refused = Firmware::parse(&with(1, section)).unwrap_err();
        assert!(matches!(refused, FirmwareError::Section { .. }), "{section:x?}: {refused}");
        assert!(refused.to_string().contains(problem), "{section:x?}: {refused}");
    }
    let two_pages = Firmware::parse(&with(3, (0x81_0000, 0x2000, 0x10))).unwrap_err();
    assert!(two_pages.to_string().contains("one page"), "{two_pages}");
}

#[test]
fn a_table_of_hashes_outside_its_page_is_refused() {
    for gpa in [0_u32, 0x80_ffff, 0x81_0f51, 0x81_1000, u32::MAX] {
        let mut entries = entries();
        entries[1].1[..4].copy_from_slice(&gpa.to_le_bytes());
        let parsed = Firmware::parse(&firmware(&entries, &metadata(&SECTIONS))).unwrap();
        let hashes = KernelHashes::of(b"k", b"i", b"c");
        let refused = Law::new(&parsed, &hashes).unwrap_err();
        let outside = KernelHashesError::Outside { table: gpa, page: 0x81_0000 };
        assert_eq!(refused, LawError::KernelHashes(outside));
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(tail in proptest::collection::vec(any::<u8>(), 0..600), at in 0_usize..512) {
        let mut bytes = firmware(&entries(), &metadata(&SECTIONS));
        let end = bytes.len() - at.min(bytes.len() - tail.len());
        let start = end - tail.len().min(end);
        let len = end - start;
        bytes[start..end].copy_from_slice(&tail[..len]);
        let _ = Firmware::parse(&bytes);
        let _ = Layout::parse(&tail);
    }

    /// Small changes get past the first checks, which noise does not.
    #[test]
    fn no_changed_byte_panics(changes in proptest::collection::vec((0_usize..0x600, any::<u8>()), 1..4)) {
        let mut bytes = firmware(&entries(), &metadata(&SECTIONS));
        let len = bytes.len();
        for (at, byte) in changes {
            bytes[len - 1 - at] = byte;
        }
        if let Ok(parsed) = Firmware::parse(&bytes) {
            let _ = Law::new(&parsed, &KernelHashes::of(b"k", b"i", b"c"));
        }
    }
}

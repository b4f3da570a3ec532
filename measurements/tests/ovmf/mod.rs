//! Small firmware files with the tables of OVMF at their end.

use casemate_measurements::firmware::PAGE_LEN;

const FOOTER: &str = "de82b596b21ff745baeaa366c55a082d";
pub(crate) const RESET: &str = "de71f7007e1acb4f890e68c77e2fb44e";
pub(crate) const HASHES: &str = "1f3755723b3a044b927b1da6efa8d454";
pub(crate) const METADATA: &str = "666588dc4a989847a75e5585a7bf67cc";
/// Where the metadata starts, counted from the end of the file.
const METADATA_AT: u32 = 0x600;

/// A firmware of two pages with the given entries and metadata.
pub(crate) fn firmware(entries: &[(&str, Vec<u8>)], metadata: &[u8]) -> Vec<u8> {
    let mut table = Vec::new();
    for (guid, data) in entries {
        table.extend_from_slice(data);
        table.extend_from_slice(&u16::try_from(data.len() + 18).unwrap().to_le_bytes());
        table.extend_from_slice(&hex::decode(guid).unwrap());
    }
    table.extend_from_slice(&u16::try_from(table.len() + 18).unwrap().to_le_bytes());
    table.extend_from_slice(&hex::decode(FOOTER).unwrap());
    let mut bytes = vec![0xff; 2 * PAGE_LEN];
    let end = bytes.len() - 32;
    bytes[end - table.len()..end].copy_from_slice(&table);
    let start = bytes.len() - METADATA_AT as usize;
    bytes[start..start + metadata.len()].copy_from_slice(metadata);
    bytes
}

pub(crate) fn entries() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (METADATA, METADATA_AT.to_le_bytes().to_vec()),
        (HASHES, [0x81_0c00_u32.to_le_bytes(), 0x400_u32.to_le_bytes()].concat()),
        (RESET, 0x80_b004_u32.to_le_bytes().to_vec()),
    ]
}

pub(crate) fn metadata(sections: &[(u32, u32, u32)]) -> Vec<u8> {
    let count = u32::try_from(sections.len()).unwrap();
    let mut bytes = b"ASEV".to_vec();
    let words = [16 + 12 * count, 1, count];
    let sections = sections.iter().flat_map(|(gpa, size, kind)| [*gpa, *size, *kind]);
    for word in words.into_iter().chain(sections) {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

pub(crate) const SECTIONS: [(u32, u32, u32); 4] = [
    (0x80_0000, 0x9000, 1),
    (0x80_d000, 0x1000, 2),
    (0x80_e000, 0x1000, 3),
    (0x81_0000, 0x1000, 0x10),
];

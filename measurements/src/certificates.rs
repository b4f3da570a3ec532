//! The certificate table that a host hands to its guests with a report.
//!
//! AMD document 56421, *SEV-ES Guest-Hypervisor Communication Block Standardization*, revision
//! 2.04, section "SNP Extended Guest Request": entries of GUID, offset and length, a zero entry,
//! then the certificates. The GUIDs stand as their digits are printed (RFC 9562), not
//! mixed-endian. The host writes it: every offset is checked.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

/// Most bytes of a table.
pub const MAX_LEN: usize = 64 * 1024;
/// Most entries of a table.
pub const MAX_ENTRIES: usize = 16;

/// An entry of the table.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    offset: le::U32,
    len: le::U32,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(Entry, guid) == 0);
    assert!(offset_of!(Entry, offset) == 16);
    assert!(offset_of!(Entry, len) == 20);
    assert!(size_of::<Entry>() == ENTRY_LEN);
};

const ENTRY_LEN: usize = 24;

const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const VLEK: u128 = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
const ARK: u128 = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae;

/// Why a table is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It is too long.
    #[error("certificate table has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
    /// The zero entry is missing.
    #[error("certificate table has no zero entry within its first {MAX_ENTRIES}")]
    NoEnd,
    /// An entry lies outside the table.
    #[error(
        "certificate table entry {index} is {len} bytes at {offset}, outside its {table} bytes"
    )]
    Outside {
        /// Which, from zero.
        index: usize,
        /// Where the certificate starts.
        offset: u32,
        /// Its length.
        len: u32,
        /// The table's length.
        table: usize,
    },
    /// A certificate stands there twice.
    #[error("certificate table has two entries {guid}")]
    Twice {
        /// Which.
        guid: &'static str,
    },
}

/// The certificates of a table, DER or PEM as the host gave them; unknown entries are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateTable {
    /// The key that signed the report, endorsed for a chip and its TCB.
    pub vcek: Option<Vec<u8>>,
    /// The key that signed the report, endorsed for a provider and a TCB.
    pub vlek: Option<Vec<u8>>,
    /// AMD's intermediate.
    pub ask: Option<Vec<u8>>,
    /// AMD's root.
    pub ark: Option<Vec<u8>>,
}

impl CertificateTable {
    /// Reads a table. No bytes are a table without certificates.
    ///
    /// # Errors
    /// When it is too long, has no end, points outside itself, or has a certificate twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, TableError> {
        let mut table = Self::default();
        if bytes.len() > MAX_LEN {
            return Err(TableError::TooLong { len: bytes.len() });
        }
        if bytes.is_empty() {
            return Ok(table);
        }
        for (index, entry) in bytes.chunks_exact(ENTRY_LEN).take(MAX_ENTRIES).enumerate() {
            let entry = Entry::read_from_bytes(entry).map_err(|_| TableError::NoEnd)?;
            if entry.guid == [0; 16] {
                return Ok(table);
            }
            let (offset, len) = (entry.offset.get(), entry.len.get());
            let outside = TableError::Outside { index, offset, len, table: bytes.len() };
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let certificate = usize::try_from(len)
                .ok()
                .and_then(|len| bytes.get(start..start.checked_add(len)?))
                .ok_or(outside)?;
            let (slot, guid) = match u128::from_be_bytes(entry.guid) {
                VCEK => (&mut table.vcek, "VCEK"),
                VLEK => (&mut table.vlek, "VLEK"),
                ASK => (&mut table.ask, "ASK"),
                ARK => (&mut table.ark, "ARK"),
                _ => continue,
            };
            if slot.replace(certificate.to_vec()).is_some() {
                return Err(TableError::Twice { guid });
            }
        }
        Err(TableError::NoEnd)
    }

    /// This table, with what it lacks from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            vcek: self.vcek.or(other.vcek),
            vlek: self.vlek.or(other.vlek),
            ask: self.ask.or(other.ask),
            ark: self.ark.or(other.ark),
        }
    }

    /// Writes the table.
    ///
    /// # Errors
    /// When it would be too long.
    pub fn encode(&self) -> Result<Vec<u8>, TableError> {
        let present: Vec<(u128, &[u8])> =
            [(VCEK, &self.vcek), (VLEK, &self.vlek), (ASK, &self.ask), (ARK, &self.ark)]
                .into_iter()
                .filter_map(|(guid, bytes)| Some((guid, bytes.as_deref()?)))
                .collect();
        let header = (present.len() + 1) * ENTRY_LEN;
        let len = header + present.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        if len > MAX_LEN {
            return Err(TableError::TooLong { len });
        }
        let mut table = Vec::with_capacity(len);
        let mut offset = header;
        for (guid, bytes) in &present {
            // Bounded by MAX_LEN above.
            let number = |number: usize| le::U32::new(u32::try_from(number).unwrap_or(u32::MAX));
            let (guid, len) = (guid.to_be_bytes(), number(bytes.len()));
            let entry = Entry { guid, offset: number(offset), len };
            table.extend_from_slice(entry.as_bytes());
            offset += bytes.len();
        }
        table.extend_from_slice(&[0; ENTRY_LEN]);
        table.extend(present.iter().flat_map(|(_, bytes)| bytes.iter()));
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> CertificateTable {
        CertificateTable {
            vcek: Some(b"vcek".to_vec()),
            vlek: None,
            ask: Some(b"ask".to_vec()),
            ark: Some(b"ark".to_vec()),
        }
    }

    #[test]
    fn the_wire_form_is_the_one_hosts_write() {
        let bytes = table().encode().unwrap();
        assert_eq!(hex::encode(&bytes[..16]), "63da758de6644564adc5f4b93be8accd");
        assert_eq!(bytes[16..24], [96, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(bytes[72..96], [0; 24]);
        assert_eq!(&bytes[96..], b"vcekaskark");
        let mut padded = bytes.clone();
        padded.resize(4096, 0);
        for bytes in [bytes, padded] {
            assert_eq!(CertificateTable::parse(&bytes), Ok(table()));
        }
        let empty = CertificateTable::default();
        assert_eq!(CertificateTable::parse(&[]), Ok(empty.clone()));
        assert_eq!(CertificateTable::parse(&empty.encode().unwrap()), Ok(empty));
    }

    #[test]
    fn entries_outside_twice_or_without_end_are_refused() {
        let good = table().encode().unwrap();
        for (at, value) in [(16, u32::MAX), (20, u32::MAX), (20, 11), (16, 107)] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let refused = CertificateTable::parse(&bytes);
            assert!(matches!(refused, Err(TableError::Outside { index: 0, .. })), "{refused:?}");
        }
        let mut twice = good.clone();
        twice.copy_within(24..40, 0);
        assert_eq!(CertificateTable::parse(&twice), Err(TableError::Twice { guid: "ASK" }));
        assert_eq!(
            CertificateTable::parse(&good[..72]),
            Err(TableError::Outside { index: 0, offset: 96, len: 4, table: 72 })
        );
        assert_eq!(CertificateTable::parse(&[0; 23]), Err(TableError::NoEnd));
        assert!(CertificateTable::parse(&vec![0; MAX_LEN + 1]).is_err());
        let long = CertificateTable { ark: Some(vec![0; MAX_LEN]), ..table() };
        assert!(long.encode().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CertificateTable::parse(&bytes);
            let mut table = table().encode().unwrap();
            let len = bytes.len().min(table.len());
            table[..len].copy_from_slice(&bytes[..len]);
            let _ = CertificateTable::parse(&table);
        }
    }
}

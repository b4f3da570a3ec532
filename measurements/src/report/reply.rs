//! The report in what hands it out: alone, or in the reply of the device.
//!
//! Linux's `/dev/sev-guest` answers with the security processor's message (AMD document 56860, *SEV
//! Secure Nested Paging Firmware ABI Specification*, revision 1.58, table of `MSG_REPORT_RSP`): a
//! status, the report's length, 24 zero bytes, then the report, in a buffer of 4000 bytes. Tools
//! write the message, the buffer, or the report with the buffer's end behind it to a file.

use zerocopy::{FromBytes, Immutable, KnownLayout, little_endian as le};

use crate::evidence::REPORT_LEN;

/// Versions of reports that any firmware writes; the message starts with a status of zero.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=99;

#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    status: le::U32,
    report_size: le::U32,
    reserved_008: [u8; 24],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(Header, status) == 0);
    assert!(offset_of!(Header, report_size) == 4);
    assert!(offset_of!(Header, reserved_008) == 8);
    assert!(size_of::<Header>() == 32);
};

/// Why there is no report in some bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// They are neither a report nor a reply.
    #[error(
        "{found} bytes that are neither a report ({REPORT_LEN} bytes) nor the device's reply with \
         one (32 bytes before it, zeros behind it)"
    )]
    Unknown {
        /// How many.
        found: usize,
    },
    /// The security processor refused.
    #[error("the device's reply without a report: the security processor refused with {status:#x}")]
    Refused {
        /// Its status.
        status: u32,
    },
}

/// The report in `bytes`, which are one or the device's reply with one. What it says is not looked
/// at.
///
/// # Errors
/// When there is none.
pub fn report_in(bytes: &[u8]) -> Result<&[u8], ReplyError> {
    if bytes.len() == REPORT_LEN {
        return Ok(bytes);
    }
    let unknown = ReplyError::Unknown { found: bytes.len() };
    let (header, behind) = Header::ref_from_prefix(bytes).map_err(|_| unknown.clone())?;
    let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let size = usize::try_from(header.report_size.get()).unwrap_or(usize::MAX);
    let report = match header.status.get() {
        0 if size == REPORT_LEN && zeros(&header.reserved_008) => behind,
        status if status != 0 && zeros(&bytes[4..]) => return Err(ReplyError::Refused { status }),
        version if VERSIONS.contains(&version) && bytes.len() > REPORT_LEN => bytes,
        _ => return Err(unknown),
    };
    match report.split_at_checked(REPORT_LEN) {
        Some((report, rest)) if zeros(rest) => Ok(report),
        _ => Err(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Vec<u8> {
        let mut report: Vec<u8> = (0..=255).cycle().take(REPORT_LEN).collect();
        report[..4].copy_from_slice(&[3, 0, 0, 0]);
        report
    }

    fn reply(report: &[u8], padding: usize) -> Vec<u8> {
        let header = [&[0, 0, 0, 0, 0xa0, 4, 0, 0][..], &[0; 24]].concat();
        [&header, report, &vec![0; padding]].concat()
    }

    #[test]
    fn the_report_is_taken_out_of_what_is_around_it() {
        let report = report();
        for bytes in [
            report.clone(),
            reply(&report, 0),
            reply(&report, 4000 - 32 - REPORT_LEN),
            [&report[..], &[0; 2912]].concat(),
            [&report[..], &[0]].concat(),
        ] {
            assert_eq!(report_in(&bytes), Ok(&report[..]), "{}", bytes.len());
        }
    }

    #[test]
    fn what_holds_no_report_is_told() {
        let report = report();
        let mut reserved = reply(&report, 0);
        reserved[31] = 1;
        let mut longer = reply(&report, 0);
        longer[4] += 1;
        for bytes in [
            vec![],
            report[1..].to_vec(),
            [&report[..], &[1]].concat(),
            [&reply(&report, 0)[..], &[1]].concat(),
            reply(&report[1..], 0),
            vec![0; 4000],
            vec![b'{'; 2000],
            reserved,
            longer,
        ] {
            let unknown = ReplyError::Unknown { found: bytes.len() };
            assert_eq!(report_in(&bytes), Err(unknown), "{}", bytes.len());
        }
        let mut refused = vec![0; 4000];
        refused[0] = 0x16;
        assert_eq!(report_in(&refused), Err(ReplyError::Refused { status: 0x16 }));
    }
}

//! How a guest talks to the simulated security processor: one request, one response, over the
//! virtio-serial port [`PORT`]. Only guests whose measured command line says
//! `casemate.platform=simulated` ever open it.
//!
//! ```text
//! request   "CMPSP1RQ" report_data[64]
//! response  "CMPSP1RS" u32le report_len, report, u32le certs_len, certs
//! failure   "CMPSP1ER" u32le len, UTF-8 text
//! ```
//!
//! Pure functions of bytes: the caller reads and writes the port.

use crate::evidence::REPORT_LEN;
use crate::hash::ReportData;

/// Name of the virtio-serial port.
pub const PORT: &str = "casemate.psp";
/// What a request starts with.
pub const REQUEST_MAGIC: &[u8; 8] = b"CMPSP1RQ";
/// What a response starts with.
pub const RESPONSE_MAGIC: &[u8; 8] = b"CMPSP1RS";
/// What a failure starts with.
pub const ERROR_MAGIC: &[u8; 8] = b"CMPSP1ER";
/// Length of a request.
pub const REQUEST_LEN: usize = 8 + ReportData::LEN;
/// Most bytes of a certificate table.
pub const MAX_CERTIFICATES_LEN: usize = 64 * 1024;
/// Most bytes of the text of a failure.
pub const MAX_ERROR_LEN: usize = 4096;
/// Most bytes of a response.
pub const MAX_RESPONSE_LEN: usize = 8 + 4 + REPORT_LEN + 4 + MAX_CERTIFICATES_LEN;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message starts with something else.
    #[error("message to or from the simulated security processor starts with {found:02x?}")]
    Magic {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// The request has another length.
    #[error("request has {found} bytes, expected {REQUEST_LEN}")]
    RequestLength {
        /// The length found.
        found: usize,
    },
    /// A length field is out of bounds.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length {
        /// What the field counts.
        what: &'static str,
        /// The length found.
        found: usize,
        /// The bounds.
        expected: &'static str,
    },
    /// The text of a failure is not UTF-8.
    #[error("the failure's text is not UTF-8")]
    Text,
}

/// What the simulated security processor answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// A report and the certificate table.
    Report {
        /// The report, [`REPORT_LEN`] bytes.
        report: Vec<u8>,
        /// The certificate table; may be empty.
        certificates: Vec<u8>,
    },
    /// It refused, and says why.
    Refused(String),
}

/// Writes a request.
#[must_use]
pub fn encode_request(report_data: &ReportData) -> [u8; REQUEST_LEN] {
    let mut bytes = [0; REQUEST_LEN];
    bytes[..8].copy_from_slice(REQUEST_MAGIC);
    bytes[8..].copy_from_slice(report_data.as_bytes());
    bytes
}

/// Reads a request of exactly [`REQUEST_LEN`] bytes.
///
/// # Errors
/// When it has another length or does not start with [`REQUEST_MAGIC`].
pub fn decode_request(bytes: &[u8]) -> Result<ReportData, WireError> {
    let Some((magic, report_data)) = bytes.split_first_chunk::<8>() else {
        return Err(WireError::RequestLength { found: bytes.len() });
    };
    if magic != REQUEST_MAGIC {
        return Err(WireError::Magic { found: magic.to_vec() });
    }
    let report_data =
        report_data.try_into().map_err(|_| WireError::RequestLength { found: bytes.len() })?;
    Ok(ReportData::from_bytes(report_data))
}

/// Writes a response.
///
/// # Errors
/// When a part has a length that no reader takes. The text of a refusal is cut instead.
pub fn encode_response(response: &Response) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    match response {
        Response::Report { report, certificates } => {
            check_report(report.len())?;
            check_certificates(certificates.len())?;
            bytes.extend_from_slice(RESPONSE_MAGIC);
            put(&mut bytes, report);
            put(&mut bytes, certificates);
        }
        Response::Refused(text) => {
            let end = (0..=MAX_ERROR_LEN).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            bytes.extend_from_slice(ERROR_MAGIC);
            put(&mut bytes, text.as_bytes().get(..end).unwrap_or(text.as_bytes()));
        }
    }
    Ok(bytes)
}

/// Reads a response from the start of `bytes`: the response and how many bytes it took, or
/// `None` when more bytes are needed (at most [`MAX_RESPONSE_LEN`] in all).
///
/// # Errors
/// When the bytes can become no response.
pub fn decode_response(bytes: &[u8]) -> Result<Option<(Response, usize)>, WireError> {
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
        let prefix = RESPONSE_MAGIC.starts_with(bytes) || ERROR_MAGIC.starts_with(bytes);
        return if prefix { Ok(None) } else { Err(WireError::Magic { found: bytes.to_vec() }) };
    };
    let mut rest = rest;
    let response = if magic == RESPONSE_MAGIC {
        let Some(report) = take(&mut rest, check_report)? else { return Ok(None) };
        let Some(certificates) = take(&mut rest, check_certificates)? else { return Ok(None) };
        Response::Report { report: report.to_vec(), certificates: certificates.to_vec() }
    } else if magic == ERROR_MAGIC {
        let Some(text) = take(&mut rest, check_error)? else { return Ok(None) };
        let text = str::from_utf8(text).map_err(|_| WireError::Text)?;
        Response::Refused(text.to_owned())
    } else {
        return Err(WireError::Magic { found: magic.to_vec() });
    };
    Ok(Some((response, bytes.len() - rest.len())))
}

fn check_report(found: usize) -> Result<(), WireError> {
    if found == REPORT_LEN {
        return Ok(());
    }
    Err(WireError::Length { what: "report", found, expected: "1184" })
}

fn check_certificates(found: usize) -> Result<(), WireError> {
    if found <= MAX_CERTIFICATES_LEN {
        return Ok(());
    }
    Err(WireError::Length { what: "certificate table", found, expected: "at most 65536" })
}

fn check_error(found: usize) -> Result<(), WireError> {
    if found <= MAX_ERROR_LEN {
        return Ok(());
    }
    Err(WireError::Length { what: "text of the failure", found, expected: "at most 4096" })
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    // Every caller has bounded the length far below 2^32.
    bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(part);
}

/// Takes a length and so many bytes; checks the length before the bytes have come.
fn take<'a>(
    rest: &mut &'a [u8],
    check: fn(usize) -> Result<(), WireError>,
) -> Result<Option<&'a [u8]>, WireError> {
    let Some((len, after)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
    check(len)?;
    let Some((part, after)) = after.split_at_checked(len) else { return Ok(None) };
    *rest = after;
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip_and_others_are_refused() {
        let data = ReportData::from_bytes([9; 64]);
        let bytes = encode_request(&data);
        assert_eq!(&bytes[..8], b"CMPSP1RQ");
        assert_eq!(decode_request(&bytes), Ok(data));
        assert_eq!(decode_request(&bytes[..71]), Err(WireError::RequestLength { found: 71 }));
        assert_eq!(decode_request(&[]), Err(WireError::RequestLength { found: 0 }));
        assert!(matches!(decode_request(&[0; 72]), Err(WireError::Magic { .. })));
    }

    #[test]
    fn responses_are_read_at_whatever_pieces_they_come_in() {
        let report = Response::Report { report: vec![1; REPORT_LEN], certificates: vec![2, 3, 4] };
        for response in [report, Response::Refused("no".into())] {
            let mut bytes = encode_response(&response).unwrap();
            for end in 0..bytes.len() {
                assert_eq!(decode_response(&bytes[..end]), Ok(None), "{end}");
            }
            let len = bytes.len();
            bytes.push(0xff);
            assert_eq!(decode_response(&bytes), Ok(Some((response, len))));
        }
    }

    #[test]
    fn lengths_are_refused_before_their_bytes_are_awaited() {
        for bytes in [
            &b"CMPSP1RS\xff\xff\xff\xff"[..],
            b"CMPSP1RS\x9f\x04\x00\x00",
            b"CMPSP1ER\x01\x10\x00\x00",
        ] {
            assert!(matches!(decode_response(bytes), Err(WireError::Length { .. })), "{bytes:?}");
        }
        assert!(matches!(decode_response(b"CMPX"), Err(WireError::Magic { .. })));
        let short = Response::Report { report: vec![], certificates: vec![] };
        assert!(encode_response(&short).is_err());
        let long = encode_response(&Response::Refused("\u{e9}".repeat(4096))).unwrap();
        assert_eq!(long.len(), 12 + MAX_ERROR_LEN);
    }
}

//! A device's report: the SPDM request `GET_MEASUREMENTS` and the response `MEASUREMENTS`, one
//! after the other, signed together.
//!
//! DMTF DSP0274, *Security Protocol and Data Model (SPDM) Specification*, version 1.1.0, gives
//! both messages. The signature is ECDSA on P-384 over the SHA-384 of all that stands before it.

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};

use super::opaque::{Opaque, OpaqueError};
use crate::hash::Nonce;

/// Most bytes of a report: what the driver's interface hands out at most.
pub const MAX_REPORT_LEN: usize = 8192;
/// Length of the request.
pub const REQUEST_LEN: usize = 37;
/// Length of the signature.
pub const SIGNATURE_LEN: usize = 96;

const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
const WITH_SIGNATURE: u8 = 1;
const ALL_BLOCKS: u8 = 0xff;
const DMTF: u8 = 1;

/// Why bytes are no report, or not one of this key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is too long.
    #[error("{found} bytes, expected at most {MAX_REPORT_LEN}")]
    TooLong {
        /// The length found.
        found: usize,
    },
    /// It ends within a field, or after the last one.
    #[error("the report ends within or goes on after its {field}")]
    Length {
        /// Which field.
        field: &'static str,
    },
    /// A field has a value that no such report has.
    #[error("{field} is {found:#04x}, expected {expected:#04x}")]
    Field {
        /// Which field.
        field: &'static str,
        /// The value found.
        found: u8,
        /// The value expected.
        expected: u8,
    },
    /// The measurement blocks are not 1 to the last, each once.
    #[error("measurement block {position} has the index {found}")]
    Index {
        /// Where, from 1.
        position: usize,
        /// The index found.
        found: u8,
    },
    /// The device's own data is malformed.
    #[error("the opaque data is malformed")]
    Opaque(#[from] OpaqueError),
    /// The signature is wrong.
    #[error("the report is not signed by the key of its certificate")]
    Signature,
}

/// A report that is well formed and not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedReport {
    bytes: Vec<u8>,
    report: Report,
}

/// What a report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The nonce of the request.
    pub nonce: Nonce,
    /// The measurements: the place in this list is the index that reference integrity manifests
    /// use, one less than that of SPDM.
    pub measurements: Vec<Vec<u8>>,
    /// What NVIDIA's firmware adds.
    pub opaque: Opaque,
}

/// Takes fields from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], ReportError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ReportError::Length { field })?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, ReportError> {
        Ok(self.take(1, field)?[0])
    }

    /// A little-endian number of up to four bytes.
    fn number(&mut self, len: usize, field: &'static str) -> Result<usize, ReportError> {
        let bytes = self.take(len, field)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn expect(&mut self, expected: u8, field: &'static str) -> Result<(), ReportError> {
        let found = self.byte(field)?;
        if found == expected { Ok(()) } else { Err(ReportError::Field { field, found, expected }) }
    }

    fn nonce(&mut self, field: &'static str) -> Result<Nonce, ReportError> {
        let bytes = self.take(Nonce::LEN, field)?.try_into();
        bytes.map(Nonce::from_bytes).map_err(|_| ReportError::Length { field })
    }

    fn end(&self, field: &'static str) -> Result<(), ReportError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReportError::Length { field }) }
    }
}

impl UnverifiedReport {
    /// Reads a report; every byte of it must be known.
    ///
    /// # Errors
    /// When it is anything else than one request with its signed response.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT_LEN {
            return Err(ReportError::TooLong { found: bytes.len() });
        }
        let mut fields = Fields(bytes);
        fields.expect(VERSION, "SPDM version of the request")?;
        fields.expect(GET_MEASUREMENTS, "code of the request")?;
        fields.expect(WITH_SIGNATURE, "attributes of the request")?;
        fields.expect(ALL_BLOCKS, "operation of the request")?;
        let nonce = fields.nonce("nonce of the request")?;
        let slot = fields.byte("certificate slot of the request")?;
        fields.expect(VERSION, "SPDM version of the response")?;
        fields.expect(MEASUREMENTS, "code of the response")?;
        fields.expect(0, "first parameter of the response")?;
        fields.expect(slot, "certificate slot of the response")?;
        let count = fields.byte("number of measurement blocks")?;
        let len = fields.number(3, "length of the measurement blocks")?;
        let blocks = fields.take(len, "measurement blocks")?;
        fields.nonce("nonce of the response")?;
        let len = fields.number(2, "length of the opaque data")?;
        let opaque = Opaque::parse(fields.take(len, "opaque data")?)?;
        fields.take(SIGNATURE_LEN, "signature")?;
        fields.end("signature")?;
        let measurements = measurements(blocks, count)?;
        Ok(Self { bytes: bytes.to_vec(), report: Report { nonce, measurements, opaque } })
    }

    /// Verifies the signature over the bytes as received.
    ///
    /// # Errors
    /// When it is not of this key.
    pub(crate) fn verify(self, key: &VerifyingKey) -> Result<Report, ReportError> {
        let refused = |_| ReportError::Signature;
        let (signed, signature) = self.bytes.split_at(self.bytes.len() - SIGNATURE_LEN);
        let signature = Signature::from_slice(signature).map_err(refused)?;
        key.verify(signed, &signature).map_err(refused)?;
        Ok(self.report)
    }
}

fn measurements(blocks: &[u8], count: u8) -> Result<Vec<Vec<u8>>, ReportError> {
    let mut blocks = Fields(blocks);
    let mut measurements = Vec::with_capacity(usize::from(count));
    for position in 1..=usize::from(count) {
        let found = blocks.byte("index of a measurement block")?;
        if usize::from(found) != position {
            return Err(ReportError::Index { position, found });
        }
        blocks.expect(DMTF, "specification of a measurement block")?;
        let len = blocks.number(2, "length of a measurement block")?;
        let mut block = Fields(blocks.take(len, "measurement block")?);
        block.byte("type of a measurement")?;
        let len = block.number(2, "length of a measurement")?;
        measurements.push(block.take(len, "measurement")?.to_vec());
        block.end("measurement")?;
    }
    blocks.end("measurement blocks")?;
    Ok(measurements)
}

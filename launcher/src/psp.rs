//! SIMULATED. The software security processor: measures the bytes that QEMU is given, answers
//! requests for reports on a socket.
//!
//! It plays the part that firmware of the chip plays on an SNP host, so it reads the files
//! themselves and takes no digest from a plan. The guest writes the requests: they are read with
//! bounds and answered one at a time.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use casemate_measurements::firmware::{Firmware, FirmwareError};
use casemate_measurements::hash::{LaunchDigest, ReportData, Sha256Hash};
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError, TABLE_LEN};
use casemate_measurements::law::{Law, LawError};
use casemate_measurements::report::Unsigned;
use casemate_measurements::simulated::{self, REQUEST_LEN, Response};
use rsa::rand_core::{OsRng, RngCore as _};

use crate::authority::Chip;
use crate::machine::Machine;
use crate::release;

/// Why a machine cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum PspError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The firmware is refused.
    #[error("{} cannot be measured", path.display())]
    Firmware {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FirmwareError,
    },
    /// The kernel is refused.
    #[error("{} cannot be measured", path.display())]
    Kernel {
        /// Which.
        path: PathBuf,
        /// Why.
        source: KernelHashesError,
    },
    /// Firmware and kernel cannot be measured together.
    #[error("{} and the kernel cannot be measured together", path.display())]
    Law {
        /// The firmware.
        path: PathBuf,
        /// Why.
        source: LawError,
    },
}

/// What a machine measures to, by the bytes that it is started from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// The table that the firmware finds in memory.
    pub(crate) table: [u8; TABLE_LEN],
    /// The launch digest.
    pub(crate) digest: LaunchDigest,
}

/// Reads the files and measures them. `forged` is a table to place in place of the true one; as
/// on an SNP host, what is placed is what is measured.
pub(crate) fn measure(
    machine: &Machine,
    forged: Option<&KernelHashes>,
) -> Result<Measured, PspError> {
    let path = &machine.firmware;
    let bytes = fs::read(path).map_err(|source| PspError::Read { path: path.clone(), source })?;
    let firmware = Firmware::parse(&bytes)
        .map_err(|source| PspError::Firmware { path: path.clone(), source })?;
    let hashes = match forged {
        Some(hashes) => *hashes,
        None => KernelHashes::from_digests(
            hash(&machine.kernel)?,
            hash(&machine.initrd)?,
            machine.cmdline.as_bytes(),
        ),
    };
    let law = Law::new(&firmware, firmware.sha256, &hashes)
        .map_err(|source| PspError::Law { path: path.clone(), source })?;
    Ok(Measured { table: hashes.table(), digest: law.digest(&machine.shape) })
}

fn hash(path: &Path) -> Result<Sha256Hash, PspError> {
    let fail = |source| PspError::Read { path: path.to_owned(), source };
    release::hash(&mut fs::File::open(path).map_err(fail)?).map_err(fail)
}

/// SIMULATED: the security processor of one VM.
#[derive(Debug)]
pub(crate) struct Processor {
    chip: Chip,
    fields: Unsigned,
}

impl Processor {
    /// The processor of a machine that was measured.
    pub(crate) fn new(chip: Chip, machine: &Machine, digest: LaunchDigest) -> Self {
        let mut report_id = [0; 32];
        OsRng.fill_bytes(&mut report_id);
        let fields = Unsigned {
            policy: machine.policy,
            measurement: digest,
            host_data: machine.host_data,
            report_id,
            ..Unsigned::genoa()
        };
        Self { chip, fields }
    }

    fn answer(&self, report_data: ReportData) -> Response {
        let fields = Unsigned { report_data, ..self.fields.clone() };
        let certificates = self.chip.certificates().to_vec();
        Response::Report { report: self.chip.sign(&fields).to_vec(), certificates }
    }

    /// Answers requests until the other end is gone.
    pub(crate) fn serve(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        let mut request = [0; REQUEST_LEN];
        loop {
            match stream.read_exact(&mut request) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let response = match simulated::decode_request(&request) {
                Ok(report_data) => self.answer(report_data),
                Err(error) => Response::Refused(error.to_string()),
            };
            let bytes = simulated::encode_response(&response).map_err(io::Error::other)?;
            stream.write_all(&bytes)?;
        }
    }
}

//! Why there is no report.

use std::io;
use std::path::PathBuf;

use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::simulated::WireError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or device could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file holds what the kernel does not write there.
    #[error("{} holds {found:?}, expected {expected}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it holds, shortened.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Somebody else asked for a report with the same entry at the same time.
    #[error("the entry was used by somebody else: generation {found}, expected {expected}")]
    Generation {
        /// The generation found.
        found: u64,
        /// The generation after the request.
        expected: u64,
    },
    /// The firmware refused the request.
    #[error("the security processor refused: firmware error {firmware:#x}, VMM error {vmm:#x}")]
    Firmware {
        /// The firmware's code.
        firmware: u32,
        /// The VMM's code.
        vmm: u32,
    },
    /// The port of the simulated security processor is missing.
    #[error("there is no port {name}")]
    NoPort {
        /// The port's name.
        name: &'static str,
    },
    /// The simulated security processor did not answer in time.
    #[error("the simulated security processor did not answer in time")]
    TimedOut,
    /// The simulated security processor refused.
    #[error("the simulated security processor refused: {0:?}")]
    Refused(String),
    /// The simulated security processor sent nonsense.
    #[error("the simulated security processor sent nonsense")]
    Wire(#[from] WireError),
    /// The report has another length.
    #[error("report has {found} bytes, expected {REPORT_LEN}")]
    Length {
        /// The length found.
        found: usize,
    },
    /// The certificate table is too long.
    #[error("certificate table has {found} bytes, expected at most 65536")]
    Certificates {
        /// The length found.
        found: usize,
    },
    /// The report is over other data than was asked.
    #[error("the report is over other REPORT_DATA than was asked with")]
    OtherReportData,
}

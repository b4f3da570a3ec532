//! Where reports come from. The measured command line names the platform, and nothing else
//! does: a guest built for SEV-SNP never opens the simulated device, and the other way round.

mod error;
mod sev_guest;
mod simulated;
mod tsm;

pub use error::ReportError;

use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::hash::{HostData, ReportData};
use casemate_measurements::platform::Platform;

use crate::sysfs::SysRoot;

/// Offset of `REPORT_DATA` in a report: SEV Secure Nested Paging Firmware ABI Specification,
/// document 56860, table "`ATTESTATION_REPORT` Structure".
const REPORT_DATA: usize = 0x50;
/// Offset of `HOST_DATA`, in the same table.
const HOST_DATA: usize = 0xc0;
/// Most bytes of a certificate table; Linux passes on four pages.
const MAX_CERTIFICATES: usize = 64 * 1024;

/// Something that signs reports.
pub trait ReportSource: Send {
    /// Asks for a report over `data`.
    ///
    /// # Errors
    /// When there is none to be had.
    fn report(&mut self, data: &ReportData) -> Result<Quote, ReportError>;
}

/// A report and the certificates that came with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quote {
    report: Box<[u8; REPORT_LEN]>,
    certificates: Vec<u8>,
}

impl Quote {
    /// Takes a report and the certificate table as the host gave it; neither is judged.
    ///
    /// # Errors
    /// When one has another length than it can have.
    pub fn new(report: &[u8], certificates: Vec<u8>) -> Result<Self, ReportError> {
        let found = report.len();
        let report = report.try_into().map_err(|_| ReportError::Length { found })?;
        if certificates.len() > MAX_CERTIFICATES {
            return Err(ReportError::Certificates { found: certificates.len() });
        }
        Ok(Self { report: Box::new(report), certificates })
    }

    /// `HOST_DATA` of the report.
    #[must_use]
    pub fn host_data(&self) -> HostData {
        HostData::from_bytes(self.field(HOST_DATA))
    }

    /// `REPORT_DATA` of the report.
    #[must_use]
    pub fn report_data(&self) -> ReportData {
        ReportData::from_bytes(self.field(REPORT_DATA))
    }

    /// Holds the report to the data that was asked with: a late answer to an earlier request is
    /// not passed on.
    ///
    /// # Errors
    /// When `REPORT_DATA` is other.
    pub fn check(self, data: &ReportData) -> Result<Self, ReportError> {
        if self.report_data() == *data { Ok(self) } else { Err(ReportError::OtherReportData) }
    }

    /// The report and the certificate table.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.report.to_vec(), self.certificates)
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.report[offset..offset + N]);
        bytes
    }
}

/// The source for a platform. It is asked later; a missing device is an error then.
///
/// On SEV-SNP that is configfs-tsm where the kernel has it, and `/dev/sev-guest` otherwise: two
/// doors to one security processor.
#[must_use]
pub fn source(platform: Platform, root: &SysRoot) -> Box<dyn ReportSource> {
    match platform {
        Platform::Simulated => Box::new(simulated::Port::new(root.clone())),
        Platform::Snp => Box::new(Snp { root: root.clone() }),
    }
}

#[derive(Debug)]
struct Snp {
    root: SysRoot,
}

impl ReportSource for Snp {
    fn report(&mut self, data: &ReportData) -> Result<Quote, ReportError> {
        let reports = self.root.path(tsm::REPORTS);
        if reports.is_dir() {
            tsm::report(&reports, data)
        } else {
            sev_guest::report(&self.root.path(sev_guest::DEVICE), data)
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::time::Duration;

    use super::*;

    /// A source that signs nothing.
    #[derive(Debug, Default)]
    pub(crate) struct Fake {
        pub(crate) delay: Duration,
        pub(crate) stale: bool,
    }

    impl ReportSource for Fake {
        fn report(&mut self, data: &ReportData) -> Result<Quote, ReportError> {
            std::thread::sleep(self.delay);
            let mut report = [0; REPORT_LEN];
            if !self.stale {
                report[REPORT_DATA..REPORT_DATA + 64].copy_from_slice(data.as_bytes());
            }
            Quote::new(&report, vec![])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_specification_puts_them() {
        let mut report = [0_u8; REPORT_LEN];
        report[0x50..0x90].fill(1);
        report[0xc0..0xe0].fill(2);
        let quote = Quote::new(&report, vec![7]).unwrap();
        assert_eq!(quote.report_data(), ReportData::from_bytes([1; 64]));
        assert_eq!(quote.host_data(), HostData::from_bytes([2; 32]));
        assert!(quote.clone().check(&ReportData::from_bytes([1; 64])).is_ok());
        assert!(quote.clone().check(&ReportData::from_bytes([0; 64])).is_err());
        assert_eq!(quote.into_parts(), (report.to_vec(), vec![7]));
    }

    #[test]
    fn other_lengths_are_refused() {
        for len in [0, REPORT_LEN - 1, REPORT_LEN + 1] {
            let error = Quote::new(&vec![0; len], vec![]).unwrap_err();
            assert!(matches!(error, ReportError::Length { found } if found == len));
        }
        assert!(Quote::new(&[0; REPORT_LEN], vec![0; MAX_CERTIFICATES + 1]).is_err());
    }

    #[test]
    fn no_platform_falls_back_to_another() {
        let dir = tempfile::tempdir().unwrap();
        let root = SysRoot::new(dir.path());
        let ports = dir.path().join("sys/class/virtio-ports/vport0p1");
        std::fs::create_dir_all(&ports).unwrap();
        std::fs::write(ports.join("name"), casemate_measurements::simulated::PORT).unwrap();
        let data = ReportData::from_bytes([0; 64]);
        let error = source(Platform::Snp, &root).report(&data).unwrap_err();
        assert!(error.to_string().contains("sev-guest"), "{error}");
        std::fs::create_dir_all(root.path(tsm::REPORTS)).unwrap();
        let error = source(Platform::Snp, &root).report(&data).unwrap_err();
        assert!(error.to_string().contains("tsm"), "{error}");
    }
}

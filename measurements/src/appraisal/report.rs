//! Judges a report alone, without a VM that serves it: is it genuine, and does it say what is
//! expected? What else it says is the reader's to judge.

use std::fmt;

use serde::Serialize;

use crate::certificates::CertificateTable;
use crate::hash::{ChipId, LaunchDigest, ReportData};
use crate::platform::Platform;
use crate::tcb::{Product, Tcb};

use super::basis::{Basis, Judged};
use super::expect::Expect;
use super::verdict::{Check, CheckName, Recorder, write_checks};

/// A verifier of single reports.
#[derive(Debug, Clone)]
pub struct ReportAppraiser<'a> {
    /// Whom it believes, at what time.
    pub basis: Basis<'a>,
    /// Who should have signed; a report does not say.
    pub platform: Platform,
    /// What the guest should have had signed.
    pub report_data: Expect<ReportData>,
    /// What should have been launched.
    pub measurement: Expect<LaunchDigest>,
}

/// What a genuine report says about the machine and the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Statement {
    version: u32,
    product: Product,
    chip_id: ChipId,
    reported_tcb: Option<Tcb>,
    measurement: LaunchDigest,
    report_data: ReportData,
}

/// The verdict on one report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportVerdict {
    schema: u32,
    /// One sentence for a person.
    summary: String,
    simulated: bool,
    genuine: bool,
    /// Of a genuine report only.
    statement: Option<Statement>,
    checks: Vec<Check>,
}

impl ReportAppraiser<'_> {
    /// Judges the bytes of a report with the certificates that are at hand.
    #[must_use]
    pub fn appraise(&self, report: &[u8], table: &CertificateTable) -> ReportVerdict {
        let simulated = self.platform == Platform::Simulated;
        let mut recorder = Recorder::default();
        recorder.simulated = simulated;
        let judged = self.basis.judge(report, Ok(table.clone()), self.platform, &mut recorder);
        let statement = judged.map(|judged| self.judge_content(&judged, &mut recorder));
        let genuine = recorder.holds_alone();
        let mark = if simulated { "SIMULATED, proves nothing: " } else { "" };
        let summary = match recorder.failure() {
            Some(failure) => format!("{mark}not genuine: {failure}"),
            None => format!("{mark}genuine"),
        };
        ReportVerdict {
            schema: ReportVerdict::SCHEMA,
            summary,
            simulated,
            genuine,
            statement: statement.filter(|_| genuine),
            checks: recorder.into_listed(CheckName::OF_REPORT),
        }
    }

    fn judge_content(&self, judged: &Judged, recorder: &mut Recorder<'_>) -> Statement {
        let report = judged.report.report();
        let (report_data, measurement) = (report.report_data(), report.measurement());
        recorder.expect(CheckName::ReportData, &self.report_data, &report_data);
        recorder.expect(CheckName::LaunchDigest, &self.measurement, &measurement);
        Statement {
            version: report.version().number(),
            product: judged.product,
            chip_id: report.chip_id(),
            reported_tcb: Tcb::from_raw(report.reported_tcb(), judged.product),
            measurement,
            report_data,
        }
    }
}

impl Statement {
    /// The product that the key is endorsed for.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.product
    }
}

impl ReportVerdict {
    /// The version of the format that this code writes.
    pub const SCHEMA: u32 = 1;

    /// Whether no check failed.
    #[must_use]
    pub const fn is_genuine(&self) -> bool {
        self.genuine
    }

    /// Whether it was judged as simulated: then it proves nothing.
    #[must_use]
    pub const fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Every check of [`CheckName::OF_REPORT`], in that order.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// What a genuine report says.
    #[must_use]
    pub const fn statement(&self) -> Option<&Statement> {
        self.statement.as_ref()
    }

    /// 0 genuine, 2 not genuine.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if self.genuine { 0 } else { 2 }
    }

    /// One sentence for a person.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }
}

impl fmt::Display for ReportVerdict {
    /// A line for each check and one for the answer. Every line of a simulated one says so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_checks(f, self.simulated, &self.checks)?;
        writeln!(f, "{}", self.summary)
    }
}

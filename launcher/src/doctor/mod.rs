//! Is this host fit to launch confidential VMs, and if not, what mends it?
//!
//! A pure function of an [`Inventory`]: each finding says what was found, why it matters and what
//! to do. What the host says of itself is worth nothing to anyone else: a miner asks the doctor
//! for his own sake, and a validator believes reports alone.

mod cmdline;
mod gpu;
mod log;
mod platform;
mod system;

use serde::Serialize;

use crate::inventory::Inventory;
use crate::profile::Profiles;

/// How a finding is meant. Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Could not be found out.
    Unknown,
    /// VMs start, but slower, fewer or less surely.
    Warning,
    /// No VM starts, or none that a validator accepts.
    Problem,
}

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, as `kvm.snp`.
    pub check: &'static str,
    /// The device that it is about; none for the host.
    pub device: Option<String>,
    /// How it is meant.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do; none when it is as it should be.
    pub mend: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    schema: u32,
    fit: bool,
    findings: Vec<Finding>,
}

impl Diagnosis {
    /// Whether nothing found stops a confidential VM from starting.
    #[must_use]
    pub const fn is_fit(&self) -> bool {
        self.fit
    }

    /// Every finding, the good ones too.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings are of a level.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

/// Judges a host.
#[must_use]
pub fn examine(host: &Inventory, profiles: &Profiles) -> Diagnosis {
    let mut findings = Findings::default();
    // Failures that the log tells come first: where one is told, nothing else is said of it.
    log::examine(host, gpu::has_fabric(host, profiles), &mut findings);
    platform::examine(host, &mut findings);
    system::examine(host, &mut findings);
    gpu::examine(host, profiles, &mut findings);
    let findings = findings.0;
    let fit = findings.iter().all(|finding| finding.level != Level::Problem);
    Diagnosis { schema: 1, fit, findings }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Records what was found of the host; `mend` is kept unless it is as it should be.
    fn host(&mut self, check: &'static str, level: Level, found: String, texts: Texts<'_>) {
        self.push(check, None, level, found, texts);
    }

    /// Records what was found of a device.
    fn device(
        &mut self,
        check: &'static str,
        device: &dyn std::fmt::Display,
        level: Level,
        found: String,
        texts: Texts<'_>,
    ) {
        self.push(check, Some(device.to_string()), level, found, texts);
    }

    /// Whether something was already found by a check.
    fn has(&self, check: &str) -> bool {
        self.0.iter().any(|finding| finding.check == check)
    }

    fn push(
        &mut self,
        check: &'static str,
        device: Option<String>,
        level: Level,
        found: String,
        Texts { why, mend }: Texts<'_>,
    ) {
        let mend = (level != Level::Ok).then(|| mend.to_owned());
        self.0.push(Finding { check, device, level, found, why, mend });
    }
}

/// What is said beside what was found.
#[derive(Debug, Clone, Copy)]
struct Texts<'a> {
    why: &'static str,
    mend: &'a str,
}

/// A problem unless `fine`.
const fn problem_unless(fine: bool) -> Level {
    if fine { Level::Ok } else { Level::Problem }
}

/// A warning unless `fine`.
const fn warning_unless(fine: bool) -> Level {
    if fine { Level::Ok } else { Level::Warning }
}

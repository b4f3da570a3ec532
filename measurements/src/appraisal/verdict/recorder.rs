//! Collects checks while evidence is judged, and makes the verdict of them.

use std::fmt;

use super::{ANY, Check, CheckName, Outcome, Question, Verdict};
use crate::appraisal::expect::Expect;
use crate::appraisal::policy::Policy;
use crate::appraisal::source::Source;
use crate::causes;
use crate::hash::{LaunchDigest, Sha256Hash};
use crate::launch::Shape;
use crate::manifest::Release;
use crate::platform::Platform;

/// Collects checks while evidence is judged.
#[derive(Debug, Default)]
pub(in crate::appraisal) struct Recorder<'a> {
    checks: Vec<Check>,
    pub(in crate::appraisal) simulated: bool,
    pub(in crate::appraisal) measurement: Option<LaunchDigest>,
    pub(in crate::appraisal) shape: Option<Shape>,
    pub(in crate::appraisal) ssh_host_key: Option<String>,
    pub(in crate::appraisal) release: Option<(Release, Sha256Hash)>,
    policy: Option<&'a Policy>,
}

impl<'a> Recorder<'a> {
    /// Collects what is judged by `policy`.
    pub(in crate::appraisal) fn of(policy: &'a Policy) -> Self {
        Self { policy: Some(policy), ..Self::default() }
    }

    fn push(&mut self, name: CheckName, outcome: Outcome, expected: &str, found: &str) {
        let question = name.question();
        let (expected, found) = (printable(expected), printable(found));
        let source = source_text(self.policy, name.source());
        self.checks.push(Check { name, question, outcome, expected, found, source });
    }

    /// Says that the expectation of a recorded check comes from elsewhere than it usually does.
    pub(in crate::appraisal) fn resourced(&mut self, name: CheckName, source: Source) {
        let source = source_text(self.policy, source);
        if let Some(check) = self.checks.iter_mut().rfind(|check| check.name == name) {
            check.source = source;
        }
    }

    /// Records a comparison and returns whether it passed.
    pub(in crate::appraisal) fn record(
        &mut self,
        name: CheckName,
        passed: bool,
        expected: &dyn fmt::Display,
        found: &dyn fmt::Display,
    ) -> bool {
        let outcome = if passed { Outcome::Passed } else { Outcome::Failed };
        self.push(name, outcome, &expected.to_string(), &found.to_string());
        passed
    }

    /// Records that two values should be equal.
    pub(in crate::appraisal) fn equal<T: PartialEq + fmt::Display>(
        &mut self,
        name: CheckName,
        expected: &T,
        found: &T,
    ) -> bool {
        self.record(name, expected == found, expected, found)
    }

    /// Records a step that gives a value or an error, whose whole chain is told.
    pub(in crate::appraisal) fn step<T, E: std::error::Error>(
        &mut self,
        name: CheckName,
        expected: &str,
        result: Result<T, E>,
        found: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                let found = found(&value);
                self.push(name, Outcome::Passed, expected, &found);
                Some(value)
            }
            Err(error) => {
                self.push(name, Outcome::Failed, expected, &causes::in_one_line(&error));
                None
            }
        }
    }

    /// Records an expectation; what may be anything is not judged.
    pub(in crate::appraisal) fn expect<T: PartialEq + fmt::Display>(
        &mut self,
        name: CheckName,
        expected: &Expect<T>,
        found: &T,
    ) {
        self.judged(name, expected.accepts(found), expected, found);
    }

    /// Records what was judged, or that a policy leaves it open.
    pub(in crate::appraisal) fn judged(
        &mut self,
        name: CheckName,
        accepted: Option<bool>,
        expected: &dyn fmt::Display,
        found: &dyn fmt::Display,
    ) {
        match accepted {
            Some(passed) => _ = self.record(name, passed, expected, found),
            None => self.skip(name, expected, &format!("{ANY}, found {found}")),
        }
    }

    /// Records that something is not judged, and why.
    pub(in crate::appraisal) fn skip(
        &mut self,
        name: CheckName,
        expected: &dyn fmt::Display,
        why: &str,
    ) {
        self.push(name, Outcome::Skipped, &expected.to_string(), why);
    }

    /// Whether a check was reached and passed.
    pub(in crate::appraisal) fn passed(&self, name: CheckName) -> bool {
        let mut recorded = self.checks.iter();
        recorded.any(|check| check.name == name && check.outcome == Outcome::Passed)
    }

    /// What was recorded, in that order.
    pub(in crate::appraisal) fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    /// Whether every check of `names` was reached and none failed.
    fn all_hold<'n>(&self, mut names: impl Iterator<Item = &'n CheckName>) -> bool {
        names.all(|name| {
            let mut recorded = self.checks.iter().filter(|check| check.name == *name).peekable();
            recorded.peek().is_some() && recorded.all(|check| check.outcome != Outcome::Failed)
        })
    }

    /// Whether every check of a question about evidence was reached and none failed.
    pub(in crate::appraisal) fn holds(&self, question: Question) -> bool {
        self.all_hold(CheckName::ALL.iter().filter(|name| name.question() == question))
    }

    /// Whether every check of a report alone was reached and none failed.
    pub(in crate::appraisal) fn holds_alone(&self) -> bool {
        self.all_hold(CheckName::OF_REPORT.iter())
    }

    /// The first check that failed, as `name: finding`.
    pub(in crate::appraisal) fn failure(&self) -> Option<String> {
        let failed = self.checks.iter().find(|check| check.outcome == Outcome::Failed)?;
        Some(format!("{}: {}", failed.name.text(), failed.found))
    }

    /// The checks of `names`, each once. What was not reached is listed as skipped.
    pub(in crate::appraisal) fn into_listed(self, names: &[CheckName]) -> Vec<Check> {
        let why = match self.checks.iter().find(|check| check.outcome == Outcome::Failed) {
            Some(check) => format!("not reached: failed before at \"{}\"", check.name.text()),
            None => "not reached".to_owned(),
        };
        let policy = self.policy;
        let mut recorded = self.checks;
        let listed = names.iter().map(|name| {
            let not_reached = || Check {
                name: *name,
                question: name.question(),
                outcome: Outcome::Skipped,
                expected: name.text().to_owned(),
                found: why.clone(),
                source: source_text(policy, name.source()),
            };
            let at = recorded.iter().position(|check| check.name == *name);
            at.map_or_else(not_reached, |at| recorded.swap_remove(at))
        });
        listed.collect()
    }

    /// The verdict. What was not reached holds nothing.
    pub(in crate::appraisal) fn finish(mut self) -> Verdict {
        let genuine = self.holds(Question::Genuine);
        let acceptable = genuine && self.holds(Question::Acceptable);
        let failure = self.failure().unwrap_or_default();
        let mark = if self.simulated { "SIMULATED, proves nothing: " } else { "" };
        let (release, manifest_sha256) = self.release.take().unzip();
        let summary = match (genuine, acceptable) {
            (true, true) => {
                let text = |Release { name, version, .. }: &Release| format!(": {name} {version}");
                let release = release.as_ref().map(text).unwrap_or_default();
                format!("{mark}genuine and acceptable{release}")
            }
            (true, false) => format!("{mark}genuine but not acceptable: {failure}"),
            (false, _) => format!("{mark}not genuine: {failure}"),
        };
        Verdict {
            schema: Verdict::SCHEMA,
            summary,
            simulated: self.simulated,
            genuine,
            acceptable,
            release,
            manifest_sha256,
            measurement: self.measurement,
            shape: self.shape,
            ssh_host_key: self.ssh_host_key.take().filter(|_| acceptable),
            checks: self.into_listed(CheckName::ALL),
        }
    }
}

fn source_text(policy: Option<&Policy>, source: Source) -> String {
    policy.map_or_else(|| source.to_string(), |policy| policy.source(source))
}

/// Text of a machine that may be hostile, safe for a terminal and not too long for one.
fn printable(text: &str) -> String {
    const MOST: usize = 600;
    let escape = |c: char| match c {
        ' '..='~' => vec![c],
        _ => c.escape_default().collect(),
    };
    text.chars().flat_map(escape).take(MOST).collect()
}

/// The platform, with what it is worth.
pub(in crate::appraisal) fn platform_text(platform: Platform) -> String {
    match platform {
        Platform::Snp => platform.to_string(),
        Platform::Simulated => format!("{platform} (SIMULATED, proves nothing)"),
    }
}

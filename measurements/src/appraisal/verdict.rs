//! The verdict: every check with what was expected and what was found, and the two answers.

use std::fmt;

use serde::Serialize;

use crate::hash::LaunchDigest;
use crate::launch::Shape;
use crate::manifest::Release;
use crate::platform::Platform;

/// Which of the two questions a check answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Did a security processor that is trusted say this, now, about whom I talk to?
    Genuine,
    /// Is what it said what I want?
    Acceptable,
}

macro_rules! checks {
    ($($(#[$doc:meta])* $name:ident = $question:ident, $text:literal;)*) => {
        /// Every check, in the order in which a verdict lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum CheckName { $($(#[$doc])* $name,)* }

        impl CheckName {
            /// Every check.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The question that it answers.
            #[must_use]
            pub const fn question(self) -> Question {
                match self { $(Self::$name => Question::$question,)* }
            }

            /// What it is called, for a person.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

checks! {
    /// The evidence is JSON of the known schema.
    Evidence = Genuine, "evidence is well formed";
    /// The platform that it claims is one that the verifier trusts.
    Platform = Genuine, "platform is trusted";
    /// It echoes the nonce that was sent.
    Nonce = Genuine, "nonce is echoed";
    /// The report is one that this code knows every byte of.
    Report = Genuine, "report is well formed";
    /// The certificates lead from the report's key to a trusted root.
    Chain = Genuine, "certificate chain";
    /// The key is endorsed for the TCB that the report states.
    EndorsedTcb = Genuine, "key is endorsed for the report's TCB";
    /// The key is endorsed for the chip that the report states.
    Chip = Genuine, "key is endorsed for the report's chip";
    /// The report is signed by the key.
    Signature = Genuine, "report signature";
    /// `REPORT_DATA` starts with the nonce.
    ReportNonce = Genuine, "nonce is in the report";
    /// `REPORT_DATA` ends with the hash of the binding.
    ReportBinding = Genuine, "binding is in the report";
    /// The binding is JSON of the known shape.
    Binding = Genuine, "binding is well formed";
    /// The TLS key of the verifier's session is the one that is bound.
    TlsKey = Genuine, "TLS key of this session is bound";
    /// The launch config is the one that is bound.
    LaunchConfigBound = Genuine, "launch config is bound";
    /// The launch config is the one that the VM was started with.
    HostData = Genuine, "launch config is in HOST_DATA";
    /// The GPU evidence is the one that is bound, or there is none on either side.
    GpuEvidenceBound = Genuine, "GPU evidence is bound";
    /// No certificate was revoked. Never checked here.
    Revocation = Acceptable, "no certificate is revoked";
    /// The manifest is of the release that is wanted.
    Release = Acceptable, "release";
    /// The release is built for the platform that signed.
    ReleasePlatform = Acceptable, "release is for this platform";
    /// The manifest does not contradict itself: artifacts, law and table.
    Manifest = Acceptable, "manifest agrees with itself";
    /// The launch digest is one of the manifest's.
    Measurement = Acceptable, "launch digest is the release's";
    /// The guest policy is the manifest's.
    GuestPolicy = Acceptable, "guest policy is the release's";
    /// The host cannot debug the VM.
    Debug = Acceptable, "debugging is not allowed";
    /// The VM cannot be given to a migration agent.
    Migration = Acceptable, "migration is not allowed";
    /// The report was asked for at the expected privilege level.
    Vmpl = Acceptable, "VMPL";
    /// The machine's firmware is new enough.
    TcbFloor = Acceptable, "firmware is new enough";
    /// The machine is configured as wanted.
    Machine = Acceptable, "machine configuration";
    /// The launch config is well formed and one that is accepted.
    LaunchConfig = Acceptable, "launch config";
    /// There is GPU evidence where it is wanted and none where not.
    GpuEvidence = Acceptable, "GPU evidence";
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Found what was expected.
    Passed,
    /// Found something else.
    Failed,
    /// Not judged; the reason stands where the finding would.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Which.
    pub name: CheckName,
    /// The question that it answers.
    pub question: Question,
    /// How it ended.
    pub outcome: Outcome,
    /// What was expected.
    pub expected: String,
    /// What was found; of a skipped check, why it was not judged.
    pub found: String,
}

/// The verdict on one piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    schema: u32,
    /// One sentence for a person.
    summary: String,
    simulated: bool,
    genuine: bool,
    acceptable: bool,
    release: Release,
    measurement: Option<LaunchDigest>,
    shape: Option<Shape>,
    ssh_host_key: Option<String>,
    checks: Vec<Check>,
}

impl Verdict {
    /// The version of the format that this code writes.
    pub const SCHEMA: u32 = 1;

    /// Whether every check of the first question passed.
    #[must_use]
    pub const fn is_genuine(&self) -> bool {
        self.genuine
    }

    /// Whether it is genuine and no check of the second question failed.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        self.genuine && self.acceptable
    }

    /// Whether the evidence claims the simulated platform: it proves nothing.
    #[must_use]
    pub const fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Every check, each once, in the order of [`CheckName::ALL`].
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// One check.
    #[must_use]
    pub fn check(&self, name: CheckName) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The launch digest of a genuine report.
    #[must_use]
    pub const fn measurement(&self) -> Option<&LaunchDigest> {
        self.measurement.as_ref()
    }

    /// The shape that the launch digest fits.
    #[must_use]
    pub const fn shape(&self) -> Option<&Shape> {
        self.shape.as_ref()
    }

    /// The SSH host key of the VM, as `TYPE BASE64`; only of an accepted one.
    #[must_use]
    pub fn attested_ssh_host_key(&self) -> Option<&str> {
        self.ssh_host_key.as_deref().filter(|_| self.is_accepted())
    }

    /// 0 accepted, 2 not genuine, 3 genuine but not acceptable.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match (self.genuine, self.acceptable) {
            (true, true) => 0,
            (false, _) => 2,
            (true, false) => 3,
        }
    }

    /// One sentence for a person.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.summary
    }
}

impl fmt::Display for Verdict {
    /// A line for each check and one for the answer. Every line of simulated evidence says so.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.simulated { "SIMULATED " } else { "" };
        for Check { name, outcome, expected, found, .. } in &self.checks {
            let name = name.text();
            match outcome {
                Outcome::Passed => writeln!(f, "{mark}passed   {name}: {found}")?,
                Outcome::Failed => {
                    writeln!(f, "{mark}FAILED   {name}: expected {expected}, found {found}")?;
                }
                Outcome::Skipped => writeln!(f, "{mark}skipped  {name}: {found}")?,
            }
        }
        writeln!(f, "{}", self.summary)
    }
}

/// Collects checks while evidence is judged.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    checks: Vec<Check>,
    pub(super) simulated: bool,
    pub(super) measurement: Option<LaunchDigest>,
    pub(super) shape: Option<Shape>,
    pub(super) ssh_host_key: Option<String>,
}

impl Recorder {
    fn push(&mut self, name: CheckName, outcome: Outcome, expected: &str, found: &str) {
        let question = name.question();
        let (expected, found) = (printable(expected), printable(found));
        self.checks.push(Check { name, question, outcome, expected, found });
    }

    /// Records a comparison and returns whether it passed.
    pub(super) fn record(
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
    pub(super) fn equal<T: PartialEq + fmt::Display>(
        &mut self,
        name: CheckName,
        expected: &T,
        found: &T,
    ) -> bool {
        self.record(name, expected == found, expected, found)
    }

    /// Records a step that gives a value or an error, whose whole chain is told.
    pub(super) fn step<T, E: std::error::Error>(
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
                self.push(name, Outcome::Failed, expected, &chain_of(&error));
                None
            }
        }
    }

    /// Records that something is not judged, and why.
    pub(super) fn skip(&mut self, name: CheckName, expected: &dyn fmt::Display, why: &str) {
        self.push(name, Outcome::Skipped, &expected.to_string(), why);
    }

    /// Whether every check of a question was reached and none failed.
    pub(super) fn holds(&self, question: Question) -> bool {
        CheckName::ALL.iter().filter(|name| name.question() == question).all(|name| {
            let mut recorded = self.checks.iter().filter(|check| check.name == *name).peekable();
            recorded.peek().is_some() && recorded.all(|check| check.outcome != Outcome::Failed)
        })
    }

    /// The verdict. What was not reached is listed as skipped and holds nothing.
    pub(super) fn finish(self, release: &Release) -> Verdict {
        let genuine = self.holds(Question::Genuine);
        let acceptable = genuine && self.holds(Question::Acceptable);
        let failed = self.checks.iter().find(|check| check.outcome == Outcome::Failed);
        let failed = failed.map(|check| (check.name, check.found.clone()));
        let why = match &failed {
            Some((name, _)) => format!("not reached: failed before at \"{}\"", name.text()),
            None => "not reached".to_owned(),
        };
        let mut recorded = self.checks;
        let mut checks = Vec::with_capacity(CheckName::ALL.len());
        for name in CheckName::ALL {
            match recorded.iter().position(|check| check.name == *name) {
                Some(at) => checks.push(recorded.swap_remove(at)),
                None => checks.push(Check {
                    name: *name,
                    question: name.question(),
                    outcome: Outcome::Skipped,
                    expected: name.text().to_owned(),
                    found: why.clone(),
                }),
            }
        }
        let mark = if self.simulated { "SIMULATED, proves nothing: " } else { "" };
        let Release { name, version, .. } = release;
        let (at, found) =
            failed.as_ref().map_or(("", ""), |(name, found)| (name.text(), found.as_str()));
        let summary = match (genuine, acceptable) {
            (true, true) => format!("{mark}genuine and acceptable: {name} {version}"),
            (true, false) => format!("{mark}genuine but not acceptable: {at}: {found}"),
            (false, _) => format!("{mark}not genuine: {at}: {found}"),
        };
        Verdict {
            schema: Verdict::SCHEMA,
            summary,
            simulated: self.simulated,
            genuine,
            acceptable,
            release: release.clone(),
            measurement: self.measurement,
            shape: self.shape,
            ssh_host_key: self.ssh_host_key.filter(|_| acceptable),
            checks,
        }
    }
}

/// An error and its sources, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
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
pub(super) fn platform_text(platform: Platform) -> String {
    match platform {
        Platform::Snp => platform.to_string(),
        Platform::Simulated => format!("{platform} (SIMULATED, proves nothing)"),
    }
}

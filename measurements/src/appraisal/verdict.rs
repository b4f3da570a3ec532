//! The verdict: every check with what was expected and what was found, and the two answers.

mod recorder;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::{LaunchDigest, Sha256Hash};
use crate::launch::Shape;
use crate::manifest::Release;

use super::source::Source;

pub(super) use recorder::{Recorder, platform_text};

/// Which of the two questions a check answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// Did a security processor that is trusted say this, now, about whom I talk to?
    Genuine,
    /// Is what it said what I want?
    Acceptable,
}

macro_rules! checks {
    (
        evidence { $($(#[$doc:meta])* $name:ident = $question:ident, $text:literal, $source:expr;)* }
        report_alone { $($(#[$lone_doc:meta])* $lone:ident = $lone_text:literal;)* }
    ) => {
        /// Every check, in the order in which a verdict lists them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "kebab-case")]
        pub enum CheckName {
            $($(#[$doc])* $name,)*
            $($(#[$lone_doc])* $lone,)*
        }

        impl CheckName {
            /// Every check of evidence.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The question that it answers.
            #[must_use]
            pub const fn question(self) -> Question {
                match self {
                    $(Self::$name => Question::$question,)*
                    $(Self::$lone => Question::Genuine,)*
                }
            }

            /// What it is called, for a person.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    $(Self::$lone => $lone_text,)*
                }
            }

            /// What it is called in JSON, for machines.
            #[must_use]
            pub fn id(self) -> String {
                let json = serde_json::to_value(self).unwrap_or_default();
                json.as_str().unwrap_or_default().to_owned()
            }

            /// Where its expectation comes from.
            #[must_use]
            pub const fn source(self) -> Source {
                match self {
                    $(Self::$name => $source,)*
                    $(Self::$lone => Source::Caller,)*
                }
            }
        }
    };
}

checks! {
    evidence {
        /// The evidence is JSON of the known schema.
        Evidence = Genuine, "evidence is well formed", Source::Format;
        /// The platform that it claims is one that the verifier trusts.
        Platform = Genuine, "platform is trusted", Source::Policy("platform");
        /// It echoes the nonce that was sent.
        Nonce = Genuine, "nonce is echoed", Source::Nonce;
        /// The report is one that this code knows every byte of.
        Report = Genuine, "report is well formed", Source::Format;
        /// The certificates lead from the report's key to a trusted root.
        Chain = Genuine, "certificate chain", Source::Roots;
        /// No list that the verifier has names a certificate of the chain.
        Revocation = Genuine, "no certificate is revoked", Source::RevocationLists;
        /// The key is endorsed for the TCB that the report states.
        EndorsedTcb = Genuine, "key is endorsed for the report's TCB", Source::Certificate;
        /// The key is endorsed for the chip that the report states.
        Chip = Genuine, "key is endorsed for the report's chip", Source::Certificate;
        /// The report is signed by the key.
        Signature = Genuine, "report signature", Source::Certificate;
        /// `REPORT_DATA` starts with the nonce.
        ReportNonce = Genuine, "nonce is in the report", Source::Nonce;
        /// `REPORT_DATA` ends with the hash of the binding.
        ReportBinding = Genuine, "binding is in the report", Source::Report;
        /// The binding is JSON of the known shape.
        Binding = Genuine, "binding is well formed", Source::Format;
        /// The TLS key of the verifier's session is the one that is bound.
        TlsKey = Genuine, "TLS key of this session is bound", Source::Session;
        /// The launch config is the one that is bound.
        LaunchConfigBound = Genuine, "launch config is bound", Source::Binding;
        /// The launch config is the one that the VM was started with.
        HostData = Genuine, "launch config is in HOST_DATA", Source::Report;
        /// The GPU evidence is the one that is bound, or there is none on either side.
        GpuEvidenceBound = Genuine, "GPU evidence is bound", Source::Binding;
        /// The certificates of every GPU and switch lead to NVIDIA's root.
        GpuCertificates = Genuine, "GPU certificates", Source::Roots;
        /// Every GPU's and switch's report is signed by its device and of its firmware.
        GpuReports = Genuine, "GPU reports", Source::Certificate;
        /// Every GPU and switch was asked with the nonce that belongs to this evidence.
        GpuNonce = Genuine, "GPU nonce", Source::Nonce;
        /// The verifier had a revocation list where it wants one.
        RevocationList = Acceptable, "a revocation list was at hand", Source::Policy("revocation_list");
        /// The policy is still one to judge by.
        PolicyExpiry = Acceptable, "policy has not expired", Source::Policy("expires");
        /// The evidence came soon after the nonce was sent.
        AnswerTime = Acceptable, "answer came in time", Source::Policy("answer_seconds");
        /// The manifest is of the release that is wanted.
        Release = Acceptable, "release", Source::Policy("release");
        /// The manifest is the very one that is wanted.
        ReleaseManifest = Acceptable, "manifest is the accepted one", Source::Policy("release");
        /// The release is still accepted.
        ReleaseExpiry = Acceptable, "release has not expired", Source::Policy("release");
        /// The release was not taken back.
        ReleaseRevoked = Acceptable, "release is not revoked", Source::Policy("revoked");
        /// The release is built for the platform that signed.
        ReleasePlatform = Acceptable, "release is for this platform", Source::Report;
        /// The manifest does not contradict itself: artifacts, law and table.
        Manifest = Acceptable, "manifest agrees with itself", Source::Format;
        /// The launch digest is one of the manifest's.
        Measurement = Acceptable, "launch digest is the release's", Source::Manifest("reference_values");
        /// The number of vCPUs is an accepted one.
        Vcpus = Acceptable, "vCPUs", Source::Policy("shapes.vcpus");
        /// The CPU model is an accepted one.
        CpuModel = Acceptable, "CPU model", Source::Policy("shapes.cpu_models");
        /// The guest policy is the manifest's.
        GuestPolicy = Acceptable, "guest policy is the release's", Source::Manifest("guest_policy");
        /// The host cannot debug the VM.
        Debug = Acceptable, "debugging is not allowed", Source::Always;
        /// The VM cannot be given to a migration agent.
        Migration = Acceptable, "migration is not allowed", Source::Always;
        /// The ID block states the ids and security version of the release.
        IdBlock = Acceptable, "ID block is the release's", Source::Manifest("id_block");
        /// The ID block is signed by the keys that are wanted, or there is none where none is.
        IdKeys = Acceptable, "ID block is signed by who is trusted", Source::Manifest("id_block");
        /// The report was asked for at the expected privilege level.
        Vmpl = Acceptable, "VMPL", Source::Policy("vmpl");
        /// The machine's firmware is new enough.
        TcbFloor = Acceptable, "firmware is new enough", Source::Policy("tcb_floor");
        /// Whether two threads share a core.
        Smt = Acceptable, "SMT", Source::Policy("machine.smt");
        /// Whether the host's own memory is encrypted.
        Tsme = Acceptable, "TSME", Source::Policy("machine.tsme");
        /// Whether the memory has error correction.
        Ecc = Acceptable, "ECC memory", Source::Policy("machine.ecc");
        /// Whether the host is kept from reading the power consumption.
        Rapl = Acceptable, "RAPL is disabled", Source::Policy("machine.rapl_disabled");
        /// Whether the host is kept from reading ciphertext.
        CiphertextHiding = Acceptable, "ciphertext is hidden", Source::Policy("machine.ciphertext_hiding");
        /// Whether the memory was checked for aliases.
        AliasCheck = Acceptable, "memory was checked for aliases", Source::Policy("machine.alias_check");
        /// The chip is an accepted one.
        ChipAllowed = Acceptable, "chip is accepted", Source::Policy("chips.allow");
        /// The chip is not a refused one.
        ChipDenied = Acceptable, "chip is not refused", Source::Policy("chips.deny");
        /// The launch config is well formed and one that is accepted.
        LaunchConfig = Acceptable, "launch config", Source::Policy("launch_config");
        /// Nobody may log in but who is accepted.
        SshKeys = Acceptable, "SSH keys that may log in", Source::Policy("ssh_keys");
        /// There is GPU evidence where it is wanted and none where not.
        GpuEvidence = Acceptable, "GPU evidence", Source::Policy("gpu_evidence");
        /// The GPUs and switches are those that the launch config promises, each once.
        GpuSet = Acceptable, "GPUs are the promised ones", Source::LaunchConfig;
        /// GPUs and switches see each other and nobody else.
        GpuFabric = Acceptable, "GPU fabric", Source::Always;
        /// Architecture, driver and VBIOS are ones that are accepted.
        GpuVersions = Acceptable, "GPU versions", Source::Policy("gpu.driver_floor");
        /// The measurements of every device equal NVIDIA's reference integrity manifests.
        GpuMeasurements = Acceptable, "GPU measurements", Source::Policy("gpu.measurements_match");
        /// No certificate of a GPU was revoked. Never checked here.
        GpuRevocation = Acceptable, "no GPU certificate is revoked", Source::RevocationLists;
        /// Another verifier of GPU evidence, where one was asked, accepts it too.
        GpuSecondOpinion = Acceptable, "another verifier's opinion of the GPUs", Source::Caller;
    }
    report_alone {
        /// `REPORT_DATA` is the one expected.
        ReportData = "REPORT_DATA";
        /// The launch digest is the one expected.
        LaunchDigest = "launch digest";
    }
}

impl CheckName {
    /// Every check of a report alone.
    pub const OF_REPORT: &'static [Self] = &[
        Self::Report,
        Self::Chain,
        Self::Revocation,
        Self::EndorsedTcb,
        Self::Chip,
        Self::Signature,
        Self::ReportData,
        Self::LaunchDigest,
    ];
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
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
    /// Where the expectation comes from.
    pub source: String,
}

/// The verdict on one piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    schema: u32,
    /// One sentence for a person.
    summary: String,
    simulated: bool,
    genuine: bool,
    acceptable: bool,
    /// The release that the launch digest is of; where it is of none, the one it was held to.
    release: Option<Release>,
    /// SHA-256 of that release's manifest.
    manifest_sha256: Option<Sha256Hash>,
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
        write_checks(f, self.simulated, &self.checks)?;
        writeln!(f, "{}", self.summary)
    }
}

/// A line for each check; every one of simulated evidence says so.
pub(super) fn write_checks(
    f: &mut fmt::Formatter<'_>,
    simulated: bool,
    checks: &[Check],
) -> fmt::Result {
    let mark = if simulated { "SIMULATED " } else { "" };
    for Check { name, outcome, expected, found, .. } in checks {
        let name = name.text();
        match outcome {
            Outcome::Passed => writeln!(f, "{mark}passed   {name}: {found}")?,
            Outcome::Failed => {
                writeln!(f, "{mark}FAILED   {name}: expected {expected}, found {found}")?;
            }
            Outcome::Skipped => writeln!(f, "{mark}skipped  {name}: {found}")?,
        }
    }
    Ok(())
}

/// Why a check that anything passes is skipped.
pub(super) const ANY: &str = "not judged: the verifier accepts any";

//! What a verifier accepts. Nothing is left unchecked by default: what shall not matter is
//! written as [`Expect::Any`], and the verdict then says that it was not judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::expect::Expect;
use super::id_block::IdBlockPolicy;
use super::release_rules::{ReleaseRule, Revoked};
use super::rules::{AnswerTime, Expiry, SshKey, VcpuRange, Vmpl};
use super::source::Source;
use super::verdict::CheckName;
use crate::gpu::version::Version;
use crate::gpu_evidence::{Architecture, GpuSet};
use crate::hash::{ChipId, Sha256Hash};
use crate::launch::CpuModel;
use crate::manifest::Release;
use crate::platform::Platform;
use crate::policy::GuestPolicy;
use crate::silicon::{Line, ROWS};
use crate::tcb::Tcb;

/// What to do with a launch digest that the manifest's law gives and its table does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UnlistedShapes {
    /// Refuse it, naming the shape.
    Refuse,
    /// Accept it, naming the shape.
    AcceptByLaw,
}

/// Whether a revocation list must have been at hand. One that is at hand is always judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RevocationPolicy {
    /// Refuse where none was.
    Required,
    /// Accept where none was. The verdict says that revocation was not judged.
    WhenGiven,
}

/// Which of the releases that a verifier holds are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Releases {
    /// Each one that it was given: whoever gave it vouches for it.
    AsGiven,
    /// Those that a rule names.
    Listed(Vec<ReleaseRule>),
}

/// Which guest policy is accepted. None that allows debugging or migration ever is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestPolicyRule {
    /// The one that the manifest of the release states.
    OfManifest,
    /// This one, whatever the manifest states.
    Is(Expect<GuestPolicy>),
}

/// Which shapes of a VM are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapePolicy {
    /// How many vCPUs.
    pub vcpus: Expect<VcpuRange>,
    /// CPU models. Models with one CPUID signature have one launch digest, so naming one accepts
    /// them all.
    pub cpu_models: Expect<CpuModel>,
    /// Launch digests by the law alone.
    pub unlisted: UnlistedShapes,
}

/// What must be true of the machine: bits of `PLATFORM_INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachinePolicy {
    /// Simultaneous multithreading is on.
    pub smt: Expect<bool>,
    /// Transparent memory encryption is on.
    pub tsme: Expect<bool>,
    /// The memory has error correction.
    pub ecc: Expect<bool>,
    /// The host cannot read the processor's power consumption.
    pub rapl_disabled: Expect<bool>,
    /// Ciphertext is hidden from the host.
    pub ciphertext_hiding: Expect<bool>,
    /// The memory was checked for aliases: without it a changed memory module can lie about its
    /// size and give the host a second view of the guest's memory.
    pub alias_check: Expect<bool>,
}

/// What must be true of GPUs where there is evidence of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuPolicy {
    /// The GPUs that the launch config promises. What is found must be what is promised anyway.
    pub set: Expect<GpuSet>,
    /// What the GPUs are.
    pub architecture: Expect<Architecture>,
    /// The oldest driver accepted, by architecture. One that is missing is refused.
    pub driver_floor: BTreeMap<Architecture, Version>,
    /// Versions of the VBIOS, of GPUs and switches alike.
    pub vbios: Expect<String>,
    /// Whether the measurements equal signed reference integrity manifests. Without a manifest
    /// they do not.
    pub measurements_match: Expect<bool>,
}

/// Which chips are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipPolicy {
    /// These. [`Expect::Any`] is any chip but those of products that are accepted by id alone
    /// ([`crate::silicon::by_id_alone`]).
    pub allow: Expect<ChipId>,
    /// And none of these. A host that hides its chip's id is refused once there is one.
    pub deny: Vec<ChipId>,
}

/// Who stated a field of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The policy file.
    File,
    /// An option, by hand.
    Option,
    /// The keys that the user has himself.
    OwnKeys,
}

/// What a verifier accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Until when this policy accepts anything.
    pub expires: Expiry,
    /// Who may sign. The simulated platform also takes a root, handed over by hand.
    pub platform: Expect<Platform>,
    /// Whether a revocation list of the root must have been at hand.
    pub revocation: RevocationPolicy,
    /// The releases.
    pub releases: Releases,
    /// Releases that are refused, whatever else accepts them.
    pub revoked: Vec<Revoked>,
    /// The shapes.
    pub shapes: ShapePolicy,
    /// What the host may do to the VM.
    pub guest_policy: GuestPolicyRule,
    /// What the ID block states, and whose keys signed it.
    pub id_block: IdBlockPolicy,
    /// The privilege level that asked for the report.
    pub vmpl: Expect<Vmpl>,
    /// The oldest firmware accepted, by silicon. One that is missing is refused.
    pub tcb_floor: BTreeMap<Line, Tcb>,
    /// What must be true of the machine.
    pub machine: MachinePolicy,
    /// The chips.
    pub chips: ChipPolicy,
    /// SHA-256 of the launch config.
    pub launch_config: Expect<Sha256Hash>,
    /// The keys that may log in to the VM; it need not let all of them in.
    pub ssh_keys: Expect<SshKey>,
    /// How long the evidence may have taken.
    pub answer_time: AnswerTime,
    /// Whether there is evidence of GPUs.
    pub gpu_evidence: Expect<bool>,
    /// What must be true of the GPUs.
    pub gpu: GpuPolicy,
    pub(super) stated: BTreeMap<&'static str, Origin>,
}

/// A difference from the strict policy that hosts really show, to be accepted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Allowance {
    /// The host runs two threads on a core.
    SmtOn,
    /// The host's own memory is not encrypted.
    TsmeOff,
    /// The memory has no error correction.
    EccOff,
    /// The host can read the processor's power consumption.
    RaplOn,
    /// The host can read the guest's ciphertext.
    CiphertextVisible,
    /// The memory was not checked for aliases.
    AliasUnchecked,
    /// What nearly every host shows: `smt-on`, `tsme-off`, `rapl-on`, `ciphertext-visible`.
    StockHost,
    /// Launch digests by the law of a release, for shapes that its table does not list.
    UnlistedShapes,
    /// No revocation list is at hand.
    NoRevocationList,
}

impl Allowance {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::SmtOn,
        Self::TsmeOff,
        Self::EccOff,
        Self::RaplOn,
        Self::CiphertextVisible,
        Self::AliasUnchecked,
        Self::StockHost,
        Self::UnlistedShapes,
        Self::NoRevocationList,
    ];

    /// Its name, as in a policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SmtOn => "smt-on",
            Self::TsmeOff => "tsme-off",
            Self::EccOff => "ecc-off",
            Self::RaplOn => "rapl-on",
            Self::CiphertextVisible => "ciphertext-visible",
            Self::AliasUnchecked => "alias-unchecked",
            Self::StockHost => "stock-host",
            Self::UnlistedShapes => "unlisted-shapes",
            Self::NoRevocationList => "no-revocation-list",
        }
    }

    /// What makes a failed check one that is not judged.
    #[must_use]
    pub const fn for_check(check: CheckName) -> Option<Self> {
        match check {
            CheckName::Smt => Some(Self::SmtOn),
            CheckName::Tsme => Some(Self::TsmeOff),
            CheckName::Ecc => Some(Self::EccOff),
            CheckName::Rapl => Some(Self::RaplOn),
            CheckName::CiphertextHiding => Some(Self::CiphertextVisible),
            CheckName::AliasCheck => Some(Self::AliasUnchecked),
            CheckName::RevocationList => Some(Self::NoRevocationList),
            _ => None,
        }
    }
}

impl Policy {
    /// Accepts what is known to be right and nothing else. Not judged, since only the verifier
    /// knows: which of the releases that it was given, which chips, launch configs and SSH keys.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            expires: Expiry::Never,
            platform: Expect::Exactly(Platform::Snp),
            revocation: RevocationPolicy::Required,
            releases: Releases::AsGiven,
            revoked: Vec::new(),
            shapes: ShapePolicy {
                vcpus: Expect::Any,
                cpu_models: Expect::Any,
                unlisted: UnlistedShapes::Refuse,
            },
            guest_policy: GuestPolicyRule::OfManifest,
            id_block: IdBlockPolicy::OF_MANIFEST,
            vmpl: Expect::Exactly(Vmpl::MOST),
            tcb_floor: ROWS.iter().map(|row| (row.line, row.floor())).collect(),
            machine: MachinePolicy {
                smt: Expect::Exactly(false),
                tsme: Expect::Exactly(true),
                ecc: Expect::Exactly(true),
                rapl_disabled: Expect::Exactly(true),
                ciphertext_hiding: Expect::Exactly(true),
                alias_check: Expect::Exactly(true),
            },
            chips: ChipPolicy { allow: Expect::Any, deny: Vec::new() },
            launch_config: Expect::Any,
            ssh_keys: Expect::Any,
            answer_time: AnswerTime::AtMost(std::time::Duration::from_mins(1)),
            gpu_evidence: Expect::Exactly(false),
            gpu: GpuPolicy::strict(),
            stated: BTreeMap::new(),
        }
    }

    /// [`Policy::strict`], for this release alone.
    #[must_use]
    pub fn for_release(release: &Release) -> Self {
        let rule = ReleaseRule {
            name: release.name.clone(),
            version: Expect::Exactly(release.version.clone()),
            minimum: None,
            manifest_sha256: Expect::Any,
            expires: Expiry::Never,
        };
        Self { releases: Releases::Listed(vec![rule]), ..Self::strict() }
    }

    /// Accepts the simulated platform instead of the real one. It proves nothing: its machine is
    /// made up, and its root takes nothing back.
    #[must_use]
    pub fn simulated(mut self) -> Self {
        self.platform = Expect::Exactly(Platform::Simulated);
        self.allow(Allowance::StockHost, Origin::Option);
        self.allow(Allowance::NoRevocationList, Origin::Option);
        self
    }

    /// Accepts a difference.
    pub fn allow(&mut self, allowance: Allowance, origin: Origin) {
        let machine = &mut self.machine;
        let (field, bit) = match allowance {
            Allowance::SmtOn => ("machine.smt", &mut machine.smt),
            Allowance::TsmeOff => ("machine.tsme", &mut machine.tsme),
            Allowance::EccOff => ("machine.ecc", &mut machine.ecc),
            Allowance::RaplOn => ("machine.rapl_disabled", &mut machine.rapl_disabled),
            Allowance::CiphertextVisible => {
                ("machine.ciphertext_hiding", &mut machine.ciphertext_hiding)
            }
            Allowance::AliasUnchecked => ("machine.alias_check", &mut machine.alias_check),
            Allowance::StockHost => {
                for one in [
                    Allowance::SmtOn,
                    Allowance::TsmeOff,
                    Allowance::RaplOn,
                    Allowance::CiphertextVisible,
                ] {
                    self.allow(one, origin);
                }
                return;
            }
            Allowance::UnlistedShapes => {
                self.shapes.unlisted = UnlistedShapes::AcceptByLaw;
                self.state("shapes.unlisted", origin);
                return;
            }
            Allowance::NoRevocationList => {
                self.revocation = RevocationPolicy::WhenGiven;
                self.state("revocation_list", origin);
                return;
            }
        };
        *bit = Expect::Any;
        self.state(field, origin);
    }

    /// Remembers who stated a field, for the verdict.
    pub fn state(&mut self, field: &'static str, origin: Origin) {
        self.stated.insert(field, origin);
    }

    /// Whether a file or an option stated a field.
    #[must_use]
    pub fn states(&self, field: &str) -> bool {
        self.stated.contains_key(field)
    }

    /// Where an expectation comes from, in words.
    pub(super) fn source(&self, source: Source) -> String {
        match source {
            Source::Policy(field) => match self.stated.get(field) {
                Some(Origin::File) => format!("policy file: {field}"),
                Some(Origin::Option) => format!("option: {field}"),
                Some(Origin::OwnKeys) => format!("your own keys: {field}"),
                None => source.to_string(),
            },
            source => source.to_string(),
        }
    }
}

impl GpuPolicy {
    /// Whatever the launch config promises, its measurements equal to signed manifests. Not
    /// judged: the version of the VBIOS beyond that.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            set: Expect::Any,
            architecture: Expect::OneOf(vec![Architecture::Hopper, Architecture::Blackwell]),
            driver_floor: default_driver_floor(),
            vbios: Expect::Any,
            measurements_match: Expect::Exactly(true),
        }
    }
}

/// The first drivers that NVIDIA declared fit for confidential computing.
fn default_driver_floor() -> BTreeMap<Architecture, Version> {
    [(Architecture::Hopper, "550.54.15"), (Architecture::Blackwell, "580.65.06")]
        .into_iter()
        .filter_map(|(architecture, version)| Some((architecture, version.parse().ok()?)))
        .collect()
}

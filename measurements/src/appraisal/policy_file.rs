//! The policy file: TOML that a person writes and this code reads into a [`Policy`].
//!
//! What a file does not state is as strict as [`Policy::strict`]. What it opens is written as
//! `"any"` or named in `allow`, and is listed in the verdict as not judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::expect::{self, Expect};
use super::id_block::IdRule;
use super::known::KnownRelease;
use super::policy::{
    Allowance, GuestPolicyRule, Origin, Policy, Releases, RevocationPolicy, UnlistedShapes,
};
use super::release_rules::{ReleaseRule, Revoked};
use super::rules::{AnswerTime, Expiry, SshKey, VcpuRange, Vmpl};
use crate::gpu::version::Version;
use crate::gpu_evidence::{Architecture, GpuSet};
use crate::hash::{ChipId, FamilyId, ImageId, Sha256Hash, Sha384Hash};
use crate::launch::CpuModel;
use crate::platform::Platform;
#[cfg(feature = "schema")]
use crate::policy::GuestPolicy;
use crate::silicon::Line;
use crate::tcb::Tcb;

/// Most bytes of a policy file.
pub const MAX_LEN: usize = 1024 * 1024;

/// Why a policy file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It is not TOML of the expected shape.
    #[error("policy is malformed")]
    Toml(#[source] Box<toml::de::Error>),
    /// It is of another version.
    #[error("policy has schema {found}, expected {}", PolicyFile::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// It is too long.
    #[error("policy has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
}

/// A policy file as it is written. What is left out is as strict as [`Policy::strict`].
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    /// Version of this format.
    schema: u32,
    /// Differences from the strict policy that are accepted; a field stated below overrides them.
    #[serde(default)]
    allow: Vec<Allowance>,
    /// The first day on which this policy accepts nothing.
    expires: Option<Expiry>,
    /// Who may sign.
    platform: Option<Expect<Platform>>,
    /// Whether a revocation list of the root must be at hand.
    revocation_list: Option<RevocationPolicy>,
    /// How many seconds the answer to a fresh nonce may take.
    answer_seconds: Option<AnswerTime>,
    /// What the host may do to the VM; `manifest` for what the release states.
    guest_policy: Option<GuestPolicyRule>,
    /// The privilege level that asked for the report.
    vmpl: Option<Expect<Vmpl>>,
    /// SHA-256 of the launch config.
    launch_config: Option<Expect<Sha256Hash>>,
    /// Public keys that may log in to the VM.
    ssh_keys: Option<Expect<SshKey>>,
    /// Whether there is evidence of GPUs.
    gpu_evidence: Option<Expect<bool>>,
    /// The releases that are accepted; each one that the verifier is given when left out.
    release: Option<Vec<ReleaseRule>>,
    /// Releases that are refused, whatever else accepts them.
    #[serde(default)]
    revoked: Vec<Revoked>,
    #[serde(default)]
    shapes: ShapesTable,
    #[serde(default)]
    id_block: IdBlockTable,
    /// The oldest firmware accepted, by silicon.
    #[serde(default)]
    tcb_floor: BTreeMap<Line, Tcb>,
    #[serde(default)]
    gpu: GpuTable,
    #[serde(default)]
    machine: MachineTable,
    #[serde(default)]
    chips: ChipsTable,
}

/// Which shapes of a VM are accepted.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ShapesTable {
    /// How many vCPUs.
    vcpus: Option<Expect<VcpuRange>>,
    /// CPU models, by QEMU's names.
    cpu_models: Option<Expect<CpuModel>>,
    /// Launch digests by the law alone.
    unlisted: Option<UnlistedShapes>,
}

/// What the ID block states, and whose keys signed it; `manifest` for what the release states.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct IdBlockTable {
    family_id: Option<IdRule<FamilyId>>,
    image_id: Option<IdRule<ImageId>>,
    /// Least `GUEST_SVN`, where the manifest does not state a higher one.
    least_guest_svn: Option<u32>,
    /// Digest of the key that signed the block; zeros for none.
    id_key: Option<IdRule<Sha384Hash>>,
    /// Digest of the key that signed that key; zeros for none.
    author_key: Option<IdRule<Sha384Hash>>,
}

/// What must be true of the machine.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct MachineTable {
    /// Simultaneous multithreading is on.
    smt: Option<Expect<bool>>,
    /// Transparent memory encryption is on.
    tsme: Option<Expect<bool>>,
    /// The memory has error correction.
    ecc: Option<Expect<bool>>,
    /// The host cannot read the processor's power consumption.
    rapl_disabled: Option<Expect<bool>>,
    /// Ciphertext is hidden from the host.
    ciphertext_hiding: Option<Expect<bool>>,
    /// The memory was checked for aliases.
    alias_check: Option<Expect<bool>>,
}

/// What must be true of GPUs where there is evidence of them.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct GpuTable {
    /// The GPUs that the launch config promises.
    set: Option<Expect<GpuSet>>,
    /// What the GPUs are.
    architecture: Option<Expect<Architecture>>,
    /// The oldest driver accepted, by architecture.
    #[serde(default)]
    driver_floor: BTreeMap<Architecture, Version>,
    /// Versions of the VBIOS, of GPUs and switches alike.
    vbios: Option<Expect<String>>,
    /// Whether the measurements equal signed reference integrity manifests.
    measurements_match: Option<Expect<bool>>,
}

/// Which chips are accepted.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct ChipsTable {
    /// These; `any` is any but Milan's, which are accepted by id alone.
    allow: Option<Expect<ChipId>>,
    /// And none of these.
    #[serde(default)]
    deny: Vec<ChipId>,
}

impl<'de> Deserialize<'de> for GuestPolicyRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = expect::unless_manifest(deserializer)?;
        Ok(expected.map_or(Self::OfManifest, Self::Is))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for GuestPolicyRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GuestPolicyRule".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        expect::or_manifest_schema::<GuestPolicy>(generator)
    }
}

impl PolicyFile {
    /// The version of the format that this code reads.
    pub const SCHEMA: u32 = 1;

    /// Reads a policy file.
    ///
    /// # Errors
    /// When it is too long, no TOML, of another version, or has a field that is unknown or out of
    /// bounds; the error names the line, the field and what was expected.
    pub fn parse(text: &str) -> Result<Policy, PolicyFileError> {
        if text.len() > MAX_LEN {
            return Err(PolicyFileError::TooLong { len: text.len() });
        }
        let file: Self =
            toml::from_str(text).map_err(|error| PolicyFileError::Toml(error.into()))?;
        if file.schema != Self::SCHEMA {
            return Err(PolicyFileError::Schema { found: file.schema });
        }
        Ok(file.into())
    }

    /// A commented policy that is [`Policy::strict`], or accepts `release` alone.
    #[must_use]
    pub fn template(release: Option<&KnownRelease>) -> String {
        let release = match release {
            None => String::new(),
            Some(known) => format!(
                "\n[[release]]\nname = \"{}\"\nversion = \"{}\"\nmanifest_sha256 = \"{}\"\n",
                known.release().name,
                known.release().version,
                known.sha256()
            ),
        };
        format!("{}{release}", include_str!("policy.toml"))
    }
}

impl From<PolicyFile> for Policy {
    fn from(file: PolicyFile) -> Self {
        let mut policy = Self::strict();
        for allowance in file.allow {
            policy.allow(allowance, Origin::File);
        }
        let mut stated = std::mem::take(&mut policy.stated);
        macro_rules! state {
            ($($field:literal: $to:expr => $value:expr;)*) => {
                $(if let Some(value) = $value {
                    $to = value;
                    stated.insert($field, Origin::File);
                })*
            };
        }
        let list = |list: Vec<_>| Some(list).filter(|list: &Vec<_>| !list.is_empty());
        state! {
            "expires": policy.expires => file.expires;
            "platform": policy.platform => file.platform;
            "revocation_list": policy.revocation => file.revocation_list;
            "answer_seconds": policy.answer_time => file.answer_seconds;
            "guest_policy": policy.guest_policy => file.guest_policy;
            "vmpl": policy.vmpl => file.vmpl;
            "launch_config": policy.launch_config => file.launch_config;
            "ssh_keys": policy.ssh_keys => file.ssh_keys;
            "gpu_evidence": policy.gpu_evidence => file.gpu_evidence;
            "release": policy.releases => file.release.map(Releases::Listed);
            "revoked": policy.revoked => Some(file.revoked).filter(|list| !list.is_empty());
            "shapes.vcpus": policy.shapes.vcpus => file.shapes.vcpus;
            "shapes.cpu_models": policy.shapes.cpu_models => file.shapes.cpu_models;
            "shapes.unlisted": policy.shapes.unlisted => file.shapes.unlisted;
            "id_block.family_id": policy.id_block.family_id => file.id_block.family_id;
            "id_block.image_id": policy.id_block.image_id => file.id_block.image_id;
            "id_block.least_guest_svn":
                policy.id_block.least_guest_svn => file.id_block.least_guest_svn;
            "id_block.id_key": policy.id_block.id_key => file.id_block.id_key;
            "id_block.author_key": policy.id_block.author_key => file.id_block.author_key;
            "machine.smt": policy.machine.smt => file.machine.smt;
            "machine.tsme": policy.machine.tsme => file.machine.tsme;
            "machine.ecc": policy.machine.ecc => file.machine.ecc;
            "machine.rapl_disabled": policy.machine.rapl_disabled => file.machine.rapl_disabled;
            "machine.ciphertext_hiding":
                policy.machine.ciphertext_hiding => file.machine.ciphertext_hiding;
            "machine.alias_check": policy.machine.alias_check => file.machine.alias_check;
            "gpu.set": policy.gpu.set => file.gpu.set;
            "gpu.architecture": policy.gpu.architecture => file.gpu.architecture;
            "gpu.vbios": policy.gpu.vbios => file.gpu.vbios;
            "gpu.measurements_match":
                policy.gpu.measurements_match => file.gpu.measurements_match;
            "chips.allow": policy.chips.allow => file.chips.allow;
            "chips.deny": policy.chips.deny => list(file.chips.deny);
        }
        if !file.tcb_floor.is_empty() {
            policy.tcb_floor.extend(file.tcb_floor);
            stated.insert("tcb_floor", Origin::File);
        }
        if !file.gpu.driver_floor.is_empty() {
            policy.gpu.driver_floor.extend(file.gpu.driver_floor);
            stated.insert("gpu.driver_floor", Origin::File);
        }
        policy.stated = stated;
        policy
    }
}

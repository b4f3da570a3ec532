//! The manifest of a release: which artifacts, what they boot into, and every launch digest
//! that a VM of it may have, as a law and as a table.
//!
//! Canonical JSON. Reading one holds it to itself: artifacts to the law, the command line to the
//! root disk, the table to the law. Whether it is the right release is its signature's matter.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::cmdline::{self, BootParams, CmdlineError};
use crate::hash::{LaunchDigest, Sha256Hash};
use crate::identity::{Identity, IdentityError};
use crate::kernel_hashes::KernelHashes;
use crate::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use crate::law::Law;
use crate::platform::Platform;
use crate::policy::GuestPolicy;
use crate::verity::Verity;

/// Most bytes of a manifest.
pub const MAX_LEN: usize = 8 * 1024 * 1024;
/// Most rows of the table.
pub const MAX_REFERENCE_VALUES: usize = 32_768;
/// Most combinations of VMM, CPU model and guest features in the table.
pub const MAX_CHAINS: usize = 256;
/// How many bits of an address a firmware uses that says nothing else: stock `AmdSev` OVMF, built
/// without 1-GiB page tables, maps 1 TiB (edk2, `PcdUse1GPageTable`).
pub const FIRMWARE_ADDRESS_BITS: u8 = 40;
/// Most that OVMF uses with page tables of four levels.
pub const MOST_FIRMWARE_ADDRESS_BITS: u8 = 46;
/// Name of the manifest in a release directory.
pub const FILE_NAME: &str = "manifest.json";

/// File names of the artifacts that every release has.
pub mod artifact {
    /// The exact command line, without a newline.
    pub const CMDLINE: &str = "cmdline";
    /// The firmware.
    pub const FIRMWARE: &str = "firmware.fd";
    /// The initrd.
    pub const INITRD: &str = "initrd";
    /// The root file system and its hash tree.
    pub const ROOT: &str = "root.img";
    /// The software bill of materials.
    pub const SBOM: &str = "sbom.json";
    /// The kernel.
    pub const KERNEL: &str = "vmlinuz";
    /// All of them.
    pub const ALL: [&str; 6] = [CMDLINE, FIRMWARE, INITRD, ROOT, SBOM, KERNEL];
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not canonical JSON of the expected shape.
    #[error("manifest is malformed")]
    Malformed(#[from] CanonicalError),
    /// It is too long.
    #[error("manifest has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
    /// It is of another version.
    #[error("manifest has schema {found}, expected {}", Manifest::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// The release's name or version has other characters.
    #[error(
        "release {what} is {text:?}: expected 1 to 64 of a-z, A-Z, 0-9, '.', '+', '-', '_' and \
         a letter or digit first"
    )]
    Release {
        /// Name or version.
        what: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// The artifacts are not the six of a release.
    #[error("artifacts are {found:?}, expected {:?}", artifact::ALL)]
    Artifacts {
        /// The names found.
        found: Vec<String>,
    },
    /// The command line is refused.
    #[error("boot.cmdline is refused")]
    Cmdline(#[from] CmdlineError),
    /// What it says of ID blocks is malformed.
    #[error("id_block is refused")]
    Identity(#[from] IdentityError),
    /// No firmware uses so many bits of an address.
    #[error(
        "firmware_address_bits is {found}, expected {FIRMWARE_ADDRESS_BITS} to \
         {MOST_FIRMWARE_ADDRESS_BITS}"
    )]
    AddressBits {
        /// The number found.
        found: u8,
    },
    /// Two places of the manifest contradict each other.
    #[error("manifest contradicts itself: {what} is {found}, expected {expected}")]
    Contradiction {
        /// Which value.
        what: &'static str,
        /// What it is.
        found: String,
        /// What the rest of the manifest says it is.
        expected: String,
    },
    /// The table is empty, too long, or not sorted.
    #[error(
        "reference_values: {problem}; expected 1 to {MAX_REFERENCE_VALUES} rows of at most \
         {MAX_CHAINS} combinations, each shape once, sorted by vmm, cpu_model, guest_features, \
         vcpus"
    )]
    Table {
        /// What is wrong.
        problem: String,
    },
    /// A row of the table is not what the law says.
    #[error("reference value for {shape} is {found}, expected {expected} by the law")]
    Row {
        /// Which shape.
        shape: Box<Shape>,
        /// The table's digest.
        found: LaunchDigest,
        /// The law's digest.
        expected: LaunchDigest,
    },
}

/// What a release is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The platform that it is built for.
    pub platform: Platform,
}

/// One file of the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// SHA-256 of the file.
    pub sha256: Sha256Hash,
    /// Its length in bytes.
    pub size: u64,
}

/// What the kernel is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The exact command line.
    pub cmdline: String,
    /// The root disk, as the command line describes it.
    pub verity: Verity,
}

/// What the release was built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// SHA-256 of image.toml.
    pub recipe_sha256: Sha256Hash,
    /// SHA-256 of image.lock.
    pub lock_sha256: Sha256Hash,
    /// Digest of the overlay's files.
    pub overlay_sha256: Sha256Hash,
    /// Digest of the sources of the guest's programs.
    pub guest_sha256: Sha256Hash,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReferenceValue {
    /// How many vCPUs start.
    pub vcpus: VcpuCount,
    /// The model that each claims to be.
    pub cpu_model: CpuModel,
    /// The protections that each starts with.
    pub guest_features: GuestFeatures,
    /// Who starts the VM.
    pub vmm: Vmm,
    /// The launch digest.
    pub measurement: LaunchDigest,
}

impl ReferenceValue {
    /// The row of a shape.
    #[must_use]
    pub const fn new(shape: Shape, measurement: LaunchDigest) -> Self {
        let Shape { vmm, cpu_model, guest_features, vcpus } = shape;
        Self { vcpus, cpu_model, guest_features, vmm, measurement }
    }

    /// The shape of this row.
    #[must_use]
    pub const fn shape(&self) -> Shape {
        Shape {
            vmm: self.vmm,
            cpu_model: self.cpu_model,
            guest_features: self.guest_features,
            vcpus: self.vcpus,
        }
    }
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: [`Manifest::SCHEMA`].
    pub schema: u32,
    /// What the release is called.
    pub release: Release,
    /// Its files by name.
    pub artifacts: BTreeMap<String, Artifact>,
    /// What the kernel is told.
    pub boot: Boot,
    /// What it was built from.
    pub inputs: Inputs,
    /// How many bits of an address the firmware uses; absent for
    /// [`FIRMWARE_ADDRESS_BITS`]. Windows of devices must lie below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_address_bits: Option<u8>,
    /// What the host may do to a VM of it.
    pub guest_policy: GuestPolicy,
    /// What the ID blocks of its VMs state; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_block: Option<Identity>,
    /// What every launch digest follows.
    pub law: Law,
    /// The launch digests, sorted by shape.
    pub reference_values: Vec<ReferenceValue>,
}

impl Manifest {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// Reads and checks a manifest, its table included.
    ///
    /// # Errors
    /// When it is too long, not canonical, of another version, or contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_LEN {
            return Err(ManifestError::TooLong { len: bytes.len() });
        }
        let manifest: Self = canonical::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Writes the canonical bytes, checked.
    ///
    /// # Errors
    /// As [`Manifest::from_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes = canonical::to_vec(self)?;
        if bytes.len() > MAX_LEN {
            return Err(ManifestError::TooLong { len: bytes.len() });
        }
        Ok(bytes)
    }

    /// Makes the table for `shapes` by `law`, sorted and each shape once.
    #[must_use]
    pub fn table(law: &Law, shapes: &[Shape]) -> Vec<ReferenceValue> {
        let shapes: Vec<Shape> =
            shapes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let digests = law.matrix(&shapes);
        shapes
            .into_iter()
            .zip(digests)
            .map(|(shape, measurement)| ReferenceValue::new(shape, measurement))
            .collect()
    }

    /// How many bits of an address the firmware uses.
    #[must_use]
    pub fn firmware_address_bits(&self) -> u8 {
        self.firmware_address_bits.unwrap_or(FIRMWARE_ADDRESS_BITS)
    }

    /// The row for a shape.
    #[must_use]
    pub fn find(&self, shape: &Shape) -> Option<&ReferenceValue> {
        self.reference_values.iter().find(|row| row.shape() == *shape)
    }

    /// The row with a measurement: names the shape that a report fits.
    #[must_use]
    pub fn find_measurement(&self, measurement: &LaunchDigest) -> Option<&ReferenceValue> {
        self.reference_values.iter().find(|row| row.measurement == *measurement)
    }

    /// An artifact by its name.
    #[must_use]
    pub fn artifact(&self, name: &str) -> Option<&Artifact> {
        self.artifacts.get(name)
    }

    /// Holds the manifest to itself, the table included.
    ///
    /// # Errors
    /// When two places of it contradict each other, naming both.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.schema != Self::SCHEMA {
            return Err(ManifestError::Schema { found: self.schema });
        }
        check_name("name", &self.release.name)?;
        check_name("version", &self.release.version)?;
        if let Some(identity) = &self.id_block {
            identity.check()?;
        }
        let bits = self.firmware_address_bits();
        if !(FIRMWARE_ADDRESS_BITS..=MOST_FIRMWARE_ADDRESS_BITS).contains(&bits) {
            return Err(ManifestError::AddressBits { found: bits });
        }
        self.check_boot()?;
        self.check_artifacts()?;
        self.check_table()
    }

    fn check_boot(&self) -> Result<(), ManifestError> {
        cmdline::check_bytes(&self.boot.cmdline)?;
        let BootParams { platform, verity } = BootParams::from_cmdline(&self.boot.cmdline)?;
        agree("release.platform", &self.release.platform, &platform)?;
        let json = |verity: &Verity| canonical::to_vec(verity).map(String::from_utf8);
        if self.boot.verity != verity {
            let text = |verity| json(verity).ok().and_then(Result::ok).unwrap_or_default();
            return Err(ManifestError::Contradiction {
                what: "boot.verity",
                found: text(&self.boot.verity),
                expected: text(&verity),
            });
        }
        Ok(())
    }

    fn check_artifacts(&self) -> Result<(), ManifestError> {
        if !self.artifacts.keys().eq(&artifact::ALL) {
            return Err(ManifestError::Artifacts {
                found: self.artifacts.keys().take(16).cloned().collect(),
            });
        }
        let cmdline = self.boot.cmdline.as_bytes();
        let [found, firmware, initrd, root, _, kernel] =
            artifact::ALL.map(|name| self.artifacts[name]);
        agree("artifacts.cmdline.sha256", &found.sha256, &Sha256Hash::of(cmdline))?;
        agree("artifacts.cmdline.size", &found.size, &(cmdline.len() as u64))?;
        let least = self.boot.verity.data_blocks * crate::verity::BLOCK_SIZE;
        if root.size < least || !root.size.is_multiple_of(crate::verity::BLOCK_SIZE) {
            return Err(ManifestError::Contradiction {
                what: "artifacts[\"root.img\"].size",
                found: root.size.to_string(),
                expected: format!("whole blocks, at least {least} bytes"),
            });
        }
        let law = &self.law;
        agree("law.firmware_sha256", law.firmware_sha256(), &firmware.sha256)?;
        let expected = KernelHashes::from_digests(kernel.sha256, initrd.sha256, cmdline);
        agree("law.kernel_hashes.kernel", &law.hashes().kernel, &expected.kernel)?;
        agree("law.kernel_hashes.initrd", &law.hashes().initrd, &expected.initrd)?;
        agree("law.kernel_hashes.cmdline", &law.hashes().cmdline, &expected.cmdline)
    }

    /// Holds the table to the law.
    ///
    /// # Errors
    /// When it is empty, too long, not sorted, or a row is not what the law says.
    pub fn check_table(&self) -> Result<(), ManifestError> {
        let rows = &self.reference_values;
        let refuse = |problem| Err(ManifestError::Table { problem });
        if rows.is_empty() || rows.len() > MAX_REFERENCE_VALUES {
            return refuse(format!("{} rows", rows.len()));
        }
        let shapes: Vec<Shape> = rows.iter().map(ReferenceValue::shape).collect();
        if let Some((a, b)) = shapes.iter().zip(&shapes[1..]).find(|(a, b)| a >= b) {
            return refuse(format!("{a} stands before {b}"));
        }
        let chains: BTreeSet<_> =
            shapes.iter().map(|s| (s.vmm, s.cpu_model, s.guest_features)).collect();
        if chains.len() > MAX_CHAINS {
            return refuse(format!("{} combinations", chains.len()));
        }
        let digests = self.law.matrix(&shapes);
        match rows.iter().zip(digests).find(|(row, digest)| row.measurement != *digest) {
            None => Ok(()),
            Some((row, expected)) => {
                let shape = Box::new(row.shape());
                Err(ManifestError::Row { shape, found: row.measurement, expected })
            }
        }
    }
}

fn agree<T: PartialEq + ToString>(
    what: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), ManifestError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(ManifestError::Contradiction { what, found, expected })
}

fn check_name(what: &'static str, text: &str) -> Result<(), ManifestError> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if first && text.len() <= 64 && text.bytes().all(inner) {
        return Ok(());
    }
    Err(ManifestError::Release { what, text: text.chars().take(80).collect() })
}

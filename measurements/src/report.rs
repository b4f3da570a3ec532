//! The attestation report: what the security processor says about a VM, byte for byte.
//!
//! AMD document 56860, *SEV Secure Nested Paging Firmware ABI Specification*, revision 1.58,
//! section "Attestation", table of `ATTESTATION_REPORT`. A parsed report is well formed,
//! not true: its signature is checked in `chain`. Reserved bytes must be zero, so
//! that nothing is in a report that this code does not know.

mod reply;
mod unsigned;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::evidence::REPORT_LEN;
use crate::hash::{ChipId, FamilyId, HostData, ImageId, LaunchDigest, ReportData, Sha384Hash};
use crate::tcb::Product;

pub use reply::{ReplyError, report_in};
pub use unsigned::{IdBlockFields, Unsigned, with_signature};

/// How many bytes of a report are signed, from its start.
pub const SIGNED_LEN: usize = 0x2a0;
/// Length of each number of the signature on the wire, little-endian.
pub const COMPONENT_LEN: usize = 72;

/// The signature algorithm's number: ECDSA P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;
/// The bit of the key's flags for an author key.
const AUTHOR_KEY_EN: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Abi {
    version: le::U32,
    guest_svn: le::U32,
    policy: le::U64,
    family_id: [u8; 16],
    image_id: [u8; 16],
    vmpl: le::U32,
    signature_algo: le::U32,
    current_tcb: [u8; 8],
    platform_info: le::U64,
    key_info: le::U32,
    reserved_04c: [u8; 4],
    report_data: [u8; 64],
    measurement: [u8; 48],
    host_data: [u8; 32],
    id_key_digest: [u8; 48],
    author_key_digest: [u8; 48],
    report_id: [u8; 32],
    report_id_ma: [u8; 32],
    reported_tcb: [u8; 8],
    cpuid_family: u8,
    cpuid_model: u8,
    cpuid_stepping: u8,
    reserved_18b: [u8; 21],
    chip_id: [u8; 64],
    committed_tcb: [u8; 8],
    current_version: [u8; 3],
    reserved_1eb: u8,
    committed_version: [u8; 3],
    reserved_1ef: u8,
    launch_tcb: [u8; 8],
    launch_mit_vector: le::U64,
    current_mit_vector: le::U64,
    reserved_208: [u8; 152],
    signature_r: [u8; COMPONENT_LEN],
    signature_s: [u8; COMPONENT_LEN],
    reserved_330: [u8; 368],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(Abi, version) == 0);
    assert!(offset_of!(Abi, guest_svn) == 0x4);
    assert!(offset_of!(Abi, policy) == 0x8);
    assert!(offset_of!(Abi, family_id) == 0x10);
    assert!(offset_of!(Abi, image_id) == 0x20);
    assert!(offset_of!(Abi, vmpl) == 0x30);
    assert!(offset_of!(Abi, signature_algo) == 0x34);
    assert!(offset_of!(Abi, current_tcb) == 0x38);
    assert!(offset_of!(Abi, platform_info) == 0x40);
    assert!(offset_of!(Abi, key_info) == 0x48);
    assert!(offset_of!(Abi, reserved_04c) == 0x4c);
    assert!(offset_of!(Abi, report_data) == 0x50);
    assert!(offset_of!(Abi, measurement) == 0x90);
    assert!(offset_of!(Abi, host_data) == 0xc0);
    assert!(offset_of!(Abi, id_key_digest) == 0xe0);
    assert!(offset_of!(Abi, author_key_digest) == 0x110);
    assert!(offset_of!(Abi, report_id) == 0x140);
    assert!(offset_of!(Abi, report_id_ma) == 0x160);
    assert!(offset_of!(Abi, reported_tcb) == 0x180);
    assert!(offset_of!(Abi, cpuid_family) == 0x188);
    assert!(offset_of!(Abi, cpuid_model) == 0x189);
    assert!(offset_of!(Abi, cpuid_stepping) == 0x18a);
    assert!(offset_of!(Abi, reserved_18b) == 0x18b);
    assert!(offset_of!(Abi, chip_id) == 0x1a0);
    assert!(offset_of!(Abi, committed_tcb) == 0x1e0);
    assert!(offset_of!(Abi, current_version) == 0x1e8);
    assert!(offset_of!(Abi, reserved_1eb) == 0x1eb);
    assert!(offset_of!(Abi, committed_version) == 0x1ec);
    assert!(offset_of!(Abi, reserved_1ef) == 0x1ef);
    assert!(offset_of!(Abi, launch_tcb) == 0x1f0);
    assert!(offset_of!(Abi, launch_mit_vector) == 0x1f8);
    assert!(offset_of!(Abi, current_mit_vector) == 0x200);
    assert!(offset_of!(Abi, reserved_208) == 0x208);
    assert!(offset_of!(Abi, signature_r) == SIGNED_LEN);
    assert!(offset_of!(Abi, signature_s) == 0x2e8);
    assert!(offset_of!(Abi, reserved_330) == 0x330);
    assert!(size_of::<Abi>() == REPORT_LEN);
};

/// Why bytes are no report that can be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The length is another.
    #[error("report has {found} bytes, expected {REPORT_LEN}")]
    Length {
        /// The length found.
        found: usize,
    },
    /// The version is unknown, so its fields are too.
    #[error("report has version {found}, expected 2 to 5")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The signature algorithm is unknown.
    #[error("report has signature algorithm {found}, expected 1 (ECDSA P-384 with SHA-384)")]
    Algorithm {
        /// The number found.
        found: u32,
    },
    /// The kind of key that signed is unknown.
    #[error("report has signing key {found}, expected 0 (VCEK) or 1 (VLEK)")]
    SigningKey {
        /// The number found.
        found: u32,
    },
    /// The VMPL is impossible.
    #[error("report has VMPL {found}, expected 0 to 3")]
    Vmpl {
        /// The number found.
        found: u32,
    },
    /// A reserved byte is not zero.
    #[error("report has the byte {found:#04x} at {at:#x}, which is reserved and must be zero")]
    Reserved {
        /// Its offset.
        at: usize,
        /// Its value.
        found: u8,
    },
    /// The processor is none that this code knows.
    #[error(
        "report is of CPUID family {family:#x} model {model:#x}, expected Milan, Genoa or Turin"
    )]
    Product {
        /// The family found.
        family: u8,
        /// The model found.
        model: u8,
    },
}

/// Which version of the report's structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Without CPUID.
    V2,
    /// With CPUID family, model and stepping.
    V3,
    /// As version 3; some firmware writes this number.
    V4,
    /// With mitigation vectors.
    V5,
}

impl Version {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
            Self::V5 => 5,
        }
    }
}

/// Which kind of key signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// Endorsed for a chip.
    Vcek,
    /// Endorsed for a provider.
    Vlek,
}

/// A well-formed report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    abi: Box<Abi>,
    version: Version,
    signing_key: SigningKey,
}

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// When a field has a value that this code does not know, naming it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let abi =
            Abi::read_from_bytes(bytes).map_err(|_| ReportError::Length { found: bytes.len() })?;
        let version = match abi.version.get() {
            2 => Version::V2,
            3 => Version::V3,
            4 => Version::V4,
            5 => Version::V5,
            found => return Err(ReportError::Version { found }),
        };
        if abi.signature_algo.get() != ECDSA_P384_SHA384 {
            return Err(ReportError::Algorithm { found: abi.signature_algo.get() });
        }
        let signing_key = match (abi.key_info.get() >> 2) & 7 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            found => return Err(ReportError::SigningKey { found }),
        };
        if abi.vmpl.get() > 3 {
            return Err(ReportError::Vmpl { found: abi.vmpl.get() });
        }
        check_reserved(bytes, version)?;
        let report = Self { abi: Box::new(abi), version, signing_key };
        if version >= Version::V3 && report.product().is_none() {
            let (family, model) = (abi.cpuid_family, abi.cpuid_model);
            return Err(ReportError::Product { family, model });
        }
        Ok(report)
    }

    /// The whole report.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.abi.as_bytes()
    }

    /// The bytes that are signed, as they were received.
    #[must_use]
    pub fn signed_bytes(&self) -> &[u8] {
        &self.abi.as_bytes()[..SIGNED_LEN]
    }

    /// R and S of the signature, each big-endian as cryptography writes them.
    #[must_use]
    pub fn signature(&self) -> ([u8; 48], [u8; 48]) {
        (big_endian(&self.abi.signature_r), big_endian(&self.abi.signature_s))
    }

    /// The structure's version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The kind of key that signed.
    #[must_use]
    pub const fn signing_key(&self) -> SigningKey {
        self.signing_key
    }

    /// Whether the host hides the chip's id.
    #[must_use]
    pub const fn masks_chip_key(&self) -> bool {
        self.abi.key_info.get() & 2 != 0
    }

    /// CPUID family, model and stepping; `None` in version 2, which does not say.
    #[must_use]
    pub const fn cpuid(&self) -> Option<(u8, u8, u8)> {
        match self.version {
            Version::V2 => None,
            Version::V3 | Version::V4 | Version::V5 => {
                let Abi { cpuid_family, cpuid_model, cpuid_stepping, .. } = *self.abi;
                Some((cpuid_family, cpuid_model, cpuid_stepping))
            }
        }
    }

    /// The product by CPUID; `None` in version 2, which does not say.
    #[must_use]
    pub const fn product(&self) -> Option<Product> {
        match self.cpuid() {
            None => None,
            Some((family, model, _)) => Product::from_cpuid(family, model),
        }
    }

    /// What the host may do to the VM, as the number in the report.
    #[must_use]
    pub const fn policy(&self) -> u64 {
        self.abi.policy.get()
    }

    /// The privilege level that asked.
    #[must_use]
    pub const fn vmpl(&self) -> u32 {
        self.abi.vmpl.get()
    }

    /// What is true of the machine: see [`crate::report::platform_info`].
    #[must_use]
    pub const fn platform_info(&self) -> u64 {
        self.abi.platform_info.get()
    }

    /// What the guest asked to have signed.
    #[must_use]
    pub const fn report_data(&self) -> ReportData {
        ReportData::from_bytes(self.abi.report_data)
    }

    /// The launch digest.
    #[must_use]
    pub const fn measurement(&self) -> LaunchDigest {
        LaunchDigest::from_bytes(self.abi.measurement)
    }

    /// What the host gave at launch.
    #[must_use]
    pub const fn host_data(&self) -> HostData {
        HostData::from_bytes(self.abi.host_data)
    }

    /// What the ID block says of the guest's security version; zero without a block.
    #[must_use]
    pub const fn guest_svn(&self) -> u32 {
        self.abi.guest_svn.get()
    }

    /// The ID block's family; zero without a block.
    #[must_use]
    pub const fn family_id(&self) -> FamilyId {
        FamilyId::from_bytes(self.abi.family_id)
    }

    /// The ID block's image; zero without a block.
    #[must_use]
    pub const fn image_id(&self) -> ImageId {
        ImageId::from_bytes(self.abi.image_id)
    }

    /// Digest of the key that signed the ID block; zero without one.
    #[must_use]
    pub const fn id_key_digest(&self) -> Sha384Hash {
        Sha384Hash::from_bytes(self.abi.id_key_digest)
    }

    /// Digest of the key that signed the ID key; zero without one.
    #[must_use]
    pub const fn author_key_digest(&self) -> Sha384Hash {
        Sha384Hash::from_bytes(self.abi.author_key_digest)
    }

    /// Whether an author key was given and checked.
    #[must_use]
    pub const fn has_author_key(&self) -> bool {
        self.abi.key_info.get() & AUTHOR_KEY_EN != 0
    }

    /// The chip.
    #[must_use]
    pub const fn chip_id(&self) -> ChipId {
        ChipId::from_bytes(self.abi.chip_id)
    }

    /// The TCB that the signing key is derived from.
    #[must_use]
    pub const fn reported_tcb(&self) -> [u8; 8] {
        self.abi.reported_tcb
    }

    /// The TCB below which the host cannot go back.
    #[must_use]
    pub const fn committed_tcb(&self) -> [u8; 8] {
        self.abi.committed_tcb
    }

    /// The TCB that runs.
    #[must_use]
    pub const fn current_tcb(&self) -> [u8; 8] {
        self.abi.current_tcb
    }

    /// The TCB that the VM was started under.
    #[must_use]
    pub const fn launch_tcb(&self) -> [u8; 8] {
        self.abi.launch_tcb
    }
}

/// Bits of [`Report::platform_info`].
pub mod platform_info {
    /// Simultaneous multithreading is on.
    pub const SMT: u64 = 1 << 0;
    /// Transparent memory encryption is on.
    pub const TSME: u64 = 1 << 1;
    /// The memory has error correction.
    pub const ECC: u64 = 1 << 2;
    /// Power readings are off.
    pub const RAPL_DISABLED: u64 = 1 << 3;
    /// Ciphertext is hidden from the host.
    pub const CIPHERTEXT_HIDING: u64 = 1 << 4;
    /// The memory was checked for aliases since the last reset.
    pub const ALIAS_CHECK: u64 = 1 << 5;
}

/// Refuses reserved bytes that are not zero.
fn check_reserved(bytes: &[u8], version: Version) -> Result<(), ReportError> {
    let cpuid = if version == Version::V2 { 0x188..0x1a0 } else { 0x18b..0x1a0 };
    let vectors = if version == Version::V5 { 0x208..SIGNED_LEN } else { 0x1f8..SIGNED_LEN };
    // Of the key's flags only five bits are defined.
    let flags = bytes[0x48] & 0xe0;
    if flags != 0 {
        return Err(ReportError::Reserved { at: 0x48, found: bytes[0x48] });
    }
    let ranges = [
        0x49..0x50,
        cpuid,
        0x1eb..0x1ec,
        0x1ef..0x1f0,
        vectors,
        // P-384 numbers have 48 of the 72 bytes.
        0x2d0..0x2e8,
        0x318..REPORT_LEN,
    ];
    match ranges.into_iter().flatten().find(|at| bytes[*at] != 0) {
        None => Ok(()),
        Some(at) => Err(ReportError::Reserved { at, found: bytes[at] }),
    }
}

pub(crate) fn big_endian(component: &[u8; COMPONENT_LEN]) -> [u8; 48] {
    let mut bytes = [0; 48];
    for (to, from) in bytes.iter_mut().rev().zip(component) {
        *to = *from;
    }
    bytes
}

pub(crate) fn wire(component: &[u8; 48]) -> [u8; COMPONENT_LEN] {
    let mut bytes = [0; COMPONENT_LEN];
    for (to, from) in bytes.iter_mut().zip(component.iter().rev()) {
        *to = *from;
    }
    bytes
}

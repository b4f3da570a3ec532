//! The attestation report: what the security processor says about a VM, byte for byte.
//!
//! AMD document 56860, *SEV Secure Nested Paging Firmware ABI Specification*, revision 1.58,
//! section "Attestation", table of `ATTESTATION_REPORT`. A parsed report is well formed,
//! not true: its signature is checked in `chain`. Reserved bytes must be zero, so
//! that nothing is in a report that this code does not know.

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::evidence::REPORT_LEN;
use crate::hash::{ChipId, HostData, LaunchDigest, ReportData, Sha384Hash};
use crate::policy::GuestPolicy;
use crate::tcb::{Product, Tcb};

/// How many bytes of a report are signed, from its start.
pub const SIGNED_LEN: usize = 0x2a0;
/// Length of each number of the signature on the wire, little-endian.
pub const COMPONENT_LEN: usize = 72;

/// The signature algorithm's number: ECDSA P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;

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
    assert!(offset_of!(Abi, report_data) == 0x50);
    assert!(offset_of!(Abi, measurement) == 0x90);
    assert!(offset_of!(Abi, host_data) == 0xc0);
    assert!(offset_of!(Abi, id_key_digest) == 0xe0);
    assert!(offset_of!(Abi, author_key_digest) == 0x110);
    assert!(offset_of!(Abi, report_id) == 0x140);
    assert!(offset_of!(Abi, report_id_ma) == 0x160);
    assert!(offset_of!(Abi, reported_tcb) == 0x180);
    assert!(offset_of!(Abi, cpuid_family) == 0x188);
    assert!(offset_of!(Abi, chip_id) == 0x1a0);
    assert!(offset_of!(Abi, committed_tcb) == 0x1e0);
    assert!(offset_of!(Abi, current_version) == 0x1e8);
    assert!(offset_of!(Abi, committed_version) == 0x1ec);
    assert!(offset_of!(Abi, launch_tcb) == 0x1f0);
    assert!(offset_of!(Abi, launch_mit_vector) == 0x1f8);
    assert!(offset_of!(Abi, current_mit_vector) == 0x200);
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
    #[error("report has version {found}, expected 2, 3 or 5")]
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

    /// The product by CPUID; `None` in version 2, which does not say.
    #[must_use]
    pub const fn product(&self) -> Option<Product> {
        match self.version {
            Version::V2 => None,
            Version::V3 | Version::V5 => {
                Product::from_cpuid(self.abi.cpuid_family, self.abi.cpuid_model)
            }
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

    /// Digest of the key that signed the ID block; zero without one.
    #[must_use]
    pub const fn id_key_digest(&self) -> Sha384Hash {
        Sha384Hash::from_bytes(self.abi.id_key_digest)
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

fn big_endian(component: &[u8; COMPONENT_LEN]) -> [u8; 48] {
    let mut bytes = [0; 48];
    for (to, from) in bytes.iter_mut().rev().zip(component) {
        *to = *from;
    }
    bytes
}

fn wire(component: &[u8; 48]) -> [u8; COMPONENT_LEN] {
    let mut bytes = [0; COMPONENT_LEN];
    for (to, from) in bytes.iter_mut().zip(component.iter().rev()) {
        *to = *from;
    }
    bytes
}

/// The fields of a report that is to be signed by the simulated security processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// What the host may do to the VM.
    pub policy: GuestPolicy,
    /// The privilege level that asked.
    pub vmpl: u32,
    /// What is true of the machine.
    pub platform_info: u64,
    /// What the guest asked to have signed.
    pub report_data: ReportData,
    /// The launch digest.
    pub measurement: LaunchDigest,
    /// What the host gave at launch.
    pub host_data: HostData,
    /// What names this VM among all of the machine.
    pub report_id: [u8; 32],
    /// CPUID family, model and stepping.
    pub cpuid: (u8, u8, u8),
    /// The chip.
    pub chip_id: ChipId,
    /// Reported, current, committed and launch TCB.
    pub tcb: [u8; 8],
}

impl Unsigned {
    /// A Genoa machine whose firmware passes the default policy; the rest is zero.
    #[must_use]
    pub fn genoa() -> Self {
        Self {
            policy: GuestPolicy::default(),
            vmpl: 0,
            platform_info: platform_info::SMT | platform_info::ECC | platform_info::ALIAS_CHECK,
            report_data: ReportData::from_bytes([0; 64]),
            measurement: LaunchDigest::from_bytes([0; 48]),
            host_data: HostData::from_bytes([0; 32]),
            report_id: [0; 32],
            cpuid: (0x19, 0x11, 0x01),
            chip_id: ChipId::from_bytes([0; 64]),
            tcb: Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 }
                .to_raw(Product::Genoa),
        }
    }

    /// The bytes to sign (ECDSA P-384 over their SHA-384): a report of version 3.
    #[must_use]
    pub fn signed_bytes(&self) -> [u8; SIGNED_LEN] {
        let (family, model, stepping) = self.cpuid;
        let abi = Abi {
            version: le::U32::new(Version::V3.number()),
            policy: le::U64::new(self.policy.raw()),
            vmpl: le::U32::new(self.vmpl),
            signature_algo: le::U32::new(ECDSA_P384_SHA384),
            current_tcb: self.tcb,
            platform_info: le::U64::new(self.platform_info),
            report_data: *self.report_data.as_bytes(),
            measurement: *self.measurement.as_bytes(),
            host_data: *self.host_data.as_bytes(),
            report_id: self.report_id,
            report_id_ma: [0xff; 32],
            reported_tcb: self.tcb,
            cpuid_family: family,
            cpuid_model: model,
            cpuid_stepping: stepping,
            chip_id: *self.chip_id.as_bytes(),
            committed_tcb: self.tcb,
            current_version: [0x28, 0x37, 1],
            committed_version: [0x28, 0x37, 1],
            launch_tcb: self.tcb,
            ..Abi::new_zeroed()
        };
        let mut bytes = [0; SIGNED_LEN];
        bytes.copy_from_slice(&abi.as_bytes()[..SIGNED_LEN]);
        bytes
    }
}

/// A whole report: the signed bytes and R and S, each big-endian as cryptography writes them.
#[must_use]
pub fn with_signature(signed: &[u8; SIGNED_LEN], r: &[u8; 48], s: &[u8; 48]) -> [u8; REPORT_LEN] {
    let mut bytes = [0; REPORT_LEN];
    bytes[..SIGNED_LEN].copy_from_slice(signed);
    bytes[SIGNED_LEN..SIGNED_LEN + COMPONENT_LEN].copy_from_slice(&wire(r));
    bytes[SIGNED_LEN + COMPONENT_LEN..SIGNED_LEN + 2 * COMPONENT_LEN].copy_from_slice(&wire(s));
    bytes
}

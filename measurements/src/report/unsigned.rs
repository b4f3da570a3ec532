//! Reports in the making: what the simulated security processor fills in and signs.

use zerocopy::{FromZeros as _, IntoBytes as _, little_endian as le};

use super::{
    AUTHOR_KEY_EN, Abi, COMPONENT_LEN, ECDSA_P384_SHA384, SIGNED_LEN, Version, platform_info, wire,
};
use crate::evidence::REPORT_LEN;
use crate::hash::{ChipId, FamilyId, HostData, ImageId, LaunchDigest, ReportData, Sha384Hash};
use crate::policy::GuestPolicy;
use crate::silicon::Line;
use crate::tcb::Product;

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
    /// What the ID block stated; all zero without one.
    pub id_block: IdBlockFields,
}

/// What a report says of the ID block that a launch was finished with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlockFields {
    /// The family.
    pub family_id: FamilyId,
    /// The image.
    pub image_id: ImageId,
    /// The guest's security version.
    pub guest_svn: u32,
    /// Digest of the key that signed the block.
    pub id_key_digest: Sha384Hash,
    /// Digest of the key that signed the ID key, where one was given.
    pub author_key_digest: Option<Sha384Hash>,
}

impl IdBlockFields {
    /// No ID block.
    pub const NONE: Self = Self {
        family_id: FamilyId::ZERO,
        image_id: ImageId::ZERO,
        guest_svn: 0,
        id_key_digest: Sha384Hash::ZERO,
        author_key_digest: None,
    };
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
            cpuid: Line::Genoa.row().cpuid,
            chip_id: ChipId::from_bytes([0; 64]),
            tcb: Line::Genoa.row().floor().to_raw(Product::Genoa),
            id_block: IdBlockFields::NONE,
        }
    }

    /// The bytes to sign (ECDSA P-384 over their SHA-384): a report of version 3.
    #[must_use]
    pub fn signed_bytes(&self) -> [u8; SIGNED_LEN] {
        let (family, model, stepping) = self.cpuid;
        let author = self.id_block.author_key_digest;
        let abi = Abi {
            version: le::U32::new(Version::V3.number()),
            guest_svn: le::U32::new(self.id_block.guest_svn),
            policy: le::U64::new(self.policy.raw()),
            family_id: *self.id_block.family_id.as_bytes(),
            image_id: *self.id_block.image_id.as_bytes(),
            vmpl: le::U32::new(self.vmpl),
            signature_algo: le::U32::new(ECDSA_P384_SHA384),
            current_tcb: self.tcb,
            platform_info: le::U64::new(self.platform_info),
            key_info: le::U32::new(author.map_or(0, |_| AUTHOR_KEY_EN)),
            report_data: *self.report_data.as_bytes(),
            measurement: *self.measurement.as_bytes(),
            host_data: *self.host_data.as_bytes(),
            id_key_digest: *self.id_block.id_key_digest.as_bytes(),
            author_key_digest: *author.unwrap_or(Sha384Hash::ZERO).as_bytes(),
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

//! ID block and ID authentication information: who vouches for a launch, checked by the security
//! processor before the VM runs and reported as digests of keys.
//!
//! AMD document 56860, *SEV Secure Nested Paging Firmware ABI Specification*, revision 1.58,
//! section `SNP_LAUNCH_FINISH`, tables "Structure of the ID Block" and "ID Authentication
//! Information Structure"; keys and signatures as in the chapter "Digital Signatures", tables of
//! the ECDSA P-384 public key and of the ECDSA P-384 with SHA-384 signature.
//!
//! The launch digest is in the block, so each shape of a release needs its own: [`release`].

mod key;
pub mod release;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, little_endian as le};

use crate::hash::{FamilyId, ImageId, LaunchDigest, Sha384Hash};
use crate::policy::GuestPolicy;
use crate::report::IdBlockFields;

use key::{KeyAbi, SignatureAbi};
pub use key::{KeyError, PublicKey, SignError, Signature, Signer};

/// Length of an ID block.
pub const BLOCK_LEN: usize = 96;
/// Length of the ID authentication information.
pub const AUTH_LEN: usize = 4096;

/// The only version of the ID block.
const VERSION: u32 = 1;
/// The only algorithm: ECDSA P-384 with SHA-384.
const ECDSA_P384_SHA384: u32 = 1;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BlockAbi {
    launch_digest: [u8; 48],
    family_id: [u8; 16],
    image_id: [u8; 16],
    version: le::U32,
    guest_svn: le::U32,
    policy: le::U64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct AuthAbi {
    id_key_algo: le::U32,
    author_key_algo: le::U32,
    reserved_008: [u8; 56],
    block_signature: SignatureAbi,
    id_key: KeyAbi,
    reserved_644: [u8; 60],
    id_key_signature: SignatureAbi,
    author_key: KeyAbi,
    reserved_c84: [u8; 892],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(BlockAbi, launch_digest) == 0);
    assert!(offset_of!(BlockAbi, family_id) == 0x30);
    assert!(offset_of!(BlockAbi, image_id) == 0x40);
    assert!(offset_of!(BlockAbi, version) == 0x50);
    assert!(offset_of!(BlockAbi, guest_svn) == 0x54);
    assert!(offset_of!(BlockAbi, policy) == 0x58);
    assert!(size_of::<BlockAbi>() == BLOCK_LEN);
    assert!(offset_of!(AuthAbi, id_key_algo) == 0);
    assert!(offset_of!(AuthAbi, author_key_algo) == 0x4);
    assert!(offset_of!(AuthAbi, reserved_008) == 0x8);
    assert!(offset_of!(AuthAbi, block_signature) == 0x40);
    assert!(offset_of!(AuthAbi, id_key) == 0x240);
    assert!(offset_of!(AuthAbi, reserved_644) == 0x644);
    assert!(offset_of!(AuthAbi, id_key_signature) == 0x680);
    assert!(offset_of!(AuthAbi, author_key) == 0x880);
    assert!(offset_of!(AuthAbi, reserved_c84) == 0xc84);
    assert!(size_of::<AuthAbi>() == AUTH_LEN);
};

/// Why the security processor would not finish a launch with an ID block. Each names the status
/// that it would answer with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdBlockError {
    /// A structure has another length.
    #[error("{what} has {found} bytes, expected {expected} (INVALID_PARAM)")]
    Length {
        /// Which structure.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length of such a structure.
        expected: usize,
    },
    /// A version or algorithm is unknown.
    #[error("{what} is {found}, expected {expected} (INVALID_PARAM)")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// The number found.
        found: u32,
        /// The only one known.
        expected: u32,
    },
    /// A reserved byte is not zero.
    #[error("{what} has a byte that is not zero among its reserved ones (INVALID_PARAM)")]
    Reserved {
        /// Which structure.
        what: &'static str,
    },
    /// A key is none.
    #[error("the {what} is no ECDSA P-384 public key (INVALID_KEY)")]
    Key {
        /// Which key.
        what: &'static str,
    },
    /// The policy in the block is no policy.
    #[error("the ID block has the policy {found:#x}, which is none (POLICY_FAILURE)")]
    Malformed {
        /// The number found.
        found: u64,
    },
    /// The block is for another policy.
    #[error("the ID block is for guest policy {found}, expected {expected} (POLICY_FAILURE)")]
    Policy {
        /// The block's.
        found: GuestPolicy,
        /// The VM's.
        expected: GuestPolicy,
    },
    /// The block is for another launch.
    #[error("the ID block is for launch digest {found}, expected {expected} (BAD_MEASUREMENT)")]
    Measurement {
        /// The block's.
        found: Box<LaunchDigest>,
        /// The VM's.
        expected: Box<LaunchDigest>,
    },
    /// A signature is not of the key over the bytes.
    #[error("the {what} is not signed by the {key} (BAD_SIGNATURE)")]
    Signature {
        /// What should be signed.
        what: &'static str,
        /// By whom.
        key: &'static str,
    },
}

/// What an ID block states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    /// The launch digest that the VM must have.
    pub launch_digest: LaunchDigest,
    /// Chosen by who signs.
    pub family_id: FamilyId,
    /// Chosen by who signs.
    pub image_id: ImageId,
    /// Security version of the guest, chosen by who signs.
    pub guest_svn: u32,
    /// The policy that the VM must have.
    pub policy: GuestPolicy,
}

impl IdBlock {
    /// The bytes that are signed.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BLOCK_LEN] {
        let abi = BlockAbi {
            launch_digest: *self.launch_digest.as_bytes(),
            family_id: *self.family_id.as_bytes(),
            image_id: *self.image_id.as_bytes(),
            version: le::U32::new(VERSION),
            guest_svn: le::U32::new(self.guest_svn),
            policy: le::U64::new(self.policy.raw()),
        };
        zerocopy::transmute!(abi)
    }

    /// Reads a block.
    ///
    /// # Errors
    /// When it has another length or version, or its policy is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdBlockError> {
        let abi = BlockAbi::read_from_bytes(bytes).map_err(|_| IdBlockError::Length {
            what: "ID block",
            found: bytes.len(),
            expected: BLOCK_LEN,
        })?;
        known("version of the ID block", abi.version.get(), VERSION)?;
        let found = abi.policy.get();
        Ok(Self {
            launch_digest: LaunchDigest::from_bytes(abi.launch_digest),
            family_id: FamilyId::from_bytes(abi.family_id),
            image_id: ImageId::from_bytes(abi.image_id),
            guest_svn: abi.guest_svn.get(),
            policy: GuestPolicy::new(found).map_err(|_| IdBlockError::Malformed { found })?,
        })
    }

    /// What is signed of the bytes: their SHA-384.
    #[must_use]
    pub fn digest(&self) -> Sha384Hash {
        Sha384Hash::of(&self.to_bytes())
    }
}

/// The author's word for an ID key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endorsement {
    /// The author key.
    pub author_key: PublicKey,
    /// Its signature over the 1028 bytes of the ID key.
    pub signature: Signature,
}

impl Endorsement {
    /// Signs an ID key.
    ///
    /// # Errors
    /// When the signer fails, or what it gives is no signature of its key.
    pub fn new(id_key: &PublicKey, author: &dyn Signer) -> Result<Self, SignError> {
        let signature = key::sign_checked(author, &id_key.digest())?;
        Ok(Self { author_key: author.public_key().clone(), signature })
    }
}

/// Writes the ID authentication information.
#[must_use]
pub fn auth_bytes(
    id_key: &PublicKey,
    block_signature: &Signature,
    author: Option<&Endorsement>,
) -> [u8; AUTH_LEN] {
    let mut abi = AuthAbi {
        id_key_algo: le::U32::new(ECDSA_P384_SHA384),
        author_key_algo: le::U32::new(ECDSA_P384_SHA384),
        block_signature: block_signature.abi(),
        id_key: id_key.abi(),
        ..AuthAbi::new_zeroed()
    };
    if let Some(Endorsement { author_key, signature }) = author {
        abi.id_key_signature = signature.abi();
        abi.author_key = author_key.abi();
    }
    zerocopy::transmute!(abi)
}

/// What the security processor reports of a block that it accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The block.
    pub block: IdBlock,
    /// `ID_KEY_DIGEST` of reports.
    pub id_key_digest: Sha384Hash,
    /// `AUTHOR_KEY_DIGEST` of reports, where an author key was given.
    pub author_key_digest: Option<Sha384Hash>,
}

/// Judges a block as the security processor does when a launch of `digest` under `policy` is
/// finished. Without `author_key_enabled` it looks at no author key. Stricter than it has to be:
/// reserved bytes must be zero.
///
/// # Errors
/// When the launch would not be finished, with the status that would be answered.
pub fn verify(
    block: &[u8],
    auth: &[u8],
    author_key_enabled: bool,
    digest: &LaunchDigest,
    policy: GuestPolicy,
) -> Result<Accepted, IdBlockError> {
    let block = IdBlock::from_bytes(block)?;
    let abi = AuthAbi::read_from_bytes(auth).map_err(|_| IdBlockError::Length {
        what: "ID authentication information",
        found: auth.len(),
        expected: AUTH_LEN,
    })?;
    known("algorithm of the ID key", abi.id_key_algo.get(), ECDSA_P384_SHA384)?;
    let reserved = [&abi.reserved_008[..], &abi.reserved_644, &abi.reserved_c84];
    if reserved.concat().iter().any(|byte| *byte != 0) {
        return Err(IdBlockError::Reserved { what: "ID authentication information" });
    }
    if block.launch_digest != *digest {
        let (found, expected) = (Box::new(block.launch_digest), Box::new(*digest));
        return Err(IdBlockError::Measurement { found, expected });
    }
    if block.policy != policy {
        return Err(IdBlockError::Policy { found: block.policy, expected: policy });
    }
    let id_key = PublicKey::from_abi(&abi.id_key, "ID key")?;
    check_signature(&id_key, "ID key", &block.digest(), &abi.block_signature, "ID block")?;
    let author_key_digest = if author_key_enabled {
        known("algorithm of the author key", abi.author_key_algo.get(), ECDSA_P384_SHA384)?;
        let author = PublicKey::from_abi(&abi.author_key, "author key")?;
        check_signature(&author, "author key", &id_key.digest(), &abi.id_key_signature, "ID key")?;
        Some(author.digest())
    } else {
        None
    };
    Ok(Accepted { block, id_key_digest: id_key.digest(), author_key_digest })
}

impl From<Accepted> for IdBlockFields {
    fn from(accepted: Accepted) -> Self {
        let Accepted { block, id_key_digest, author_key_digest } = accepted;
        let IdBlock { family_id, image_id, guest_svn, .. } = block;
        Self { family_id, image_id, guest_svn, id_key_digest, author_key_digest }
    }
}

fn known(what: &'static str, found: u32, expected: u32) -> Result<(), IdBlockError> {
    if found == expected {
        return Ok(());
    }
    Err(IdBlockError::Unknown { what, found, expected })
}

fn check_signature(
    key: &PublicKey,
    name: &'static str,
    digest: &Sha384Hash,
    signature: &SignatureAbi,
    what: &'static str,
) -> Result<(), IdBlockError> {
    if !signature.is_well_formed() {
        return Err(IdBlockError::Reserved { what: "signature" });
    }
    if key.verifies(digest, &Signature::from_abi(signature)) {
        return Ok(());
    }
    Err(IdBlockError::Signature { what, key: name })
}

#[cfg(test)]
mod tests;

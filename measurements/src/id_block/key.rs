//! Keys and signatures as the security processor reads them: little-endian numbers in fields of
//! 72 bytes, whatever curve they are of.

use std::error::Error;
use std::fmt;

use p384::ecdsa::signature::hazmat::PrehashVerifier as _;
use p384::ecdsa::{self, VerifyingKey};
use p384::elliptic_curve::sec1::ToEncodedPoint as _;
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, little_endian as le};

use super::IdBlockError;
use crate::hash::Sha384Hash;
use crate::report::{big_endian, wire};

/// The number of the curve P-384.
const P384: u32 = 2;
/// Length of each number on the wire.
const NUMBER_LEN: usize = crate::report::COMPONENT_LEN;
/// Length of a public key on the wire.
const KEY_LEN: usize = 0x404;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct KeyAbi {
    curve: le::U32,
    qx: [u8; NUMBER_LEN],
    qy: [u8; NUMBER_LEN],
    reserved_094: [u8; 880],
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SignatureAbi {
    r: [u8; NUMBER_LEN],
    s: [u8; NUMBER_LEN],
    reserved_090: [u8; 368],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(KeyAbi, curve) == 0);
    assert!(offset_of!(KeyAbi, qx) == 0x4);
    assert!(offset_of!(KeyAbi, qy) == 0x4c);
    assert!(offset_of!(KeyAbi, reserved_094) == 0x94);
    assert!(size_of::<KeyAbi>() == KEY_LEN);
    assert!(offset_of!(SignatureAbi, r) == 0);
    assert!(offset_of!(SignatureAbi, s) == 0x48);
    assert!(offset_of!(SignatureAbi, reserved_090) == 0x90);
    assert!(size_of::<SignatureAbi>() == 0x200);
};

impl SignatureAbi {
    /// Whether what is reserved is zero, the tails of the numbers included.
    pub(super) fn is_well_formed(&self) -> bool {
        let tails = [&self.r[48..], &self.s[48..], &self.reserved_090];
        tails.iter().all(|tail| tail.iter().all(|byte| *byte == 0))
    }
}

/// Why a text or bytes are no key or signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}")]
pub struct KeyError {
    what: &'static str,
    expected: &'static str,
}

const NO_KEY: KeyError = KeyError {
    what: "no ECDSA P-384 public key",
    expected: "194 lower-case hex digits that start with 04: an uncompressed point of the curve",
};
const NO_SIGNATURE: KeyError = KeyError {
    what: "no ECDSA P-384 signature",
    expected: "192 lower-case hex digits: R and S, 48 bytes each",
};

/// A point of P-384 that someone signs for. JSON: the uncompressed SEC1 point in hex.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Takes a point in the encoding of SEC1, as PKCS#11, KMS and certificates give it.
    ///
    /// # Errors
    /// When it is not on the curve.
    pub fn from_sec1(point: &[u8]) -> Result<Self, KeyError> {
        VerifyingKey::from_sec1_bytes(point).map(Self).map_err(|_| NO_KEY)
    }

    /// The uncompressed point: 0x04, X, Y.
    #[must_use]
    pub fn to_sec1(&self) -> Vec<u8> {
        self.0.as_affine().to_encoded_point(false).as_bytes().to_vec()
    }

    /// What reports say of the key: SHA-384 of the structure that the security processor reads.
    #[must_use]
    pub fn digest(&self) -> Sha384Hash {
        Sha384Hash::of(self.abi().as_bytes())
    }

    /// Whether `signature` is this key's over what hashes to `digest`.
    #[must_use]
    pub fn verifies(&self, digest: &Sha384Hash, signature: &Signature) -> bool {
        let parsed = ecdsa::Signature::from_scalars(signature.r, signature.s);
        parsed.is_ok_and(|parsed| self.0.verify_prehash(digest.as_bytes(), &parsed).is_ok())
    }

    pub(super) fn abi(&self) -> KeyAbi {
        let point = self.to_sec1();
        let half = |at: usize| {
            let mut number = [0; 48];
            number.copy_from_slice(&point[at..at + 48]);
            wire(&number)
        };
        let curve = le::U32::new(P384);
        KeyAbi { curve, qx: half(1), qy: half(49), ..KeyAbi::new_zeroed() }
    }

    pub(super) fn from_abi(abi: &KeyAbi, what: &'static str) -> Result<Self, IdBlockError> {
        let tails = [&abi.qx[48..], &abi.qy[48..], &abi.reserved_094];
        if tails.iter().any(|tail| tail.iter().any(|byte| *byte != 0)) {
            return Err(IdBlockError::Reserved { what });
        }
        if abi.curve.get() != P384 {
            return Err(IdBlockError::Key { what });
        }
        let mut point = vec![4];
        point.extend_from_slice(&big_endian(&abi.qx));
        point.extend_from_slice(&big_endian(&abi.qy));
        Self::from_sec1(&point).map_err(|_| IdBlockError::Key { what })
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey(digest {})", self.digest())
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        hex::encode(key.to_sec1())
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        let key = Self::from_sec1(&hex::decode(&text).map_err(|_| NO_KEY)?)?;
        // One value has one spelling: neither compressed nor upper case.
        if String::from(key.clone()) == text { Ok(key) } else { Err(NO_KEY) }
    }
}

/// A signature: R and S, big-endian as cryptography writes them. JSON: both in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Signature {
    r: [u8; 48],
    s: [u8; 48],
}

impl Signature {
    /// Takes R and S, 48 bytes each, one behind the other.
    ///
    /// # Errors
    /// When there are not 96 bytes.
    pub fn from_raw(bytes: &[u8]) -> Result<Self, KeyError> {
        let (Some((r, rest)), 96) = (bytes.split_first_chunk::<48>(), bytes.len()) else {
            return Err(NO_SIGNATURE);
        };
        Ok(Self { r: *r, s: rest.try_into().map_err(|_| NO_SIGNATURE)? })
    }

    /// R and S, one behind the other.
    #[must_use]
    pub fn to_raw(&self) -> [u8; 96] {
        let mut bytes = [0; 96];
        bytes[..48].copy_from_slice(&self.r);
        bytes[48..].copy_from_slice(&self.s);
        bytes
    }

    pub(super) fn abi(&self) -> SignatureAbi {
        SignatureAbi { r: wire(&self.r), s: wire(&self.s), ..SignatureAbi::new_zeroed() }
    }

    pub(super) fn from_abi(abi: &SignatureAbi) -> Self {
        Self { r: big_endian(&abi.r), s: big_endian(&abi.s) }
    }
}

impl From<Signature> for String {
    fn from(signature: Signature) -> Self {
        hex::encode(signature.to_raw())
    }
}

impl TryFrom<String> for Signature {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        let signature = Self::from_raw(&hex::decode(&text).map_err(|_| NO_SIGNATURE)?)?;
        if String::from(signature) == text { Ok(signature) } else { Err(NO_SIGNATURE) }
    }
}

/// Why something is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Whoever holds the key does not sign.
    #[error("the key with digest {key} did not sign")]
    Signer {
        /// The digest of the public key.
        key: Box<Sha384Hash>,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It gave something else.
    #[error("the key with digest {key} gave a signature that is not its own")]
    Foreign {
        /// The digest of the public key.
        key: Box<Sha384Hash>,
    },
}

/// Whoever holds a private key of P-384: a file, a token, a service.
pub trait Signer {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs what hashes to `digest`: ECDSA over these 48 bytes, which are not hashed again.
    ///
    /// # Errors
    /// When the holder of the key does not, or cannot be asked.
    fn sign(&self, digest: &Sha384Hash) -> Result<Signature, Box<dyn Error + Send + Sync>>;
}

/// Signs, and believes no signer that its signature is one.
pub(super) fn sign_checked(
    signer: &dyn Signer,
    digest: &Sha384Hash,
) -> Result<Signature, SignError> {
    let key = || Box::new(signer.public_key().digest());
    let signature =
        signer.sign(digest).map_err(|source| SignError::Signer { key: key(), source })?;
    if signer.public_key().verifies(digest, &signature) {
        return Ok(signature);
    }
    Err(SignError::Foreign { key: key() })
}

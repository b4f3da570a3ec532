//! Keys of tests that sign ID blocks.

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::id_block::{PublicKey, Signature, Signer};
use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;

/// A private key that is known to everybody.
pub(crate) struct Key {
    private: SigningKey,
    public: PublicKey,
}

impl Key {
    pub(crate) fn new(seed: u8) -> Self {
        let private = SigningKey::from_slice(&[seed; 48]).unwrap();
        let point = private.verifying_key().to_encoded_point(false);
        Self { public: PublicKey::from_sec1(point.as_bytes()).unwrap(), private }
    }

    pub(crate) fn digest(&self) -> Sha384Hash {
        self.public.digest()
    }
}

impl Signer for Key {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(
        &self,
        digest: &Sha384Hash,
    ) -> Result<Signature, Box<dyn std::error::Error + Send + Sync>> {
        let signature: p384::ecdsa::Signature = self.private.sign_prehash(digest.as_bytes())?;
        let (r, s) = signature.split_bytes();
        Ok(Signature::from_raw(&[r, s].concat())?)
    }
}

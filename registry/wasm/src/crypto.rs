//! The cryptography of Sigstore in Rust alone: there is no C in WebAssembly. It verifies what the
//! public instance uses and its private kin: ECDSA on P-256 and P-384, and Ed25519.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use sigstore_crypto::{CryptoProvider, Error, HashContext, SigningScheme};
use sigstore_types::HashAlgorithm;

/// Has signatures verified by this module, where nothing else was installed before.
pub fn install() {
    // The one that was first stays.
    let _ = sigstore_crypto::install_default_provider(&RustCrypto);
}

#[derive(Debug)]
struct RustCrypto;

/// A hash in the making.
struct Context<D>(D);

impl<D: sha2::Digest + Send> HashContext for Context<D> {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::UnsupportedAlgorithm(format!("{what} is not verified in WebAssembly"))
}

fn invalid(scheme: SigningScheme) -> Error {
    Error::Verification(format!("{} signature invalid", scheme.name()))
}

impl CryptoProvider for RustCrypto {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>, Error> {
        match algorithm {
            HashAlgorithm::Sha2256 => Ok(Box::new(Context(Sha256::new()))),
            HashAlgorithm::Sha2384 => Ok(Box::new(Context(Sha384::new()))),
            HashAlgorithm::Sha2512 => Ok(Box::new(Context(Sha512::new()))),
            other => Err(unsupported(other)),
        }
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        if scheme == SigningScheme::Ed25519 {
            let key = key
                .try_into()
                .ok()
                .and_then(|key| ed25519_dalek::VerifyingKey::from_bytes(key).ok());
            let signature = ed25519_dalek::Signature::from_slice(signature).ok();
            let (Some(key), Some(signature)) = (key, signature) else {
                return Err(invalid(scheme));
            };
            return key.verify_strict(data, &signature).map_err(|_| invalid(scheme));
        }
        let digest = match scheme.hash_algorithm() {
            Some(HashAlgorithm::Sha2256) => Sha256::digest(data).to_vec(),
            Some(HashAlgorithm::Sha2384) => Sha384::digest(data).to_vec(),
            Some(HashAlgorithm::Sha2512) => Sha512::digest(data).to_vec(),
            _ => return Err(unsupported(scheme.name())),
        };
        self.verify_prehashed(scheme, key, &digest, signature)
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        digest: &[u8],
        signature: &[u8],
    ) -> Result<(), Error> {
        let good = match scheme {
            SigningScheme::EcdsaP256Sha256 | SigningScheme::EcdsaP256Sha384 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key);
                let signature = p256::ecdsa::Signature::from_der(signature);
                holds(key, digest, signature)
            }
            SigningScheme::EcdsaP384Sha256 | SigningScheme::EcdsaP384Sha384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key);
                let signature = p384::ecdsa::Signature::from_der(signature);
                holds(key, digest, signature)
            }
            other => return Err(unsupported(other.name())),
        };
        if good { Ok(()) } else { Err(invalid(scheme)) }
    }
}

fn holds<S, E>(
    key: Result<impl PrehashVerifier<S>, E>,
    digest: &[u8],
    signature: Result<S, E>,
) -> bool {
    let (Ok(key), Ok(signature)) = (key, signature) else { return false };
    key.verify_prehash(digest, &signature).is_ok()
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Signer as _;
    use sigstore_crypto::aws_lc_provider;

    use super::*;

    /// Keys and what they signed, one of each kind.
    fn signed(message: &[u8]) -> Vec<(SigningScheme, Vec<u8>, Vec<u8>)> {
        let p256 = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let p384 = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let ed25519 = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let by_p256: p256::ecdsa::Signature = p256.sign(message);
        let by_p384: p384::ecdsa::Signature = p384.sign(message);
        let point = p256.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        let longer = p384.verifying_key().to_encoded_point(false).as_bytes().to_vec();
        vec![
            (SigningScheme::EcdsaP256Sha256, point, by_p256.to_der().as_bytes().to_vec()),
            (SigningScheme::EcdsaP384Sha384, longer, by_p384.to_der().as_bytes().to_vec()),
            (
                SigningScheme::Ed25519,
                ed25519.verifying_key().to_bytes().to_vec(),
                ed25519.sign(message).to_bytes().to_vec(),
            ),
        ]
    }

    #[test]
    fn it_agrees_with_the_library_in_c() {
        let message = b"a message".as_slice();
        for (scheme, key, signature) in signed(message) {
            let both = |key: &[u8], message: &[u8], signature: &[u8]| {
                let ours = RustCrypto.verify_raw(scheme, key, message, signature).is_ok();
                let theirs = aws_lc_provider().verify_raw(scheme, key, message, signature).is_ok();
                assert_eq!(ours, theirs, "{scheme:?} {signature:02x?}");
                ours
            };
            assert!(both(&key, message, &signature), "{scheme:?}");
            assert!(!both(&key, b"another", &signature), "{scheme:?}");
            assert!(!both(&key, message, b""), "{scheme:?}");
            assert!(!both(b"", message, &signature), "{scheme:?}");
            for at in 0..signature.len() {
                let mut other = signature.clone();
                other[at] ^= 1;
                assert!(!both(&key, message, &other), "{scheme:?} {at}");
            }
        }
    }

    #[test]
    fn hashes_are_the_same_and_digests_verify() {
        let message = b"a message".as_slice();
        assert_eq!(RustCrypto.sha256(message), aws_lc_provider().sha256(message));
        assert_eq!(RustCrypto.sha384(message), aws_lc_provider().sha384(message));
        assert_eq!(RustCrypto.sha512(message), aws_lc_provider().sha512(message));
        for (scheme, key, signature) in &signed(message)[..2] {
            let digest = match scheme {
                SigningScheme::EcdsaP256Sha256 => RustCrypto.sha256(message).to_vec(),
                _ => RustCrypto.sha384(message).to_vec(),
            };
            assert!(RustCrypto.verify_prehashed(*scheme, key, &digest, signature).is_ok());
            assert!(RustCrypto.verify_prehashed(*scheme, key, &[0; 48], signature).is_err());
        }
        let rsa = RustCrypto.verify_raw(SigningScheme::RsaPkcs1Sha256, b"", message, b"");
        assert!(rsa.unwrap_err().to_string().contains("not verified in WebAssembly"));
    }
}

//! The keys of one boot. They are made here, never leave the VM's memory, and die with it.

use std::fmt;
use std::sync::Arc;

use casemate_measurements::hash::Sha256Hash;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use ssh_key::LineEnding;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, PrivateKey};
use ssh_key::public::Ed25519PublicKey;
use zeroize::Zeroizing;

/// Name in the certificate. Nobody verifies it: the evidence binds the key itself.
const CERTIFICATE_NAME: &str = "casemate.invalid";

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The kernel gave no randomness.
    #[error("cannot get random bytes")]
    Random,
    /// The SSH host key could not be made.
    #[error("cannot make the SSH host key")]
    Ssh(#[source] ssh_key::Error),
    /// ring refused a seed.
    #[error("cannot derive the SSH host key's public half")]
    Derive,
    /// The TLS key or its certificate could not be made.
    #[error("cannot make the TLS key")]
    Tls(#[source] rcgen::Error),
    /// TLS could not be set up with them.
    #[error("cannot set up TLS")]
    Configure(#[source] rustls::Error),
}

/// The ed25519 host key of sshd.
pub struct SshHostKey {
    private: Zeroizing<String>,
    public: String,
}

impl SshHostKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the kernel gives no randomness, or the key cannot be written down.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        SystemRandom::new().fill(&mut *seed).map_err(|_| KeyError::Random)?;
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Derive)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Derive)?;
        let key = PrivateKey::from(Ed25519Keypair {
            public: Ed25519PublicKey(public),
            private: Ed25519PrivateKey::from_bytes(seed),
        });
        let private = key.to_openssh(LineEnding::LF).map_err(KeyError::Ssh)?;
        let public = key.public_key().to_openssh().map_err(KeyError::Ssh)?;
        Ok(Self { private, public: public.trim_end().to_owned() })
    }

    /// The private key as OpenSSH writes it to a file.
    #[must_use]
    pub fn private(&self) -> &str {
        &self.private
    }

    /// The public key as sshd presents it: `ssh-ed25519 <base64>`, no comment.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }
}

impl fmt::Debug for SshHostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshHostKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The key that serves TLS, in a certificate that it signed itself.
pub struct TlsIdentity {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl TlsIdentity {
    /// Makes a new P-256 key.
    ///
    /// # Errors
    /// When the key or its certificate cannot be made.
    pub fn generate() -> Result<Self, KeyError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Tls)?;
        let certificate = CertificateParams::new(vec![CERTIFICATE_NAME.to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .map_err(KeyError::Tls)?;
        Ok(Self { certificate: certificate.der().clone(), key })
    }

    /// SHA-256 of the DER `SubjectPublicKeyInfo`.
    #[must_use]
    pub fn spki_sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.key.subject_public_key_info())
    }

    /// How TLS is spoken with this key: version 1.3 alone, no client certificates, and no
    /// resumption, so that each connection proves the key anew.
    ///
    /// # Errors
    /// When rustls refuses the key.
    pub fn into_server_config(self) -> Result<ServerConfig, KeyError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![self.certificate], key)
            })
            .map_err(KeyError::Configure)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("spki", &self.spki_sha256()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::private::KeypairData;

    use super::*;

    #[test]
    fn the_host_key_is_openssh_s() {
        // RFC 8032, 7.1, test 1: the public half of this seed.
        let seed: [u8; 32] = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = SshHostKey::from_seed(&seed).unwrap();
        assert!(key.private().starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"));
        let read = PrivateKey::from_openssh(key.private()).unwrap();
        let KeypairData::Ed25519(pair) = read.key_data() else { panic!("{read:?}") };
        assert_eq!(pair.private.to_bytes(), seed);
        assert_eq!(pair.public.0[..4], [0xd7, 0x5a, 0x98, 0x01]);
        assert_eq!(read.public_key().to_openssh().unwrap(), key.public());
        assert_eq!(key.public().split(' ').count(), 2);
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }

    #[test]
    fn each_boot_has_other_keys() {
        let (a, b) = (SshHostKey::generate().unwrap(), SshHostKey::generate().unwrap());
        assert_ne!(a.public(), b.public());
        let (a, b) = (TlsIdentity::generate().unwrap(), TlsIdentity::generate().unwrap());
        assert_ne!(a.spki_sha256(), b.spki_sha256());
    }
}

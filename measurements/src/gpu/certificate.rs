//! NVIDIA's certificates: ECDSA on P-384 with SHA-384 throughout, read strictly, each signature
//! checked over the bytes that were received.
//!
//! The profile is what real devices and reference integrity manifests show: an authority has
//! critical basic constraints and key usage with keyCertSign, the last certificate has
//! digitalSignature and is no authority.

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use x509_cert::der::asn1::{ObjectIdentifier, Utf8StringRef};
use x509_cert::der::{self, Decode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName};

use crate::certificate;
use crate::chain::UnixTime;
use crate::hash::Sha256Hash;

/// Most certificates of one chain, the root included.
pub const MAX_CERTIFICATES: usize = 8;
/// Most bytes of one chain as PEM.
pub const MAX_CHAIN_LEN: usize = 32 * 1024;

const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
/// `DMTF` DSP0274, *Security Protocol and Data Model*, 1.1.0: `id-DMTF-device-info`.
const DEVICE_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.1");

/// Why a chain is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are too many or none.
    #[error("{found} bytes or certificates, expected 1 to {most}")]
    Length {
        /// How many there are.
        found: usize,
        /// How many may be.
        most: usize,
    },
    /// The text is no PEM of certificates.
    #[error("certificate {index} is no PEM certificate")]
    Pem {
        /// Which, from 0.
        index: usize,
    },
    /// A certificate is no X.509 certificate.
    #[error("certificate {index} is malformed")]
    Malformed {
        /// Which, from 0.
        index: usize,
        /// Where.
        source: der::Error,
    },
    /// A certificate does not fit its place.
    #[error("{name:?}: {what}")]
    Profile {
        /// Its subject.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A signature is wrong.
    #[error("{name:?} is not signed by {by:?}")]
    Signature {
        /// The subject.
        name: String,
        /// Who should have signed.
        by: String,
    },
    /// A certificate is not valid now.
    #[error("{name:?} is valid from {from} to {to}, not at {at}")]
    Validity {
        /// The subject.
        name: String,
        /// The verifier's time.
        at: UnixTime,
        /// From when.
        from: UnixTime,
        /// To when.
        to: UnixTime,
    },
    /// The chain ends elsewhere.
    #[error("the chain ends in {found:?}, which is no root of NVIDIA that this verifier trusts")]
    UntrustedRoot {
        /// The subject found.
        found: String,
    },
}

/// A certificate, well formed and not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    inner: x509_cert::Certificate,
}

impl Certificate {
    pub(crate) fn from_der(der: &[u8], index: usize) -> Result<Self, CertificateError> {
        let malformed = |source| CertificateError::Malformed { index, source };
        let (signed, signature) = certificate::split(der).map_err(malformed)?;
        let inner = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let certificate = Self { der: der.to_vec(), signed, signature, inner };
        let tbs = &certificate.inner.tbs_certificate;
        let algorithm = &certificate.inner.signature_algorithm;
        if *algorithm != tbs.signature || algorithm.oid != ECDSA_WITH_SHA384 {
            return Err(certificate.refuse("is not signed with ECDSA and SHA-384"));
        }
        let extensions = tbs.extensions.as_deref().unwrap_or(&[]);
        for (at, extension) in extensions.iter().enumerate() {
            let oid = extension.extn_id;
            let known = [BASIC_CONSTRAINTS, KEY_USAGE].contains(&oid);
            let twice = extensions[..at].iter().any(|other| other.extn_id == oid);
            if twice || (extension.critical && !known) {
                let what = format!("extension {oid} stands there twice or is critical and unknown");
                return Err(certificate.refuse(&what));
            }
        }
        Ok(certificate)
    }

    /// Reads certificates that follow one another as PEM.
    pub(crate) fn chain_from_pem(bytes: &[u8]) -> Result<Vec<Self>, CertificateError> {
        const END: &str = "-----END CERTIFICATE-----";
        if bytes.len() > MAX_CHAIN_LEN {
            return Err(CertificateError::Length { found: bytes.len(), most: MAX_CHAIN_LEN });
        }
        let text = str::from_utf8(bytes).map_err(|_| CertificateError::Pem { index: 0 })?;
        // NVML hands out the text with the zero byte that ends it.
        let mut rest = text.trim_end_matches('\0').trim();
        let mut chain = Vec::new();
        while !rest.is_empty() {
            let index = chain.len();
            let pem = |_| CertificateError::Pem { index };
            let at = rest.find(END).ok_or(CertificateError::Pem { index })? + END.len();
            let (one, after) = rest.split_at(at);
            let (label, der) = der::pem::decode_vec(one.as_bytes()).map_err(pem)?;
            if label != "CERTIFICATE" {
                return Err(CertificateError::Pem { index });
            }
            chain.push(Self::from_der(&der, index)?);
            if chain.len() > MAX_CERTIFICATES {
                return Err(CertificateError::Length { found: index + 1, most: MAX_CERTIFICATES });
            }
            rest = after.trim_start();
        }
        if chain.is_empty() {
            return Err(CertificateError::Length { found: 0, most: MAX_CERTIFICATES });
        }
        Ok(chain)
    }

    fn refuse(&self, what: &str) -> CertificateError {
        CertificateError::Profile { name: self.name(), what: what.to_owned() }
    }

    /// Its subject, for a person.
    pub(crate) fn name(&self) -> String {
        self.inner.tbs_certificate.subject.to_string()
    }

    pub(crate) fn sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.der)
    }

    fn key_usage(&self) -> Option<KeyUsage> {
        self.inner.tbs_certificate.get::<KeyUsage>().ok().flatten().map(|(_, usage)| usage)
    }

    fn constraints(&self) -> Option<BasicConstraints> {
        let constraints = self.inner.tbs_certificate.get::<BasicConstraints>().ok().flatten();
        constraints.map(|(_, constraints)| constraints)
    }

    /// Checks that it may sign certificates with `below` authorities between it and the leaf.
    fn check_authority(&self, below: usize) -> Result<(), CertificateError> {
        let constraints = self.constraints().filter(|constraints| constraints.ca);
        let Some(constraints) = constraints else {
            return Err(self.refuse("is no authority: expected CA"));
        };
        if !self.key_usage().is_some_and(|usage| usage.key_cert_sign()) {
            return Err(self.refuse("is no authority: expected keyCertSign"));
        }
        match constraints.path_len_constraint {
            Some(most) if below > usize::from(most) => {
                Err(self.refuse(&format!("allows {most} authorities below it, found {below}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it may sign reports and nothing above them.
    fn check_leaf(&self) -> Result<(), CertificateError> {
        if self.constraints().is_some_and(|constraints| constraints.ca) {
            return Err(self.refuse("is an authority, expected the key of a signer"));
        }
        if !self.key_usage().is_some_and(|usage| usage.digital_signature()) {
            return Err(self.refuse("may not sign: expected digitalSignature"));
        }
        Ok(())
    }

    fn check_validity(&self, at: UnixTime) -> Result<(), CertificateError> {
        let validity = &self.inner.tbs_certificate.validity;
        let from = UnixTime(validity.not_before.to_unix_duration().as_secs());
        let to = UnixTime(validity.not_after.to_unix_duration().as_secs());
        if (from..=to).contains(&at) {
            return Ok(());
        }
        Err(CertificateError::Validity { name: self.name(), at, from, to })
    }

    fn check_issued_by(&self, issuer: &Self) -> Result<(), CertificateError> {
        let refused = || CertificateError::Signature { name: self.name(), by: issuer.name() };
        if self.inner.tbs_certificate.issuer != issuer.inner.tbs_certificate.subject {
            return Err(refused());
        }
        let signature = Signature::from_der(&self.signature).map_err(|_| refused())?;
        issuer.key()?.verify(&self.signed, &signature).map_err(|_| refused())
    }

    /// Its public key.
    pub(crate) fn key(&self) -> Result<VerifyingKey, CertificateError> {
        let key = certificate::p384_key(&self.inner.tbs_certificate.subject_public_key_info);
        key.ok_or_else(|| self.refuse("has another key, expected ECDSA P-384"))
    }

    /// The value of an extension.
    pub(crate) fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.inner.tbs_certificate.extensions.as_deref().unwrap_or(&[]);
        let extension = extensions.iter().find(|extension| extension.extn_id == oid)?;
        Some(extension.extn_value.as_bytes())
    }

    /// What its subject alternative name calls the device: `NVIDIA:GH100:48B02D92494BADF4`.
    pub(crate) fn device_info(&self) -> Option<String> {
        let (_, names) = self.inner.tbs_certificate.get::<SubjectAltName>().ok().flatten()?;
        names.0.iter().find_map(|name| match name {
            GeneralName::OtherName(other) if other.type_id == DEVICE_INFO => {
                let text = other.value.decode_as::<Utf8StringRef<'_>>().ok()?;
                Some(text.as_str().to_owned())
            }
            _ => None,
        })
    }
}

/// Verifies a chain, the signer first, up to one of `roots`, at the time `at`. The root may stand
/// at its end or be left out. Revocation is not checked.
pub(crate) fn verify_chain(
    chain: &[Certificate],
    roots: &[Certificate],
    at: UnixTime,
) -> Result<(), CertificateError> {
    let Some(last) = chain.last() else {
        return Err(CertificateError::Length { found: 0, most: MAX_CERTIFICATES });
    };
    let (last_issuer, found) = (&last.inner.tbs_certificate.issuer, last.name());
    let root = roots.iter().find(|root| root.inner.tbs_certificate.subject == *last_issuer);
    let root = root.ok_or(CertificateError::UntrustedRoot { found })?;
    // A root that came along must be the trusted one, byte for byte.
    let below = match chain {
        [below @ .., last] if last.inner.tbs_certificate.subject == *last_issuer => {
            if last.der != root.der {
                return Err(CertificateError::UntrustedRoot { found: last.name() });
            }
            below
        }
        all => all,
    };
    let Some((leaf, authorities)) = below.split_first() else {
        return Err(root.refuse("is a root and signs no reports"));
    };
    leaf.check_leaf()?;
    let mut issued = leaf;
    for (index, authority) in authorities.iter().chain([root]).enumerate() {
        authority.check_authority(index)?;
        issued.check_issued_by(authority)?;
        issued.check_validity(at)?;
        issued = authority;
    }
    root.check_validity(at)
}

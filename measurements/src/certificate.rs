//! One certificate of a chain: read strictly, held to its role, and its signature checked over
//! the bytes that were received.

use p384::ecdsa::VerifyingKey;
use rsa::RsaPublicKey;
use rsa::pkcs1::{DecodeRsaPublicKey as _, RsaPssParams};
use rsa::pss;
use rsa::signature::Verifier as _;
use rsa::traits::PublicKeyParts as _;
use sha2::Sha384;
use x509_cert::der::asn1::{BitStringRef, ObjectIdentifier};
use x509_cert::der::{self, Decode as _, Encode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Time;

use crate::chain::{ChainError, Role, UnixTime};
use crate::hash::Sha256Hash;
use crate::tcb::Product;

/// Most bytes of one certificate, DER or PEM.
const MAX_LEN: usize = 16 * 1024;

const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

pub(crate) const PRODUCT_NAME: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
pub(crate) const HARDWARE_ID: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
/// Versions of the parts of the TCB: the last arc is 1 to 9.
const SPL: [ObjectIdentifier; 9] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9"),
];

/// Length of the salt of every signature of AMD's roots and intermediates.
const SALT_LEN: u8 = 48;

/// A certificate, well formed and not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    role: Role,
    der: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    inner: x509_cert::Certificate,
}

impl Certificate {
    /// Reads one certificate, DER or PEM.
    pub(crate) fn parse(bytes: &[u8], role: Role) -> Result<Self, ChainError> {
        let malformed = |source| ChainError::Malformed { role, source };
        if bytes.len() > MAX_LEN {
            return Err(ChainError::TooLong { role, len: bytes.len() });
        }
        let der = der_of(bytes, "CERTIFICATE").map_err(malformed)?;
        let (signed, signature) = split(&der).map_err(malformed)?;
        let inner = x509_cert::Certificate::from_der(&der).map_err(malformed)?;
        if inner.signature_algorithm != inner.tbs_certificate.signature
            || !is_pss_with_sha384(&inner.signature_algorithm)
        {
            return Err(ChainError::SignatureAlgorithm { role });
        }
        let certificate = Self { role, der, signed, signature, inner };
        certificate.check_extensions()?;
        Ok(certificate)
    }

    /// An extension that must be understood and is not, or stands there twice, is refused.
    fn check_extensions(&self) -> Result<(), ChainError> {
        let extensions = self.inner.tbs_certificate.extensions.as_deref().unwrap_or(&[]);
        for (index, extension) in extensions.iter().enumerate() {
            let oid = extension.extn_id;
            let known = [BASIC_CONSTRAINTS, KEY_USAGE].contains(&oid);
            let twice = extensions[..index].iter().any(|other| other.extn_id == oid);
            if twice || (extension.critical && !known) {
                let oid = oid.to_string();
                return Err(ChainError::Extension { role: self.role, oid });
            }
        }
        Ok(())
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.der
    }

    /// The common name of its subject; empty without one.
    pub(crate) fn common_name(&self) -> String {
        let name = &self.inner.tbs_certificate.subject;
        let parts = name.0.iter().flat_map(|part| part.0.iter());
        let mut value = parts.filter(|part| part.oid == COMMON_NAME).map(|part| part.value.value());
        value.next_back().map(String::from_utf8_lossy).unwrap_or_default().into_owned()
    }

    /// SHA-256 of its public key, as it would be pinned.
    pub(crate) fn spki_sha256(&self) -> Result<Sha256Hash, ChainError> {
        let role = self.role;
        let spki = self.inner.tbs_certificate.subject_public_key_info.to_der();
        let spki = spki.map_err(|source| ChainError::Malformed { role, source })?;
        Ok(Sha256Hash::of(&spki))
    }

    /// Whether `issuer` is who this certificate says has signed it.
    pub(crate) fn names_as_issuer(&self, issuer: &Self) -> bool {
        self.inner.tbs_certificate.issuer == issuer.inner.tbs_certificate.subject
    }

    /// Checks the signature of `issuer`, its right to sign, and its name.
    pub(crate) fn check_issued_by(&self, issuer: &Self) -> Result<(), ChainError> {
        let (role, by) = (self.role, issuer.role);
        if !self.names_as_issuer(issuer) {
            return Err(ChainError::Issuer {
                role,
                found: self.inner.tbs_certificate.issuer.to_string(),
                expected: issuer.inner.tbs_certificate.subject.to_string(),
            });
        }
        let constraints = issuer.inner.tbs_certificate.get::<BasicConstraints>();
        let constraints =
            constraints.map_err(|source| ChainError::Malformed { role: by, source })?;
        let ca = constraints.is_some_and(|(_, constraints)| constraints.ca);
        if !ca || !issuer.may(KeyUsage::key_cert_sign)? {
            return Err(ChainError::NotAuthority { role: by });
        }
        if issuer.has_signed(&self.signed, &self.signature)? {
            return Ok(());
        }
        Err(ChainError::CertificateSignature { role, by })
    }

    /// Whether its key is for `usage`.
    pub(crate) fn may(&self, usage: fn(&KeyUsage) -> bool) -> Result<bool, ChainError> {
        let found = self.inner.tbs_certificate.get::<KeyUsage>();
        let found = found.map_err(|source| ChainError::Malformed { role: self.role, source })?;
        Ok(found.is_some_and(|(_, found)| usage(&found)))
    }

    /// Whether `signature` is its key's, made as AMD's roots and intermediates make theirs.
    pub(crate) fn has_signed(&self, signed: &[u8], signature: &[u8]) -> Result<bool, ChainError> {
        let key = pss::VerifyingKey::<Sha384>::new(self.rsa_key()?);
        let signature = pss::Signature::try_from(signature);
        Ok(signature.is_ok_and(|signature| key.verify(signed, &signature).is_ok()))
    }

    pub(crate) const fn subject(&self) -> &Name {
        &self.inner.tbs_certificate.subject
    }

    /// From when to when it is valid, and the number by which it is revoked.
    pub(crate) fn term(&self) -> Term {
        let tbs = &self.inner.tbs_certificate;
        Term {
            role: self.role,
            serial: tbs.serial_number.clone(),
            from: unix_time(&tbs.validity.not_before),
            to: unix_time(&tbs.validity.not_after),
        }
    }

    fn rsa_key(&self) -> Result<RsaPublicKey, ChainError> {
        let refused = || ChainError::Key { role: self.role, expected: "RSA 4096 with 65537" };
        let spki = &self.inner.tbs_certificate.subject_public_key_info;
        let bytes = spki.subject_public_key.as_bytes().ok_or_else(refused)?;
        let key = RsaPublicKey::from_pkcs1_der(bytes).map_err(|_| refused())?;
        let sized = key.n().bits() == 4096 && *key.e() == rsa::BigUint::from(65_537_u32);
        if spki.algorithm.oid == RSA_ENCRYPTION && sized { Ok(key) } else { Err(refused()) }
    }

    /// The key that signs reports.
    pub(crate) fn p384_key(&self) -> Result<VerifyingKey, ChainError> {
        let key = p384_key(&self.inner.tbs_certificate.subject_public_key_info);
        key.ok_or(ChainError::Key { role: self.role, expected: "ECDSA P-384" })
    }

    fn extension(&self, oid: ObjectIdentifier) -> Option<&[u8]> {
        let extensions = self.inner.tbs_certificate.extensions.as_deref().unwrap_or(&[]);
        let extension = extensions.iter().find(|extension| extension.extn_id == oid)?;
        Some(extension.extn_value.as_bytes())
    }

    /// What AMD endorses the key for.
    pub(crate) fn endorsement(&self) -> Result<Endorsement, ChainError> {
        let role = self.role;
        let refuse = |oid: ObjectIdentifier| ChainError::Extension { role, oid: oid.to_string() };
        let name = self.extension(PRODUCT_NAME).ok_or_else(|| refuse(PRODUCT_NAME))?;
        let name = der::asn1::Ia5StringRef::from_der(name).map_err(|_| refuse(PRODUCT_NAME))?;
        let product = Product::from_certificate(name.as_str())
            .ok_or_else(|| ChainError::ProductName { role, found: name.to_string() })?;
        let mut spl = [None; 9];
        for (slot, oid) in spl.iter_mut().zip(SPL) {
            if let Some(value) = self.extension(oid) {
                *slot = Some(u8::from_der(value).map_err(|_| refuse(oid))?);
            }
        }
        let hardware_id = self.extension(HARDWARE_ID).map(<[u8]>::to_vec);
        Ok(Endorsement { product, spl, hardware_id })
    }
}

/// What the extensions of a VCEK or VLEK certificate say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endorsement {
    pub(crate) product: Product,
    /// Extension 1 to 9.
    pub(crate) spl: [Option<u8>; 9],
    pub(crate) hardware_id: Option<Vec<u8>>,
}

/// A public key on P-384; `None` for any other.
pub(crate) fn p384_key(spki: &SubjectPublicKeyInfoOwned) -> Option<VerifyingKey> {
    let curve = spki.algorithm.parameters.as_ref();
    let curve = curve.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    if spki.algorithm.oid != EC_PUBLIC_KEY || curve != Some(SECP384R1) {
        return None;
    }
    VerifyingKey::from_sec1_bytes(spki.subject_public_key.as_bytes()?).ok()
}

/// From when to when a certificate is valid, and the number by which it is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) role: Role,
    pub(crate) serial: SerialNumber,
    from: UnixTime,
    to: UnixTime,
}

impl Term {
    /// Checks that `at` lies within it.
    pub(crate) fn check(&self, at: UnixTime) -> Result<(), ChainError> {
        let Self { role, from, to, .. } = *self;
        if (from..=to).contains(&at) {
            return Ok(());
        }
        Err(ChainError::Validity { role, at, from, to })
    }
}

pub(crate) fn unix_time(time: &Time) -> UnixTime {
    UnixTime(time.to_unix_duration().as_secs())
}

/// Whether a signature is made as AMD's roots and intermediates make theirs: RSASSA-PSS with
/// SHA-384 for everything and a salt as long as the hash.
pub(crate) fn is_pss_with_sha384(algorithm: &AlgorithmIdentifierOwned) -> bool {
    let parameters = algorithm.parameters.as_ref();
    let parameters = parameters.and_then(|any| any.decode_as::<RsaPssParams<'_>>().ok());
    algorithm.oid == RSASSA_PSS && parameters == Some(RsaPssParams::new::<Sha384>(SALT_LEN))
}

/// The DER of a file that is DER or, under `label`, PEM. White space may follow PEM: some tools
/// leave more than one newline.
pub(crate) fn der_of(bytes: &[u8], label: &str) -> der::Result<Vec<u8>> {
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(bytes.to_vec());
    }
    let (found, der) = der::pem::decode_vec(bytes.trim_ascii_end())?;
    if found == label { Ok(der) } else { Err(der::ErrorKind::Failed.into()) }
}

/// Splits what is signed, a certificate or a revocation list, into the bytes that are signed and
/// the signature.
pub(crate) fn split(certificate: &[u8]) -> der::Result<(Vec<u8>, Vec<u8>)> {
    let mut reader = SliceReader::new(certificate)?;
    let parts = reader.sequence(|reader| {
        let signed = reader.tlv_bytes()?.to_vec();
        AlgorithmIdentifierOwned::decode(reader)?;
        let signature = BitStringRef::decode(reader)?;
        let signature = signature.as_bytes().ok_or(der::ErrorKind::Failed)?.to_vec();
        Ok((signed, signature))
    })?;
    reader.finish(parts)
}

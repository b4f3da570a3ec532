//! Certificates in the files that people have: found by content, whatever stands around them.
//!
//! Tools write the same certificate in many ways: with its text or the attributes of a bag before
//! it, indented, after a byte order mark, in JSON, the root first, or the whole chain in one file.
//! This reads what a verifier names by hand. What a host sends is read strictly
//! ([`crate::certificates`]), and what is found here is judged like it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::BasicConstraints;

use crate::certificate::{HARDWARE_ID, PRODUCT_NAME};
use crate::certificates::CertificateTable;
use crate::chain::Role;
use crate::report::SigningKey;

/// Most certificates of one file.
const MOST: usize = 16;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why a file gives no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFileError {
    /// There is none.
    #[error("no certificate in it: expected DER, or PEM with a line {BEGIN:?}")]
    None,
    /// One is damaged.
    #[error("certificate {number} of it is cut off or damaged")]
    Damaged {
        /// Which, from one.
        number: usize,
    },
    /// There are too many.
    #[error("more than {MOST} certificates in it, expected those of one chain")]
    TooMany,
    /// Several are of keys that may have signed the report.
    #[error("{count} different {role} certificates, expected the one of the key that signed")]
    Several {
        /// Of which kind.
        role: Role,
        /// How many.
        count: usize,
    },
}

/// A certificate that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is for, as it says itself; `None` for one that is of no chain of AMD's.
    pub role: Option<Role>,
    /// Its bytes.
    pub der: Vec<u8>,
    inner: Certificate,
}

impl Found {
    fn new(der: Vec<u8>, number: usize) -> Result<Self, CertificateFileError> {
        let damaged = |_| CertificateFileError::Damaged { number };
        let inner = Certificate::from_der(&der).map_err(damaged)?;
        let certificate = &inner.tbs_certificate;
        let extensions = certificate.extensions.as_deref().unwrap_or(&[]);
        let has = |oid| extensions.iter().any(|extension| extension.extn_id == oid);
        let constraints = certificate.get::<BasicConstraints>().map_err(damaged)?;
        let authority = constraints.is_some_and(|(_, constraints)| constraints.ca);
        let role = match (authority, has(PRODUCT_NAME)) {
            (false, true) if has(HARDWARE_ID) => Some(Role::Vcek),
            (false, true) => Some(Role::Vlek),
            (true, _) if certificate.issuer == certificate.subject => Some(Role::Ark),
            (true, _) => Some(Role::Ask),
            (false, false) => None,
        };
        Ok(Self { role, der, inner })
    }

    /// Whether it is the intermediate above keys of providers, ASVK, as its name says.
    fn is_for_providers(&self) -> bool {
        self.inner.tbs_certificate.subject.to_string().contains("VLEK")
    }

    fn is_issuer_of(&self, other: &Self) -> bool {
        self.inner.tbs_certificate.subject == other.inner.tbs_certificate.issuer
    }
}

/// Every certificate in the bytes of a file, in their order.
///
/// # Errors
/// When there is none, one is damaged, or there are too many.
pub fn find(bytes: &[u8]) -> Result<Vec<Found>, CertificateFileError> {
    let text = String::from_utf8_lossy(bytes);
    let ders = if text.contains(BEGIN) { of_pem(&text)? } else { of_der(bytes)? };
    if ders.len() > MOST {
        return Err(CertificateFileError::TooMany);
    }
    ders.into_iter().zip(1..).map(|(der, number)| Found::new(der, number)).collect()
}

fn of_pem(text: &str) -> Result<Vec<Vec<u8>>, CertificateFileError> {
    // In a string of JSON the ends of lines are escaped.
    let text = text.replace("\\r", "").replace("\\n", "\n");
    let mut ders = Vec::new();
    for part in text.split(BEGIN).skip(1) {
        let number = ders.len() + 1;
        let body = part.split_once(END).map(|(body, _)| body);
        let body = body.map(|body| body.split_ascii_whitespace().collect::<String>());
        let der = body.and_then(|body| STANDARD.decode(body).ok());
        ders.push(der.ok_or(CertificateFileError::Damaged { number })?);
    }
    Ok(ders)
}

fn of_der(bytes: &[u8]) -> Result<Vec<Vec<u8>>, CertificateFileError> {
    // The tag of a sequence, which every certificate is.
    if bytes.first() != Some(&0x30) {
        return Err(CertificateFileError::None);
    }
    let (mut ders, mut rest) = (Vec::new(), bytes);
    while !rest.trim_ascii_start().is_empty() {
        let number = ders.len() + 1;
        let one = SliceReader::new(rest).and_then(|mut reader| reader.tlv_bytes());
        let one = one.map_err(|_| CertificateFileError::Damaged { number })?;
        ders.push(one.to_vec());
        rest = &rest[one.len()..];
    }
    Ok(ders)
}

/// The chain that vouches for a report signed by a key of the kind `key`, of what was found in any
/// order. What is not found is left out, and what is not of the chain is not used.
///
/// # Errors
/// When several keys may have signed.
pub fn chain(found: &[Found], key: SigningKey) -> Result<CertificateTable, CertificateFileError> {
    let role = match key {
        SigningKey::Vcek => Role::Vcek,
        SigningKey::Vlek => Role::Vlek,
    };
    let of = |role: Role| {
        let mut all: Vec<&Found> = Vec::new();
        for one in found.iter().filter(|one| one.role == Some(role)) {
            if all.iter().all(|other| other.der != one.der) {
                all.push(one);
            }
        }
        all
    };
    let issuer = |role: Role, below: Option<&Found>| {
        let all = of(role);
        let fits = |one: &&&Found| match below {
            Some(below) => one.is_issuer_of(below),
            None => one.is_for_providers() == (key == SigningKey::Vlek),
        };
        // One that is of another chain is refused for that when the chain is judged.
        all.iter().find(fits).or(all.first().filter(|_| all.len() == 1)).copied()
    };
    let leaves = of(role);
    if leaves.len() > 1 {
        return Err(CertificateFileError::Several { role, count: leaves.len() });
    }
    let leaf = leaves.first().copied();
    let ask = issuer(Role::Ask, leaf);
    let ark = issuer(Role::Ark, ask);
    let der = |one: Option<&Found>| one.map(|one| one.der.clone());
    let mut table = CertificateTable { ask: der(ask), ark: der(ark), ..Default::default() };
    match key {
        SigningKey::Vcek => table.vcek = der(leaf),
        SigningKey::Vlek => table.vlek = der(leaf),
    }
    Ok(table)
}

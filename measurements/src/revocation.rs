//! Which certificates a root has taken back: a revocation list that the verifier got by itself,
//! never from the host.
//!
//! AMD document 57230, *Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
//! Specification*, revision 1.00, section "Certificate Revocation List": one list per product,
//! signed by its root. It names intermediates; the keys of chips all have the serial number 0 and
//! are superseded by a newer TCB instead.

use x509_cert::crl::CertificateList;
use x509_cert::der::{self, Decode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::KeyUsage;

use crate::certificate::{Certificate, Term, der_of, is_pss_with_sha384, split, unix_time};
use crate::chain::{ChainError, Role, UnixTime};

/// Most bytes of a list, DER or PEM.
pub const MAX_LEN: usize = 256 * 1024;

/// Why a list is refused, or a certificate because of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// The list is too long.
    #[error("revocation list has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The list is no X.509 revocation list.
    #[error("revocation list is malformed")]
    Malformed(#[source] der::Error),
    /// The list is signed in another way.
    #[error(
        "revocation list is not signed with RSASSA-PSS, SHA-384 and a salt of 48 bytes, as \
         AMD's are"
    )]
    SignatureAlgorithm,
    /// The list has an extension that changes what it means, such as that it is a part of one.
    #[error("revocation list has the critical extension {oid}, which is unknown")]
    Extension {
        /// Which extension.
        oid: String,
    },
    /// The list never ends, so it cannot be known to be the last one.
    #[error("revocation list does not say when the next one comes")]
    Endless,
    /// The root may not sign lists, or its key is none that signs.
    #[error("the root cannot sign revocation lists")]
    Root(#[source] ChainError),
    /// The root may not sign lists.
    #[error("revocation list names {root}, which may sign certificates but no such lists")]
    NotAuthority {
        /// Common name of the root.
        root: String,
    },
    /// The list's signature is wrong.
    #[error("revocation list is not signed by {root}, whose name it bears")]
    Signature {
        /// Common name of the root.
        root: String,
    },
    /// The list is of another time.
    #[error(
        "revocation list speaks from {from} to {to}, not at {at}: get the current one from AMD's \
         key service"
    )]
    NotCurrent {
        /// The verifier's time.
        at: UnixTime,
        /// From when.
        from: UnixTime,
        /// To when.
        to: UnixTime,
    },
    /// A certificate was taken back.
    #[error("{role} certificate, serial number {serial}, was revoked at {since}")]
    Revoked {
        /// Which.
        role: Role,
        /// Its serial number.
        serial: String,
        /// Since when.
        since: UnixTime,
    },
}

/// A revocation list, well formed and not yet trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    signed: Vec<u8>,
    signature: Vec<u8>,
    inner: CertificateList,
    next_update: UnixTime,
}

impl RevocationList {
    /// Reads a list, DER or PEM.
    ///
    /// # Errors
    /// When it is none, is signed in another way than AMD's, or does not mean what it lists.
    pub fn parse(bytes: &[u8]) -> Result<Self, RevocationError> {
        if bytes.len() > MAX_LEN {
            return Err(RevocationError::TooLong { len: bytes.len() });
        }
        let der = der_of(bytes, "X509 CRL").map_err(RevocationError::Malformed)?;
        let (signed, signature) = split(&der).map_err(RevocationError::Malformed)?;
        let inner = CertificateList::from_der(&der).map_err(RevocationError::Malformed)?;
        let list = &inner.tbs_cert_list;
        if inner.signature_algorithm != list.signature
            || !is_pss_with_sha384(&inner.signature_algorithm)
        {
            return Err(RevocationError::SignatureAlgorithm);
        }
        let of_list = list.crl_extensions.iter().flatten();
        let entries = list.revoked_certificates.iter().flatten();
        let of_entries = entries.flat_map(|entry| entry.crl_entry_extensions.iter().flatten());
        let mut extensions = of_list.chain(of_entries);
        if let Some(Extension { extn_id, .. }) = extensions.find(|extension| extension.critical) {
            return Err(RevocationError::Extension { oid: extn_id.to_string() });
        }
        let next_update = list.next_update.as_ref().ok_or(RevocationError::Endless)?;
        let next_update = unix_time(next_update);
        Ok(Self { signed, signature, inner, next_update })
    }

    /// Until when it speaks.
    #[must_use]
    pub const fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// Whether it says that `root` has issued it.
    pub(crate) fn is_issued_by(&self, root: &Certificate) -> bool {
        self.inner.tbs_cert_list.issuer == *root.subject()
    }

    /// Holds the certificates of `terms` to it, at the time `at`; until when it speaks.
    pub(crate) fn check(
        &self,
        root: &Certificate,
        terms: &[Term],
        at: UnixTime,
    ) -> Result<UnixTime, RevocationError> {
        let name = || root.common_name();
        if !root.may(KeyUsage::crl_sign).map_err(RevocationError::Root)? {
            return Err(RevocationError::NotAuthority { root: name() });
        }
        if !root.has_signed(&self.signed, &self.signature).map_err(RevocationError::Root)? {
            return Err(RevocationError::Signature { root: name() });
        }
        let list = &self.inner.tbs_cert_list;
        let (from, to) = (unix_time(&list.this_update), self.next_update);
        if !(from..=to).contains(&at) {
            return Err(RevocationError::NotCurrent { at, from, to });
        }
        for entry in list.revoked_certificates.iter().flatten() {
            let named = |term: &&Term| {
                // The root issues no keys of chips or providers, so a number of theirs would be
                // out of place here; if it stands here all the same, it is meant. Zero is every
                // chip's and means none.
                let issued = matches!(term.role, Role::Ark | Role::Ask);
                let numbered = term.serial.as_bytes().iter().any(|byte| *byte != 0);
                term.serial == entry.serial_number && (issued || numbered)
            };
            if let Some(term) = terms.iter().find(named) {
                let (role, serial) = (term.role, term.serial.to_string());
                let since = unix_time(&entry.revocation_date);
                return Err(RevocationError::Revoked { role, serial, since });
            }
        }
        Ok(to)
    }
}

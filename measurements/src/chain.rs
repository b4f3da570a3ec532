//! Is a report genuine: signed by a key that AMD endorses for the very chip and firmware that
//! the report names?
//!
//! The root is one of [`Roots`], never one that came with the evidence. Signatures are checked
//! over the bytes as received. AMD document 57230, *Versioned Chip Endorsement Key (VCEK)
//! Certificate and KDS Interface Specification*, revision 1.00, gives the extensions.

use std::fmt;
use std::sync::Arc;

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use x509_cert::der;

use crate::certificate::{Certificate, Endorsement, Term};
use crate::certificates::CertificateTable;
use crate::platform::Platform;
use crate::report::{Report, SigningKey};
use crate::revocation::{RevocationError, RevocationList};
use crate::roots::{Root, Roots, SIMULATED_MARK};
use crate::tcb::{Product, Tcb};

/// Seconds since 1970-01-01 00:00:00 UTC: the verifier's clock, never the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match der::DateTime::from_unix_duration(std::time::Duration::from_secs(self.0)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "{} s", self.0),
        }
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The root.
    Ark,
    /// The intermediate.
    Ask,
    /// The key of a chip.
    Vcek,
    /// The key of a provider.
    Vlek,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ark => "ARK",
            Self::Ask => "ASK",
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        })
    }
}

/// Why a report is not genuine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A certificate is missing.
    #[error("the evidence has no {role} certificate")]
    Missing {
        /// Which.
        role: Role,
    },
    /// A certificate is too long.
    #[error("{role} certificate has {len} bytes, expected at most 16384")]
    TooLong {
        /// Which.
        role: Role,
        /// Its length.
        len: usize,
    },
    /// A certificate is no X.509 certificate.
    #[error("{role} certificate is malformed")]
    Malformed {
        /// Which.
        role: Role,
        /// Where.
        source: der::Error,
    },
    /// A certificate is signed in another way.
    #[error(
        "{role} certificate is not signed with RSASSA-PSS, SHA-384 and a salt of 48 bytes, \
         as AMD's are"
    )]
    SignatureAlgorithm {
        /// Which.
        role: Role,
    },
    /// An extension is missing, malformed, there twice, or critical and unknown.
    #[error("{role} certificate: extension {oid} is missing, malformed, twice there or unknown")]
    Extension {
        /// Which certificate.
        role: Role,
        /// Which extension.
        oid: String,
    },
    /// A certificate's key is of another kind.
    #[error("{role} certificate has another key, expected {expected}")]
    Key {
        /// Which.
        role: Role,
        /// The kind expected.
        expected: &'static str,
    },
    /// A certificate may not sign others.
    #[error("{role} certificate is no authority: expected CA and keyCertSign")]
    NotAuthority {
        /// Which.
        role: Role,
    },
    /// A certificate names another issuer.
    #[error("{role} certificate names the issuer {found:?}, expected {expected:?}")]
    Issuer {
        /// Which.
        role: Role,
        /// The name found.
        found: String,
        /// The subject of the certificate above it.
        expected: String,
    },
    /// A certificate's signature is wrong.
    #[error("{role} certificate is not signed by the {by}")]
    CertificateSignature {
        /// Which.
        role: Role,
        /// By whom it should be.
        by: Role,
    },
    /// A certificate is not valid now.
    #[error("{role} certificate is valid from {from} to {to}, not at {at}")]
    Validity {
        /// Which.
        role: Role,
        /// The verifier's time.
        at: UnixTime,
        /// From when.
        from: UnixTime,
        /// To when.
        to: UnixTime,
    },
    /// The chain ends elsewhere.
    #[error("the chain ends in {found:?}, which is no root that this verifier trusts")]
    UntrustedRoot {
        /// Common name or issuer found.
        found: String,
    },
    /// The evidence is simulated and no simulated root was given.
    #[error(
        "the evidence is SIMULATED and this verifier was given no simulated root: it proves nothing"
    )]
    Simulated,
    /// A certificate of the simulated platform does not say so.
    #[error("the certificate {found:?} is used as a simulated one, expected SIMULATED in its name")]
    NotMarked {
        /// Common name found.
        found: String,
    },
    /// A certificate is for a product that this code does not know.
    #[error("{role} certificate is for the product {found:?}, expected Milan, Genoa or Turin")]
    ProductName {
        /// Which.
        role: Role,
        /// The name found.
        found: String,
    },
    /// Root, certificate and report are of different products.
    #[error("{what} is for {found}, expected {expected}")]
    Product {
        /// Which of them.
        what: &'static str,
        /// Its product.
        found: Product,
        /// The certificate's product.
        expected: Product,
    },
    /// The reported TCB has bytes that its product reserves.
    #[error("the report's TCB {found:02x?} is none of {product}: reserved bytes must be zero")]
    TcbLayout {
        /// The bytes.
        found: [u8; 8],
        /// The product.
        product: Product,
    },
    /// The key is endorsed for another TCB.
    #[error("the report's TCB is {found}, but its key is endorsed for {expected}")]
    Tcb {
        /// The report's.
        found: Tcb,
        /// The certificate's.
        expected: Tcb,
    },
    /// The key is endorsed for another chip.
    #[error("the report's chip is {found}, but its key is endorsed for {expected}")]
    Chip {
        /// The report's.
        found: String,
        /// The certificate's.
        expected: String,
    },
    /// The report's signature is wrong.
    #[error("the report is not signed by the key of its {role} certificate")]
    ReportSignature {
        /// Which.
        role: Role,
    },
}

/// A key that a trusted root endorses, for one TCB and, unless it is a provider's, one chip.
///
/// It may be kept and judge many reports: it knows what it is endorsed for and refuses others.
#[derive(Debug, Clone)]
pub struct EndorsedKey {
    role: Role,
    key: VerifyingKey,
    endorsement: Endorsement,
    root: Arc<Certificate>,
    /// Of root, intermediate and key.
    terms: [Term; 3],
}

/// A report whose signature was verified with an endorsed key. There is no other way to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReport(Report);

impl VerifiedReport {
    /// The report.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.0
    }
}

impl EndorsedKey {
    /// Verifies the chain from the key that `report` claims to be signed with up to a root that
    /// is trusted for `platform`, at the time `at`. Revocation is not checked: see
    /// [`Self::check_revocation`].
    ///
    /// # Errors
    /// When a certificate is missing, malformed, not valid at `at`, not signed by the one above
    /// it, or when the chain ends elsewhere.
    pub fn verify(
        table: &CertificateTable,
        report: &Report,
        platform: Platform,
        roots: &Roots,
        at: UnixTime,
    ) -> Result<Self, ChainError> {
        let trusted = roots.for_platform(platform);
        if platform == Platform::Simulated && trusted.is_empty() {
            return Err(ChainError::Simulated);
        }
        let (role, bytes) = match report.signing_key() {
            SigningKey::Vcek => (Role::Vcek, &table.vcek),
            SigningKey::Vlek => (Role::Vlek, &table.vlek),
        };
        let parse = |role, bytes: &Option<Vec<u8>>| {
            let bytes = bytes.as_deref().ok_or(ChainError::Missing { role })?;
            Certificate::parse(bytes, role)
        };
        let (leaf, ask) = (parse(role, bytes)?, parse(Role::Ask, &table.ask)?);
        let ark = table.ark.as_deref().map(|ark| Certificate::parse(ark, Role::Ark)).transpose()?;
        let root = find_root(trusted, &ask, ark.as_ref())?;
        check_marked(platform, [&ask, &leaf])?;
        ask.check_issued_by(&root.certificate)?;
        leaf.check_issued_by(&ask)?;
        let endorsement = leaf.endorsement()?;
        let expected = endorsement.product;
        if let Some(found) = root.product.filter(|product| *product != expected) {
            return Err(ChainError::Product { what: "the root", found, expected });
        }
        let terms = [root.certificate.term(), ask.term(), leaf.term()];
        let (key, root) = (leaf.p384_key()?, Arc::clone(&root.certificate));
        let key = Self { role, key, endorsement, root, terms };
        key.check_current(report, at)?;
        Ok(key)
    }

    /// What of a chain depends on the time and the report.
    pub(crate) fn check_current(&self, report: &Report, at: UnixTime) -> Result<(), ChainError> {
        self.terms.iter().try_for_each(|term| term.check(at))?;
        let expected = self.product();
        match report.product().filter(|product| *product != expected) {
            Some(found) => Err(ChainError::Product { what: "the report", found, expected }),
            None => Ok(()),
        }
    }

    /// Whether its root is one that is trusted for `platform`.
    pub(crate) fn is_under(&self, roots: &Roots, platform: Platform) -> bool {
        roots.for_platform(platform).iter().any(|root| root.certificate.der() == self.root.der())
    }

    /// Holds the chain to the lists among `lists` that its root issued, at the time `at`. `None`:
    /// there is none, so nothing was judged; else until when the lists speak.
    ///
    /// # Errors
    /// When a list of the root is not signed by it, is not current, or names a certificate of the
    /// chain.
    pub fn check_revocation(
        &self,
        lists: &[RevocationList],
        at: UnixTime,
    ) -> Result<Option<UnixTime>, RevocationError> {
        let mut until = None;
        for list in lists.iter().filter(|list| list.is_issued_by(&self.root)) {
            let next = list.check(&self.root, &self.terms, at)?;
            until = Some(until.map_or(next, |until: UnixTime| until.min(next)));
        }
        Ok(until)
    }

    /// The product that the key is endorsed for.
    #[must_use]
    pub const fn product(&self) -> Product {
        self.endorsement.product
    }

    /// Common name of the root that the chain ends in.
    #[must_use]
    pub fn root(&self) -> String {
        self.root.common_name()
    }

    /// The kind of key.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The TCB that the key is endorsed for.
    ///
    /// # Errors
    /// When the certificate lacks a part or names one that its product does not have.
    pub fn endorsed_tcb(&self) -> Result<Tcb, ChainError> {
        let refuse = |n: usize| ChainError::Extension {
            role: self.role,
            oid: format!("1.3.6.1.4.1.3704.1.3.{n}"),
        };
        let spl = &self.endorsement.spl;
        let part = |n: usize| spl[n - 1].ok_or_else(|| refuse(n));
        if let Some(n) = (4..=7).find(|n| spl[n - 1].unwrap_or(0) != 0) {
            return Err(refuse(n));
        }
        let fmc = match self.product() {
            Product::Turin => part(9)?,
            Product::Milan | Product::Genoa if spl[8].is_some() => return Err(refuse(9)),
            Product::Milan | Product::Genoa => 0,
        };
        Ok(Tcb { fmc, bootloader: part(1)?, tee: part(2)?, snp: part(3)?, microcode: part(8)? })
    }

    /// Holds the report's TCB to the one that the key is endorsed for, and returns it.
    ///
    /// # Errors
    /// When they differ.
    pub fn check_tcb(&self, report: &Report) -> Result<Tcb, ChainError> {
        let (raw, product) = (report.reported_tcb(), self.product());
        let found =
            Tcb::from_raw(raw, product).ok_or(ChainError::TcbLayout { found: raw, product })?;
        let expected = self.endorsed_tcb()?;
        if found == expected { Ok(found) } else { Err(ChainError::Tcb { found, expected }) }
    }

    /// Holds the report's chip to the one that the key is endorsed for. `false`: the key is a
    /// provider's and endorsed for no chip, so there is nothing to compare.
    ///
    /// # Errors
    /// When they differ, or the report hides its chip.
    pub fn check_chip(&self, report: &Report) -> Result<bool, ChainError> {
        if self.role == Role::Vlek {
            return Ok(false);
        }
        let oid = || "1.3.6.1.4.1.3704.1.4".to_owned();
        let refuse = || ChainError::Extension { role: self.role, oid: oid() };
        let id = self.endorsement.hardware_id.as_deref().ok_or_else(refuse)?;
        let len = if self.product() == Product::Turin { 8 } else { 64 };
        if id.len() != len || id.iter().all(|byte| *byte == 0) {
            return Err(refuse());
        }
        let chip = report.chip_id();
        let (found, rest) = chip.as_bytes().split_at(len);
        if found == id && rest.iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
        Err(ChainError::Chip { found: chip.to_string(), expected: hex::encode(id) })
    }

    /// Verifies a report that this key is endorsed for: its TCB, its chip, and the signature over
    /// its bytes as received.
    ///
    /// # Errors
    /// When the key is endorsed for another TCB or chip, or the signature is not of this key.
    pub fn verify_report(&self, report: Report) -> Result<VerifiedReport, ChainError> {
        self.check_tcb(&report)?;
        self.check_chip(&report)?;
        self.verify_signature(report)
    }

    /// Verifies the signature alone, for whoever lists each check by itself.
    pub(crate) fn verify_signature(&self, report: Report) -> Result<VerifiedReport, ChainError> {
        let refused = |_| ChainError::ReportSignature { role: self.role };
        let (r, s) = report.signature();
        let signature = Signature::from_scalars(r, s).map_err(refused)?;
        self.key.verify(report.signed_bytes(), &signature).map_err(refused)?;
        Ok(VerifiedReport(report))
    }
}

/// The product that a key's certificate says it is for, to know whom to ask for its intermediate.
/// Nothing is verified.
///
/// # Errors
/// When it is malformed.
pub fn named_product(certificate: &[u8], role: Role) -> Result<Product, ChainError> {
    Ok(Certificate::parse(certificate, role)?.endorsement()?.product)
}

/// Verifies that `ask` is an intermediate of the root for `product` that is trusted for
/// `platform`, at the time `at`. A root that came with it must be the trusted one.
///
/// # Errors
/// When it is malformed, not valid at `at`, or not signed by that root.
pub fn check_intermediate(
    ask: &[u8],
    ark: Option<&[u8]>,
    product: Product,
    platform: Platform,
    roots: &Roots,
    at: UnixTime,
) -> Result<(), ChainError> {
    let ask = Certificate::parse(ask, Role::Ask)?;
    let ark = ark.map(|ark| Certificate::parse(ark, Role::Ark)).transpose()?;
    let root = find_root(roots.for_platform(platform), &ask, ark.as_ref())?;
    ask.check_issued_by(&root.certificate)?;
    root.certificate.term().check(at)?;
    ask.term().check(at)?;
    match root.product {
        Some(found) if found != product => {
            Err(ChainError::Product { what: "the root", found, expected: product })
        }
        _ => Ok(()),
    }
}

/// The trusted root that the intermediate names. A root that came with the evidence must be it,
/// byte for byte.
fn find_root<'a>(
    trusted: &'a [Root],
    ask: &Certificate,
    ark: Option<&Certificate>,
) -> Result<&'a Root, ChainError> {
    if let Some(ark) = ark {
        let same = |root: &&Root| root.certificate.der() == ark.der();
        let found = ark.common_name();
        return trusted.iter().find(same).ok_or(ChainError::UntrustedRoot { found });
    }
    let found = || format!("the issuer of {}", ask.common_name());
    let named = |root: &&Root| ask.names_as_issuer(&root.certificate);
    trusted.iter().find(named).ok_or_else(|| ChainError::UntrustedRoot { found: found() })
}

/// Every simulated certificate says so.
fn check_marked(platform: Platform, certificates: [&Certificate; 2]) -> Result<(), ChainError> {
    let unmarked = certificates.into_iter().find(|one| !one.common_name().contains(SIMULATED_MARK));
    match (platform, unmarked) {
        (Platform::Simulated, Some(one)) => Err(ChainError::NotMarked { found: one.common_name() }),
        _ => Ok(()),
    }
}

//! SIMULATED. Who signs on the simulated platform: a root, an intermediate and a chip of one
//! user, in the format of AMD's and worth nothing.
//!
//! Made once per user. The root's private key is forgotten as soon as it has signed the
//! intermediate. As in real chips, the key that signs reports follows from the chip's secret and
//! the TCB. A verifier must be given `ark.pem` by hand; nobody trusts it by default.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::thread;
use std::time::{Duration, SystemTime};

use casemate_measurements::certificates::{CertificateTable, TableError};
use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::{self, Unsigned};
use casemate_measurements::tcb::{Product, Tcb};
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};
use rsa::rand_core::{OsRng, RngCore as _};
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use rsa::{RsaPrivateKey, pss};
use sha2::{Digest as _, Sha384, Sha512};
use x509_cert::der::asn1::{BitString, Ia5String, OctetString};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, DecodePem as _, Encode as _, EncodePem as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{DynSignatureAlgorithmIdentifier as _, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

use crate::state::{self, StateError};

/// The product that is simulated.
pub const PRODUCT: Product = Product::Genoa;
/// File name of the root's certificate.
pub const ROOT_FILE: &str = "ark.pem";

const ASK_FILE: &str = "ask.pem";
const ASK_KEY_FILE: &str = "ask.key";
const SECRET_FILE: &str = "chip.secret";
const RSA_BITS: usize = 4096;
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Why the simulated authority cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// No directory to keep it in.
    #[error("cannot tell where to keep the simulated root: set XDG_STATE_HOME or HOME")]
    NoHome,
    /// A directory cannot be used.
    #[error("cannot keep the simulated root")]
    State(#[from] StateError),
    /// A file cannot be read or moved.
    #[error("cannot read or move {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is damaged.
    #[error(
        "{} is damaged ({problem}): remove {} and every verifier's copy of the old root",
        path.display(),
        path.parent().unwrap_or(Path::new("")).display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How.
        problem: String,
    },
    /// A key cannot be made.
    #[error("cannot make the {what} of the simulated root: {problem}")]
    Key {
        /// Whose key.
        what: &'static str,
        /// Why.
        problem: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of the simulated {what}")]
    Certificate {
        /// Whose.
        what: &'static str,
        /// Why.
        source: x509_cert::der::Error,
    },
    /// The certificate table cannot be made.
    #[error("cannot make the certificate table of the simulated chip")]
    Table(#[from] TableError),
}

/// SIMULATED: a root, its intermediate and one chip.
pub struct Authority {
    ark: Certificate,
    ask: Certificate,
    intermediate_key: RsaPrivateKey,
    secret: [u8; 32],
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("root", &self.ark.tbs_certificate.subject.to_string())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Where this user's is kept: `$XDG_STATE_HOME/casemate/simulated`, else
    /// `$HOME/.local/state/casemate/simulated`.
    ///
    /// # Errors
    /// When neither variable is an absolute path.
    pub fn default_dir() -> Result<PathBuf, AuthorityError> {
        let absolute = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        Ok(state.ok_or(AuthorityError::NoHome)?.join("casemate/simulated"))
    }

    /// Reads the one in `dir`, or makes it there: both at once is safe, one wins.
    ///
    /// # Errors
    /// When `dir` cannot be made or read, or what is in it is damaged.
    pub fn open_or_make(dir: &Path) -> Result<Self, AuthorityError> {
        if !dir.join(ROOT_FILE).exists() {
            Self::generate()?.save(dir)?;
        }
        Self::load(dir)
    }

    /// Makes a new one, in memory. Takes seconds: two RSA keys of 4096 bits.
    ///
    /// # Errors
    /// When a key or certificate cannot be made.
    pub fn generate() -> Result<Self, AuthorityError> {
        let intermediate_key = thread::spawn(rsa_key);
        let root_key = rsa_key()?;
        let lost = |_| AuthorityError::Key { what: "ASK", problem: "thread panicked".to_owned() };
        let intermediate_key = intermediate_key.join().map_err(lost)??;
        let validity = validity(25 * YEAR)
            .map_err(|source| AuthorityError::Certificate { what: "root", source })?;
        let ark = authority_certificate("ARK", &root_key, "ARK", &root_key, &validity)?;
        let ask = authority_certificate("SEV", &intermediate_key, "ARK", &root_key, &validity)?;
        let mut secret = [0; 32];
        OsRng.fill_bytes(&mut secret);
        Ok(Self { ark, ask, intermediate_key, secret })
    }

    fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(|source| AuthorityError::Io { path, source })
        };
        let damaged = |name: &str, problem: String| {
            let path = dir.join(name);
            AuthorityError::Damaged { path, problem }
        };
        let certificate = |name: &str| {
            Certificate::from_pem(read(name)?).map_err(|error| damaged(name, error.to_string()))
        };
        let intermediate_key = RsaPrivateKey::from_pkcs8_pem(&read(ASK_KEY_FILE)?)
            .map_err(|error| damaged(ASK_KEY_FILE, error.to_string()))?;
        let secret = read(SECRET_FILE)?
            .trim()
            .parse::<casemate_measurements::hash::Sha256Hash>()
            .map_err(|_| damaged(SECRET_FILE, "expected 64 hex digits".to_owned()))?;
        let (ark, ask) = (certificate(ROOT_FILE)?, certificate(ASK_FILE)?);
        Ok(Self { ark, ask, intermediate_key, secret: *secret.as_bytes() })
    }

    /// Writes everything into a new directory beside `dir` and renames it there.
    fn save(&self, dir: &Path) -> Result<(), AuthorityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::Io { path, source }
        };
        let parent = dir.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(io(parent))?;
        let new = tempfile::TempDir::with_prefix_in(".simulated.", parent).map_err(io(parent))?;
        let pem = |certificate: &Certificate| {
            certificate
                .to_pem(LineEnding::LF)
                .map_err(|source| AuthorityError::Certificate { what: "root", source })
        };
        let key = self
            .intermediate_key
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| AuthorityError::Key { what: "ASK", problem: error.to_string() })?;
        let secret = casemate_measurements::hash::Sha256Hash::from_bytes(self.secret);
        state::write_file(&new.path().join(ASK_KEY_FILE), key.as_bytes())?;
        state::write_file(&new.path().join(SECRET_FILE), format!("{secret}\n").as_bytes())?;
        state::write_file(&new.path().join(ASK_FILE), pem(&self.ask)?.as_bytes())?;
        state::write_file(&new.path().join(ROOT_FILE), pem(&self.ark)?.as_bytes())?;
        match fs::rename(new.path(), dir) {
            Ok(()) => {
                let _ = new.keep();
                Ok(())
            }
            // Another process was faster: its root is the one.
            Err(_) if dir.join(ROOT_FILE).exists() => Ok(()),
            Err(source) => Err(AuthorityError::Io { path: dir.to_owned(), source }),
        }
    }

    /// The root's certificate, PEM: what a verifier must be given by hand.
    ///
    /// # Errors
    /// Never for a certificate that was made or read here.
    pub fn root_pem(&self) -> Result<String, AuthorityError> {
        self.ark
            .to_pem(LineEnding::LF)
            .map_err(|source| AuthorityError::Certificate { what: "root", source })
    }

    /// The chip with a given TCB.
    ///
    /// # Errors
    /// When its key or certificate cannot be made.
    pub fn chip(&self, tcb: Tcb) -> Result<Chip, AuthorityError> {
        let chip_id = ChipId::from_bytes(
            Sha512::new()
                .chain_update(b"casemate-simulated-chip-v1\0")
                .chain_update(self.secret)
                .finalize()
                .into(),
        );
        let raw = tcb.to_raw(PRODUCT);
        let scalar = Sha384::new()
            .chain_update(b"casemate-simulated-vcek-v1\0")
            .chain_update(self.secret)
            .chain_update(raw)
            .finalize();
        let key = SigningKey::from_bytes(&scalar)
            .map_err(|error| AuthorityError::Key { what: "VCEK", problem: error.to_string() })?;
        let fail = |source| AuthorityError::Certificate { what: "chip", source };
        let vcek = self.chip_certificate(&key, &chip_id, tcb).map_err(fail)?;
        let table = CertificateTable {
            vcek: Some(vcek.to_der().map_err(fail)?),
            vlek: None,
            ask: Some(self.ask.to_der().map_err(fail)?),
            ark: Some(self.ark.to_der().map_err(fail)?),
        };
        Ok(Chip { key, id: chip_id, tcb: raw, certificates: table.encode()? })
    }

    fn chip_certificate(
        &self,
        key: &SigningKey,
        chip_id: &ChipId,
        tcb: Tcb,
    ) -> x509_cert::der::Result<Certificate> {
        let public = p384::PublicKey::from(key.verifying_key());
        let public = public.to_public_key_der().map_err(|_| public_key_failed())?;
        let name = format!("{PRODUCT}-B1");
        let mut extensions = vec![
            extension("1.3.6.1.4.1.3704.1.1", 0_u8.to_der()?)?,
            extension("1.3.6.1.4.1.3704.1.2", Ia5String::new(&name)?.to_der()?)?,
        ];
        let parts = [
            ("1.3.6.1.4.1.3704.1.3.1", tcb.bootloader),
            ("1.3.6.1.4.1.3704.1.3.2", tcb.tee),
            ("1.3.6.1.4.1.3704.1.3.4", 0),
            ("1.3.6.1.4.1.3704.1.3.5", 0),
            ("1.3.6.1.4.1.3704.1.3.6", 0),
            ("1.3.6.1.4.1.3704.1.3.7", 0),
            ("1.3.6.1.4.1.3704.1.3.3", tcb.snp),
            ("1.3.6.1.4.1.3704.1.3.8", tcb.microcode),
        ];
        for (oid, version) in parts {
            extensions.push(extension(oid, version.to_der()?)?);
        }
        // The hardware id is not DER but the bare bytes, as AMD's is.
        extensions.push(extension("1.3.6.1.4.1.3704.1.4", chip_id.as_bytes().to_vec())?);
        let issuer = self.ask.tbs_certificate.subject.clone();
        let validity = validity(7 * YEAR)?;
        sign(
            &self.intermediate_key,
            issuer,
            name_of("VCEK")?,
            public.as_bytes(),
            validity,
            extensions,
        )
    }
}

fn public_key_failed() -> x509_cert::der::Error {
    x509_cert::der::ErrorKind::Failed.into()
}

/// SIMULATED: a chip with one TCB, ready to sign.
pub struct Chip {
    key: SigningKey,
    id: ChipId,
    tcb: [u8; 8],
    certificates: Vec<u8>,
}

impl fmt::Debug for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chip").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Chip {
    /// The bytes of the certificate table that the host hands out: VCEK, ASK and ARK.
    #[must_use]
    pub fn certificates(&self) -> &[u8] {
        &self.certificates
    }

    /// Signs a report of this chip; chip id and TCB of `fields` are replaced by its own.
    #[must_use]
    pub fn sign(&self, fields: &Unsigned) -> [u8; REPORT_LEN] {
        let fields = Unsigned { chip_id: self.id, tcb: self.tcb, ..fields.clone() };
        let signed = fields.signed_bytes();
        let signature: Signature = self.key.sign(&signed);
        let (r, s) = signature.split_bytes();
        report::with_signature(&signed, &r.into(), &s.into())
    }
}

fn rsa_key() -> Result<RsaPrivateKey, AuthorityError> {
    RsaPrivateKey::new(&mut OsRng, RSA_BITS)
        .map_err(|error| AuthorityError::Key { what: "RSA keys", problem: error.to_string() })
}

/// Every name says what it is.
fn name_of(role: &str) -> x509_cert::der::Result<Name> {
    let product = match role {
        "VCEK" => "SEV-VCEK".to_owned(),
        role => format!("{role}-{PRODUCT}"),
    };
    Name::from_str(&format!("CN={product} SIMULATED,O=casemate,OU=SIMULATED proves nothing"))
}

fn validity(length: Duration) -> x509_cert::der::Result<Validity> {
    // A day back, for a verifier whose clock is late.
    let from = SystemTime::now() - DAY;
    Ok(Validity { not_before: Time::try_from(from)?, not_after: Time::try_from(from + length)? })
}

fn extension(oid: &str, value: Vec<u8>) -> x509_cert::der::Result<Extension> {
    let extn_id = ObjectIdentifier::new(oid)?;
    Ok(Extension { extn_id, critical: false, extn_value: OctetString::new(value)? })
}

fn authority_certificate(
    role: &'static str,
    key: &RsaPrivateKey,
    issuer: &'static str,
    issuer_key: &RsaPrivateKey,
    validity: &Validity,
) -> Result<Certificate, AuthorityError> {
    let make = || {
        let path_len_constraint = (role != issuer).then_some(0);
        let constraints = BasicConstraints { ca: true, path_len_constraint };
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let critical = |oid, value| -> x509_cert::der::Result<Extension> {
            Ok(Extension { critical: true, ..extension(oid, value)? })
        };
        let extensions = vec![
            critical("2.5.29.15", usage.to_der()?)?,
            critical("2.5.29.19", constraints.to_der()?)?,
        ];
        let public = key.to_public_key().to_public_key_der().map_err(|_| public_key_failed())?;
        let public = public.as_bytes();
        sign(issuer_key, name_of(issuer)?, name_of(role)?, public, *validity, extensions)
    };
    make().map_err(|source| AuthorityError::Certificate { what: role, source })
}

/// A certificate, signed as AMD signs: RSASSA-PSS with SHA-384 and a salt of its length.
fn sign(
    issuer_key: &RsaPrivateKey,
    issuer: Name,
    subject: Name,
    public: &[u8],
    validity: Validity,
    extensions: Vec<Extension>,
) -> x509_cert::der::Result<Certificate> {
    let signer = pss::SigningKey::<Sha384>::new(issuer_key.clone());
    let algorithm = signer.signature_algorithm_identifier().map_err(|_| public_key_failed())?;
    let mut serial = [0; 8];
    OsRng.fill_bytes(&mut serial);
    serial[0] = serial[0] & 0x7f | 1;
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm.clone(),
        issuer,
        validity,
        subject,
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(public)?,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = signer
        .try_sign_with_rng(&mut OsRng, &tbs_certificate.to_der()?)
        .map_err(|_| public_key_failed())?;
    Ok(Certificate {
        tbs_certificate,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature.to_vec())?,
    })
}

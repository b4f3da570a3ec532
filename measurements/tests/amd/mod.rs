//! A maker of processors that really signs, for one run of the tests.

use std::str::FromStr as _;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::{self, Unsigned};
use casemate_measurements::silicon::Line;
use casemate_measurements::tcb::Tcb;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use rsa::pss;
use rsa::rand_core::OsRng;
use rsa::signature::{Keypair as _, RandomizedSigner as _, SignatureEncoding as _};
use rsa::{RsaPrivateKey, pkcs1v15, pkcs8::EncodePublicKey as _};
use sha2::{Sha256, Sha384};
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::der::asn1::{BitString, Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::{DateTime, Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{
    AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier as _, SubjectPublicKeyInfoOwned,
};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

/// 2026-06-01.
pub(crate) const NOW: u64 = 1_780_272_000;
const YEAR: u64 = 365 * 24 * 60 * 60;

/// What is asked of a key's certificate; [`Endorsed::genoa`] is a good one.
#[derive(Clone)]
pub(crate) struct Endorsed {
    pub(crate) name: &'static str,
    pub(crate) product: &'static str,
    pub(crate) tcb: Tcb,
    pub(crate) hardware_id: Vec<u8>,
    pub(crate) from: u64,
    pub(crate) extra: Option<&'static str>,
}

impl Endorsed {
    pub(crate) fn genoa() -> Self {
        Self {
            name: "SEV-VCEK SIMULATED",
            product: "Genoa",
            tcb: Line::Genoa.row().floor(),
            hardware_id: vec![0xc1; 64],
            from: NOW - 1000,
            extra: None,
        }
    }
}

/// A root and an intermediate.
pub(crate) struct Maker {
    root_key: pss::SigningKey<Sha384>,
    middle_key: pss::SigningKey<Sha384>,
    pub(crate) ark: Vec<u8>,
    pub(crate) ask: Vec<u8>,
}

/// The key of every chip: fixed, so that only certificates differ.
fn chip_key() -> SigningKey {
    SigningKey::from_slice(&[7; 48]).unwrap()
}

pub(crate) fn name(common: &str) -> Name {
    Name::from_str(&format!("CN={common},O=casemate tests")).unwrap()
}

pub(crate) fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    let extn_id = ObjectIdentifier::new(oid).unwrap();
    Extension { extn_id, critical, extn_value: OctetString::new(value).unwrap() }
}

fn time(seconds: u64) -> Time {
    let date = DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap();
    Time::GeneralTime(date.into())
}

/// How something is signed.
#[derive(Clone, Copy)]
pub(crate) enum Scheme {
    /// As AMD does.
    Pss,
    /// With a salt of another length.
    PssWithSalt(usize),
    /// With SHA-256.
    PssWithSha256,
    /// With the older padding.
    Pkcs1,
    /// With the older padding, and it says otherwise.
    Pkcs1ThatSaysPss,
}

/// A certificate before it is signed: a test changes one thing of it.
pub(crate) struct Draft {
    pub(crate) subject: Name,
    pub(crate) issuer: Name,
    pub(crate) serial: Vec<u8>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// DER of its public key.
    pub(crate) public: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) scheme: Scheme,
}

impl Draft {
    fn new(subject: &str, issuer: &str, public: Vec<u8>, from: u64) -> Self {
        Self {
            subject: name(subject),
            issuer: name(issuer),
            serial: vec![1],
            from,
            to: from + YEAR,
            public,
            extensions: vec![],
            scheme: Scheme::Pss,
        }
    }

    fn sign(self, key: &pss::SigningKey<Sha384>) -> Vec<u8> {
        let signature_algorithm = self.scheme.identifier(key);
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&self.serial).unwrap(),
            signature: signature_algorithm.clone(),
            issuer: self.issuer,
            validity: Validity { not_before: time(self.from), not_after: time(self.to) },
            subject: self.subject,
            subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(&self.public).unwrap(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(self.extensions),
        };
        let signature = self.scheme.sign(key, &tbs_certificate.to_der().unwrap());
        Certificate { tbs_certificate, signature_algorithm, signature }.to_der().unwrap()
    }
}

impl Scheme {
    fn identifier(self, key: &pss::SigningKey<Sha384>) -> AlgorithmIdentifierOwned {
        let private: RsaPrivateKey = key.as_ref().clone();
        match self {
            Self::Pss | Self::Pkcs1ThatSaysPss => key.signature_algorithm_identifier(),
            Self::PssWithSalt(len) => pss::SigningKey::<Sha384>::new_with_salt_len(private, len)
                .signature_algorithm_identifier(),
            Self::PssWithSha256 => {
                pss::SigningKey::<Sha256>::new(private).signature_algorithm_identifier()
            }
            Self::Pkcs1 => {
                pkcs1v15::SigningKey::<Sha384>::new(private).signature_algorithm_identifier()
            }
        }
        .unwrap()
    }

    fn sign(self, key: &pss::SigningKey<Sha384>, bytes: &[u8]) -> BitString {
        let private: RsaPrivateKey = key.as_ref().clone();
        let signature = match self {
            Self::Pss => key.sign_with_rng(&mut OsRng, bytes).to_vec(),
            Self::PssWithSalt(len) => {
                let key = pss::SigningKey::<Sha384>::new_with_salt_len(private, len);
                key.sign_with_rng(&mut OsRng, bytes).to_vec()
            }
            Self::PssWithSha256 => {
                pss::SigningKey::<Sha256>::new(private).sign_with_rng(&mut OsRng, bytes).to_vec()
            }
            Self::Pkcs1 | Self::Pkcs1ThatSaysPss => {
                pkcs1v15::SigningKey::<Sha384>::new(private).sign(bytes).to_vec()
            }
        };
        BitString::from_bytes(&signature).unwrap()
    }
}

/// A revocation list before it is signed; [`List::current`] is a good one.
pub(crate) struct List {
    pub(crate) issuer: &'static str,
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
    /// Serial numbers.
    pub(crate) revoked: Vec<u8>,
    pub(crate) critical: Option<&'static str>,
    pub(crate) scheme: Scheme,
}

impl List {
    pub(crate) fn current() -> Self {
        Self {
            issuer: "ARK SIMULATED",
            from: NOW - 1000,
            to: Some(NOW + 1000),
            revoked: vec![],
            critical: None,
            scheme: Scheme::Pss,
        }
    }
}

fn authority() -> Vec<Extension> {
    let constraints = BasicConstraints { ca: true, path_len_constraint: None };
    let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
    vec![
        extension("2.5.29.19", true, constraints.to_der().unwrap()),
        extension("2.5.29.15", true, usage.to_der().unwrap()),
    ]
}

fn rsa_key() -> pss::SigningKey<Sha384> {
    pss::SigningKey::new(RsaPrivateKey::new(&mut OsRng, 4096).unwrap())
}

fn public(key: &pss::SigningKey<Sha384>) -> Vec<u8> {
    let key = key.verifying_key();
    rsa::RsaPublicKey::from(key).to_public_key_der().unwrap().into_vec()
}

fn root(key: &pss::SigningKey<Sha384>) -> Draft {
    let name = "ARK SIMULATED";
    let draft = Draft::new(name, name, public(key), NOW - YEAR / 2);
    Draft { extensions: authority(), ..draft }
}

fn middle(key: &pss::SigningKey<Sha384>) -> Draft {
    let draft = Draft::new("ASK SIMULATED", "ARK SIMULATED", public(key), NOW - YEAR / 2);
    Draft { extensions: authority(), serial: vec![2], ..draft }
}

impl Endorsed {
    fn draft(&self) -> Draft {
        let number = |arc: u8, value: u8| {
            let oid = format!("1.3.6.1.4.1.3704.1.3.{arc}");
            extension(&oid, false, value.to_der().unwrap())
        };
        let tcb = self.tcb;
        let product = Ia5String::new(self.product).unwrap().to_der().unwrap();
        let mut extensions = vec![
            extension("1.3.6.1.4.1.3704.1.1", false, 1_u8.to_der().unwrap()),
            extension("1.3.6.1.4.1.3704.1.2", false, product),
            number(1, tcb.bootloader),
            number(2, tcb.tee),
            number(3, tcb.snp),
            number(8, tcb.microcode),
        ];
        if self.product == "Turin" {
            extensions.push(number(9, tcb.fmc));
        }
        if !self.name.contains("VLEK") {
            extensions.push(extension("1.3.6.1.4.1.3704.1.4", false, self.hardware_id.clone()));
        }
        extensions.extend(self.extra.map(|oid| extension(oid, true, vec![5, 0])));
        let draft = Draft::new(self.name, "ASK SIMULATED", chip_public(), self.from);
        // As AMD's: every chip's certificate has the number zero.
        Draft { extensions, serial: vec![0], ..draft }
    }
}

impl List {
    fn sign(&self, key: &pss::SigningKey<Sha384>) -> Vec<u8> {
        let signature_algorithm = self.scheme.identifier(key);
        let revoked = |serial: &u8| RevokedCert {
            serial_number: SerialNumber::new(&[*serial]).unwrap(),
            revocation_date: time(self.from),
            crl_entry_extensions: None,
        };
        let tbs_cert_list = TbsCertList {
            version: Version::V2,
            signature: signature_algorithm.clone(),
            issuer: name(self.issuer),
            this_update: time(self.from),
            next_update: self.to.map(time),
            revoked_certificates: (!self.revoked.is_empty())
                .then(|| self.revoked.iter().map(revoked).collect()),
            crl_extensions: self.critical.map(|oid| vec![extension(oid, true, vec![5, 0])]),
        };
        let signature = self.scheme.sign(key, &tbs_cert_list.to_der().unwrap());
        CertificateList { tbs_cert_list, signature_algorithm, signature }.to_der().unwrap()
    }
}

impl Maker {
    /// The same for every test of a run: its keys take seconds to make.
    pub(crate) fn get() -> &'static Self {
        static MAKER: OnceLock<Maker> = OnceLock::new();
        MAKER.get_or_init(|| {
            let ark = thread::spawn(rsa_key);
            let (middle_key, root_key) = (rsa_key(), ark.join().unwrap());
            let ark = root(&root_key).sign(&root_key);
            let ask = middle(&middle_key).sign(&root_key);
            Self { root_key, middle_key, ark, ask }
        })
    }

    /// An intermediate of which something was changed.
    pub(crate) fn ask_but(&self, change: impl FnOnce(&mut Draft)) -> Vec<u8> {
        let mut draft = middle(&self.middle_key);
        change(&mut draft);
        draft.sign(&self.root_key)
    }

    /// An intermediate with another name, right to sign, or key.
    pub(crate) fn ask_named(&self, common: &str, authority_over_others: bool) -> Vec<u8> {
        self.ask_but(|draft| {
            draft.subject = name(common);
            if !authority_over_others {
                draft.extensions.clear();
            }
        })
    }

    /// A root of which something was changed.
    pub(crate) fn ark_but(&self, change: impl FnOnce(&mut Draft)) -> Vec<u8> {
        let mut draft = root(&self.root_key);
        change(&mut draft);
        draft.sign(&self.root_key)
    }

    /// A root that calls itself something else.
    pub(crate) fn root_named(&self, common: &str) -> Vec<u8> {
        self.ark_but(|draft| {
            (draft.subject, draft.issuer, draft.from) = (name(common), name(common), NOW);
        })
    }

    /// A root with every name and number of the real one, and another key: the intermediate's.
    pub(crate) fn look_alike(&self) -> Vec<u8> {
        root(&self.middle_key).sign(&self.middle_key)
    }

    /// A chip's certificate.
    pub(crate) fn vcek(&self, endorsed: &Endorsed) -> Vec<u8> {
        self.vcek_but(endorsed, |_| ())
    }

    /// A chip's certificate of which something was changed.
    pub(crate) fn vcek_but(&self, endorsed: &Endorsed, change: impl FnOnce(&mut Draft)) -> Vec<u8> {
        let mut draft = endorsed.draft();
        change(&mut draft);
        draft.sign(&self.middle_key)
    }

    /// A chip's certificate that the root has signed.
    pub(crate) fn vcek_of_root(&self, endorsed: &Endorsed) -> Vec<u8> {
        endorsed.draft().sign(&self.root_key)
    }

    /// The intermediate's public key, DER.
    pub(crate) fn public_of_ask(&self) -> Vec<u8> {
        public(&self.middle_key)
    }

    /// A revocation list that the root has signed.
    pub(crate) fn list(&self, list: &List) -> Vec<u8> {
        list.sign(&self.root_key)
    }

    /// A revocation list of the root's name that the intermediate has signed.
    pub(crate) fn forged_list(&self, list: &List) -> Vec<u8> {
        list.sign(&self.middle_key)
    }

    /// The table that a host hands out.
    pub(crate) fn table(&self, endorsed: &Endorsed) -> CertificateTable {
        CertificateTable {
            vcek: Some(self.vcek(endorsed)),
            vlek: None,
            ask: Some(self.ask.clone()),
            ark: Some(self.ark.clone()),
        }
    }
}

/// The chip's public key, DER.
pub(crate) fn chip_public() -> Vec<u8> {
    let public = p384::PublicKey::from(chip_key().verifying_key());
    SubjectPublicKeyInfoOwned::from_key(public).unwrap().to_der().unwrap()
}

/// An RSA key that is shorter than AMD's, DER.
pub(crate) fn small_rsa_public() -> Vec<u8> {
    public(&pss::SigningKey::new(RsaPrivateKey::new(&mut OsRng, 2048).unwrap()))
}

/// Signs whatever bytes a report's would be.
pub(crate) fn sign_bytes(signed: &[u8; report::SIGNED_LEN]) -> Vec<u8> {
    let signature: Signature = chip_key().sign(signed);
    let (r, s) = signature.split_bytes();
    report::with_signature(signed, &r.into(), &s.into()).to_vec()
}

/// A report's fields on the chip of [`Endorsed::genoa`].
pub(crate) fn fields() -> Unsigned {
    Unsigned { chip_id: ChipId::from_bytes([0xc1; 64]), ..Unsigned::genoa() }
}

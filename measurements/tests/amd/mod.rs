//! A maker of processors that really signs, for one run of the tests.

use std::str::FromStr as _;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::{self, Unsigned};
use casemate_measurements::tcb::Tcb;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use rsa::pss;
use rsa::rand_core::OsRng;
use rsa::signature::{Keypair as _, RandomizedSigner as _, SignatureEncoding as _};
use rsa::{RsaPrivateKey, pkcs8::EncodePublicKey as _};
use sha2::Sha384;
use x509_cert::der::asn1::{BitString, Ia5String, ObjectIdentifier, OctetString};
use x509_cert::der::{DateTime, Decode as _, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{DynSignatureAlgorithmIdentifier as _, SubjectPublicKeyInfoOwned};
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
            tcb: Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
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

fn name(common: &str) -> Name {
    Name::from_str(&format!("CN={common},O=casemate tests")).unwrap()
}

fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    let extn_id = ObjectIdentifier::new(oid).unwrap();
    Extension { extn_id, critical, extn_value: OctetString::new(value).unwrap() }
}

fn time(seconds: u64) -> Time {
    let date = DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap();
    Time::GeneralTime(date.into())
}

fn sign(
    subject: &str,
    issuer: &str,
    public: &[u8],
    extensions: Vec<Extension>,
    from: u64,
    key: &pss::SigningKey<Sha384>,
) -> Vec<u8> {
    let signature_algorithm = key.signature_algorithm_identifier().unwrap();
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: SerialNumber::new(&[1]).unwrap(),
        signature: signature_algorithm.clone(),
        issuer: name(issuer),
        validity: Validity { not_before: time(from), not_after: time(from + YEAR) },
        subject: name(subject),
        subject_public_key_info: SubjectPublicKeyInfoOwned::from_der(public).unwrap(),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = key.sign_with_rng(&mut OsRng, &tbs_certificate.to_der().unwrap());
    let signature = BitString::from_bytes(&signature.to_vec()).unwrap();
    Certificate { tbs_certificate, signature_algorithm, signature }.to_der().unwrap()
}

fn authority() -> Vec<Extension> {
    let constraints = BasicConstraints { ca: true, path_len_constraint: None };
    vec![
        extension("2.5.29.19", true, constraints.to_der().unwrap()),
        extension("2.5.29.15", true, KeyUsage(KeyUsages::KeyCertSign.into()).to_der().unwrap()),
    ]
}

fn rsa_key() -> pss::SigningKey<Sha384> {
    pss::SigningKey::new(RsaPrivateKey::new(&mut OsRng, 4096).unwrap())
}

fn public(key: &pss::SigningKey<Sha384>) -> Vec<u8> {
    let key = key.verifying_key();
    rsa::RsaPublicKey::from(key).to_public_key_der().unwrap().into_vec()
}

impl Maker {
    /// The same for every test of a run: its keys take seconds to make.
    pub(crate) fn get() -> &'static Self {
        static MAKER: OnceLock<Maker> = OnceLock::new();
        MAKER.get_or_init(|| {
            let ark = thread::spawn(rsa_key);
            let (middle_key, root_key) = (rsa_key(), ark.join().unwrap());
            let from = NOW - YEAR / 2;
            let (root, middle) = ("ARK SIMULATED", "ASK SIMULATED");
            let ark = sign(root, root, &public(&root_key), authority(), from, &root_key);
            let ask = sign(middle, root, &public(&middle_key), authority(), from, &root_key);
            Self { root_key, middle_key, ark, ask }
        })
    }

    /// An intermediate with another name, right to sign, or key.
    pub(crate) fn ask_named(&self, common: &str, authority_over_others: bool) -> Vec<u8> {
        let extensions = if authority_over_others { authority() } else { vec![] };
        sign(common, "ARK SIMULATED", &public(&self.middle_key), extensions, NOW, &self.root_key)
    }

    /// A root that calls itself something else.
    pub(crate) fn root_named(&self, common: &str) -> Vec<u8> {
        sign(common, common, &public(&self.root_key), authority(), NOW, &self.root_key)
    }

    /// A chip's certificate.
    pub(crate) fn vcek(&self, endorsed: &Endorsed) -> Vec<u8> {
        let Endorsed { name, product, tcb, hardware_id, from, extra } = endorsed;
        let number = |arc: u8, value: u8| {
            let oid = format!("1.3.6.1.4.1.3704.1.3.{arc}");
            extension(&oid, false, value.to_der().unwrap())
        };
        let product = Ia5String::new(product).unwrap().to_der().unwrap();
        let mut extensions = vec![
            extension("1.3.6.1.4.1.3704.1.1", false, 1_u8.to_der().unwrap()),
            extension("1.3.6.1.4.1.3704.1.2", false, product),
            number(1, tcb.bootloader),
            number(2, tcb.tee),
            number(3, tcb.snp),
            number(8, tcb.microcode),
            extension("1.3.6.1.4.1.3704.1.4", false, hardware_id.clone()),
        ];
        extensions.extend(extra.map(|oid| extension(oid, true, vec![5, 0])));
        let key = chip_key();
        let public = p384::PublicKey::from(key.verifying_key());
        let public = SubjectPublicKeyInfoOwned::from_key(public).unwrap().to_der().unwrap();
        sign(name, "ASK SIMULATED", &public, extensions, *from, &self.middle_key)
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

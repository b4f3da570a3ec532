//! A maker of GPUs and switches that really signs: chains, reports and manifests.

use std::fmt::Write as _;
use std::str::FromStr as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::gpu_evidence::{Architecture, DeviceEvidence, GpuEvidence};
use casemate_measurements::hash::Nonce;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha384};
use x509_cert::der::asn1::{Any, BitString, ObjectIdentifier, OctetString, Utf8StringRef};
use x509_cert::der::{DateTime, Encode as _, pem};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{GeneralName, OtherName};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, TbsCertificate, Version};

/// 2026-06-01.
pub(crate) const NOW: u64 = 1_780_272_000;
const YEAR: u64 = 365 * 24 * 60 * 60;
const ROOT: &str = "GPU root SIMULATED";
const MIDDLE: &str = "GPU identity SIMULATED";
pub(crate) const DRIVER: &str = "590.12";
pub(crate) const VBIOS: &str = "96.00.A5.00.01";
pub(crate) const SWITCH_VBIOS: &str = "96.10.55.00.01";

fn key(number: u8) -> SigningKey {
    SigningKey::from_slice(&[number; 48]).unwrap()
}

fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    let extn_id = ObjectIdentifier::new(oid).unwrap();
    Extension { extn_id, critical, extn_value: OctetString::new(value).unwrap() }
}

fn time(seconds: u64) -> Time {
    Time::GeneralTime(DateTime::from_unix_duration(Duration::from_secs(seconds)).unwrap().into())
}

/// One certificate to be signed.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) key: u8,
    pub(crate) by: u8,
    pub(crate) from: u64,
    pub(crate) ca: Option<bool>,
    pub(crate) usage: KeyUsages,
    pub(crate) extra: Vec<Extension>,
}

impl Ask {
    fn authority(subject: &str, issuer: &str, key: u8, by: u8) -> Self {
        Self {
            subject: subject.into(),
            issuer: issuer.into(),
            key,
            by,
            from: NOW - 1000,
            ca: Some(true),
            usage: KeyUsages::KeyCertSign,
            extra: vec![],
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let name = |common: &str| Name::from_str(&format!("CN={common},O=casemate tests")).unwrap();
        let mut extensions =
            vec![extension("2.5.29.15", true, KeyUsage(self.usage.into()).to_der().unwrap())];
        if let Some(ca) = self.ca {
            let constraints = BasicConstraints { ca, path_len_constraint: None };
            extensions.push(extension("2.5.29.19", true, constraints.to_der().unwrap()));
        }
        extensions.extend(self.extra.clone());
        let public = p384::PublicKey::from(key(self.key).verifying_key());
        let oid = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
        let algorithm = AlgorithmIdentifierOwned { oid, parameters: None };
        let tbs_certificate = TbsCertificate {
            version: Version::V3,
            serial_number: SerialNumber::new(&[1]).unwrap(),
            signature: algorithm.clone(),
            issuer: name(&self.issuer),
            validity: Validity { not_before: time(self.from), not_after: time(self.from + YEAR) },
            subject: name(&self.subject),
            subject_public_key_info: SubjectPublicKeyInfoOwned::from_key(public).unwrap(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(extensions),
        };
        let signature: Signature = key(self.by).sign(&tbs_certificate.to_der().unwrap());
        let signature = BitString::from_bytes(signature.to_der().as_bytes()).unwrap();
        let signature_algorithm = algorithm;
        Certificate { tbs_certificate, signature_algorithm, signature }.to_der().unwrap()
    }
}

pub(crate) fn to_pem(chain: &[Vec<u8>]) -> Vec<u8> {
    let one = |der: &Vec<u8>| pem::encode_string("CERTIFICATE", pem::LineEnding::LF, der).unwrap();
    chain.iter().map(one).collect::<String>().into_bytes()
}

/// The root of this maker, as a verifier is handed it.
pub(crate) fn root() -> Vec<u8> {
    to_pem(&[Ask::authority(ROOT, ROOT, 1, 1).sign()])
}

/// A device: what its certificates and its report say. A test changes one thing of it.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) architecture: Architecture,
    pub(crate) identity: String,
    pub(crate) key: u8,
    pub(crate) nonce: Nonce,
    pub(crate) fwid: [u8; 48],
    /// `DiceTcbInfo` with these flags instead of the early form.
    pub(crate) flags: Option<u8>,
    pub(crate) measurements: Vec<Vec<u8>>,
    pub(crate) opaque: Vec<(u16, Vec<u8>)>,
    pub(crate) middle: Ask,
    pub(crate) leaf: Ask,
}

impl Device {
    /// A GPU like an H100 alone in its VM.
    pub(crate) fn hopper(number: u8, nonce: Nonce) -> Self {
        let fwid = [0xf1; 48];
        let opaque = vec![
            (6, vec![0x00, 0xa5, 0x00, 0x96, 0x01, 0, 0, 0]),
            (15, b"885\0\0\0".to_vec()),
            (17, b"G520\0".to_vec()),
            (18, b"0200\0".to_vec()),
            (3, format!("{DRIVER}\0").into_bytes()),
            (11, vec![0xaa]),
            (20, fwid.to_vec()),
            (34, vec![1, 0]),
            (36, vec![0, 0]),
        ];
        Self::new(Architecture::Hopper, format!("NVIDIA:GH100:48B02D00000000{number:02X}"), number)
            .with(nonce, opaque)
    }

    /// A GPU like a B200.
    pub(crate) fn blackwell(number: u8, nonce: Nonce) -> Self {
        let hopper = Self::hopper(number, nonce);
        let mut opaque = hopper.opaque;
        opaque[0].1 = vec![0x00, 0x88, 0x00, 0x97, 0x0f, 0, 0, 0];
        opaque[2].1 = b"G525\0".to_vec();
        opaque.push((35, b"GB100\0".to_vec()));
        let id = format!("NVIDIA:GB100:48B02D00000000{number:02X}");
        Self { flags: Some(0x80), ..Self::new(Architecture::Blackwell, id, number) }
            .with(nonce, opaque)
    }

    /// A GPU like an RTX PRO 6000: the certificate names the family, the signed report the chip.
    pub(crate) fn rtx(number: u8, nonce: Nonce) -> Self {
        let mut gpu = Self::blackwell(number, nonce);
        gpu.identity = gpu.identity.replace("GB100", "GB20X");
        gpu.field(35, b"GB202\0".to_vec());
        gpu
    }

    /// GPUs like several B200 in one VM, in the mode that encrypts their links.
    pub(crate) fn blackwells(count: u8, nonce: Nonce) -> Vec<Self> {
        let gpu = |number| {
            let mut gpu = Self::blackwell(number, nonce);
            gpu.field(36, vec![1, 0]);
            gpu
        };
        (1..=count).map(gpu).collect()
    }

    /// A switch of a Hopper machine with eight GPUs.
    pub(crate) fn switch(number: u8, nonce: Nonce) -> Self {
        let mut gpus: Vec<u8> = (1..=8).flat_map(|gpu| [gpu; 8]).collect();
        gpus.extend([0xff; 64]);
        let opaque = vec![
            (6, SWITCH_VBIOS.as_bytes().to_vec()),
            (22, vec![number, 2, 3, 4, 5, 6, 7, 8]),
            (26, gpus),
            (25, vec![1, 0]),
        ];
        Self::new(Architecture::Ls10, format!("NVIDIA:LS_10:48B02D00000000{number:02X}"), number)
            .with(nonce, opaque)
    }

    /// The eight GPUs and four switches of a Hopper machine.
    pub(crate) fn hopper_machine(nonce: Nonce) -> Vec<Self> {
        let links: Vec<u8> =
            (0..18).flat_map(|link| [8, 7, 6, 5, 4, 3, 2, 100 + link % 4]).collect();
        let gpus = (1..=8).map(|number| {
            let mut gpu = Self::hopper(number, nonce);
            gpu.field(36, vec![2, 0]);
            gpu.field(22, links.clone());
            gpu
        });
        gpus.chain((100..104).map(|number| Self::switch(number, nonce))).collect()
    }

    fn new(architecture: Architecture, identity: String, number: u8) -> Self {
        let mut leaf = Ask::authority("GPU leaf", MIDDLE, number + 10, 2);
        (leaf.ca, leaf.usage) = (None, KeyUsages::DigitalSignature);
        Self {
            architecture,
            identity,
            key: number + 10,
            nonce: Nonce::from_bytes([0; 32]),
            fwid: [0xf1; 48],
            flags: None,
            measurements: (0..64).map(|index| vec![index; 48]).collect(),
            opaque: vec![],
            middle: Ask::authority(MIDDLE, ROOT, 2, 1),
            leaf,
        }
    }

    fn with(self, nonce: Nonce, opaque: Vec<(u16, Vec<u8>)>) -> Self {
        Self { nonce, opaque, ..self }
    }

    /// Sets a field of the opaque data; an empty one is taken away.
    pub(crate) fn field(&mut self, field: u16, value: Vec<u8>) {
        self.opaque.retain(|(other, _)| *other != field);
        if !value.is_empty() {
            self.opaque.push((field, value));
        }
    }

    fn dice(&self) -> Extension {
        let tlv = |tag: u8, value: &[u8]| {
            let len = u8::try_from(value.len()).unwrap();
            let mut bytes = vec![tag];
            bytes.extend(if len < 0x80 { vec![len] } else { vec![0x81, len] });
            bytes.extend(value);
            bytes
        };
        let sha384 = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2").to_der().unwrap();
        let fwid = tlv(0x30, &[sha384, tlv(0x04, &self.fwid)].concat());
        let Some(flags) = self.flags else {
            let body = [tlv(0x02, &[1]), tlv(0x30, &[]), fwid].concat();
            return extension("2.23.133.5.4.1", false, tlv(0x30, &body));
        };
        let body = [tlv(0x80, b"NVIDIA"), tlv(0xa6, &fwid), tlv(0x87, &[0, flags, 0, 0, 1])];
        extension("2.23.133.5.4.1.1", false, tlv(0x30, &body.concat()))
    }

    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        let mut leaf = self.leaf.clone();
        let value = Any::encode_from(&Utf8StringRef::new(&self.identity).unwrap()).unwrap();
        let type_id = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.1");
        let name = SubjectAltName(vec![GeneralName::OtherName(OtherName { type_id, value })]);
        leaf.extra.push(extension("2.5.29.17", false, name.to_der().unwrap()));
        leaf.extra.push(self.dice());
        vec![leaf.sign(), self.middle.sign(), Ask::authority(ROOT, ROOT, 1, 1).sign()]
    }

    pub(crate) fn opaque_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![];
        for (field, value) in &self.opaque {
            bytes.extend(field.to_le_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }

    /// The report without its signature.
    pub(crate) fn unsigned(&self) -> Vec<u8> {
        let mut blocks = vec![];
        for (index, value) in (1_u8..).zip(&self.measurements) {
            let len = u16::try_from(value.len()).unwrap();
            blocks.extend([index, 1]);
            blocks.extend((len + 3).to_le_bytes());
            blocks.push(1);
            blocks.extend(len.to_le_bytes());
            blocks.extend(value);
        }
        let opaque = self.opaque_bytes();
        let mut bytes = vec![0x11, 0xe0, 1, 0xff];
        bytes.extend(self.nonce.as_bytes());
        bytes.extend([0, 0x11, 0x60, 0, 0, u8::try_from(self.measurements.len()).unwrap()]);
        bytes.extend(&u32::try_from(blocks.len()).unwrap().to_le_bytes()[..3]);
        bytes.extend(blocks);
        bytes.extend([0x5a; 32]);
        bytes.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        bytes.extend(opaque);
        bytes
    }

    /// Signs whatever bytes a report's would be.
    pub(crate) fn sign(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let signature: Signature = key(self.key).sign(&bytes);
        bytes.extend(signature.to_bytes());
        bytes
    }

    pub(crate) fn evidence(&self) -> DeviceEvidence {
        DeviceEvidence {
            architecture: self.architecture,
            report: Base64Bytes(self.sign(self.unsigned())),
            certificates: Base64Bytes(to_pem(&self.chain())),
        }
    }
}

/// The JSON that a VM sends.
pub(crate) fn json(devices: Vec<DeviceEvidence>) -> String {
    serde_json::to_string(&GpuEvidence { schema: 1, devices }).unwrap()
}

pub(crate) fn evidence(devices: &[Device]) -> String {
    json(devices.iter().map(Device::evidence).collect())
}

/// A manifest to be signed.
#[derive(Clone)]
pub(crate) struct Rim {
    pub(crate) product: &'static str,
    pub(crate) version: String,
    /// Index, whether it is active, accepted values.
    pub(crate) golden: Vec<(usize, bool, Vec<Vec<u8>>)>,
    pub(crate) signer: Ask,
}

impl Rim {
    /// Names the measurements of a good device at these indices.
    pub(crate) fn of(product: &'static str, version: &str, indices: &[u8]) -> Self {
        let golden = indices
            .iter()
            .map(|index| (usize::from(*index), true, vec![vec![0xee; 48], vec![*index; 48]]));
        let mut signer = Ask::authority("GPU manifests", MIDDLE, 9, 2);
        (signer.ca, signer.usage) = (Some(false), KeyUsages::DigitalSignature);
        Self { product, version: version.into(), golden: golden.collect(), signer }
    }

    /// The manifests of every good device.
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::of("GH100", DRIVER, &[1, 2]),
            Self::of("GH100", VBIOS, &[3, 35]),
            Self::of("GB100", DRIVER, &[1, 2]),
            Self::of("GB100", "97.00.88.00.0F", &[3]),
            Self::of("GB202", DRIVER, &[1, 2]),
            Self::of("GB202", "97.00.88.00.0F", &[3]),
            Self::of("LS10", SWITCH_VBIOS, &[5]),
        ]
    }

    /// Signs it. What is written is canonical as it stands.
    pub(crate) fn xml(&self) -> String {
        const NS: &str = r#"xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd""#;
        const HASH: &str = r#"xmlns:h="http://www.w3.org/2001/04/xmlenc#sha384""#;
        const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
        const MORE: &str = "http://www.w3.org/2001/04/xmldsig-more";
        const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
        let mut resources = String::new();
        for (index, active, values) in &self.golden {
            let (active, count) = (if *active { "True" } else { "False" }, values.len());
            let size = values.first().map_or(48, Vec::len);
            write!(
                resources,
                "<Resource active=\"{active}\" alternatives=\"{count}\" index=\"{index}\" \
                 name=\"m\" size=\"{size}\" type=\"Measurement\""
            )
            .unwrap();
            for (n, value) in values.iter().enumerate() {
                write!(resources, " h:Hash{n}=\"{}\"", hex::encode(value)).unwrap();
            }
            resources.push_str("></Resource>");
        }
        let Self { product, version, .. } = self;
        let body = format!(
            "<SoftwareIdentity {NS} {HASH} name=\"n\"><Meta colloquialVersion=\"{version}\" \
             product=\"{product}\"></Meta><Payload>{resources}</Payload>"
        );
        let end = "</SoftwareIdentity>";
        let digest = STANDARD.encode(Sha384::digest(format!("{body}{end}")));
        let info = |namespaces: &str| {
            format!(
                "<ds:SignedInfo{namespaces}><ds:CanonicalizationMethod Algorithm=\"{C14N}\">\
                 </ds:CanonicalizationMethod><ds:SignatureMethod Algorithm=\"{MORE}#ecdsa-sha384\">\
                 </ds:SignatureMethod><ds:Reference URI=\"\"><ds:Transforms><ds:Transform \
                 Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform><ds:Transform \
                 Algorithm=\"{C14N}\"></ds:Transform></ds:Transforms><ds:DigestMethod \
                 Algorithm=\"{MORE}#sha384\"></ds:DigestMethod><ds:DigestValue>{digest}\
                 </ds:DigestValue></ds:Reference></ds:SignedInfo>"
            )
        };
        let in_scope = format!(" {NS} xmlns:ds=\"{DSIG}\" {HASH}");
        let signature: Signature = key(self.signer.key).sign(info(&in_scope).as_bytes());
        let (info, signature) = (info(""), STANDARD.encode(signature.to_bytes()));
        let middle = Ask::authority(MIDDLE, ROOT, 2, 1).sign();
        let root = Ask::authority(ROOT, ROOT, 1, 1).sign();
        let certificates = [self.signer.sign(), middle, root].map(|der| STANDARD.encode(der));
        let certificates = certificates.join("</ds:X509Certificate><ds:X509Certificate>");
        let certificates = format!("<ds:X509Certificate>{certificates}</ds:X509Certificate>");
        format!(
            "{body}<ds:Signature xmlns:ds=\"{DSIG}\">{info}<ds:SignatureValue>{signature}\
             </ds:SignatureValue><ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo>\
             </ds:Signature>{end}"
        )
    }
}

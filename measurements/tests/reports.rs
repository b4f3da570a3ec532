//! Reports that real processors signed: each verifies, and no byte of one may change.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod vectors;

use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::{ChainError, EndorsedKey, Role, UnixTime};
use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::{Report, ReportError, SIGNED_LEN, Version};
use casemate_measurements::roots::Roots;
use casemate_measurements::tcb::{Product, Tcb};

/// 2026-06-01, when every certificate of the vectors is valid.
const NOW: UnixTime = UnixTime(1_780_272_000);

struct Sample {
    name: &'static str,
    version: Version,
    product: Product,
    tcb: Tcb,
    report: &'static str,
    vcek: &'static str,
    ask: &'static str,
    ark: Option<&'static str>,
}

const fn tcb(fmc: u8, bootloader: u8, tee: u8, snp: u8, microcode: u8) -> Tcb {
    Tcb { fmc, bootloader, tee, snp, microcode }
}

const SAMPLES: [Sample; 6] = [
    Sample {
        name: "Turin, version 5",
        version: Version::V5,
        product: Product::Turin,
        tcb: tcb(1, 1, 1, 4, 0x51),
        report: "ms_tav/turin_attestation_report.bin",
        vcek: "ms_tav/turin_vcek.pem",
        ask: "ms_tav/turin_ask.pem",
        ark: Some("ms_tav/turin_ark.pem"),
    },
    Sample {
        name: "Genoa, version 3",
        version: Version::V3,
        product: Product::Genoa,
        tcb: tcb(0, 10, 0, 23, 0x54),
        report: "ms_tav/genoa_attestation_report.bin",
        vcek: "ms_tav/genoa_vcek.pem",
        ask: "ms_tav/genoa_ask.pem",
        ark: Some("ms_tav/genoa_ark.pem"),
    },
    Sample {
        name: "Milan, version 3",
        version: Version::V3,
        product: Product::Milan,
        tcb: tcb(0, 4, 0, 24, 0xdb),
        report: "ms_tav/milan_attestation_report.bin",
        vcek: "ms_tav/milan_vcek.pem",
        ask: "ms_tav/milan_ask.pem",
        ark: Some("ms_tav/milan_ark.pem"),
    },
    Sample {
        name: "Milan, version 3, second certificate, no root in the table",
        version: Version::V3,
        product: Product::Milan,
        tcb: tcb(0, 4, 0, 24, 0xdb),
        report: "ms_tav/milan_crypto_attestation_report.bin",
        vcek: "ms_tav/milan_crypto_vcek.pem",
        ask: "ms_tav/milan_crypto_ask.pem",
        ark: None,
    },
    Sample {
        name: "Milan, version 2, DER",
        version: Version::V2,
        product: Product::Milan,
        tcb: tcb(0, 3, 0, 8, 0x73),
        report: "sev_crate/report_milan.bin",
        vcek: "sev_crate/vcek_milan.der",
        ask: "sev_crate/cert_chain_milan",
        ark: None,
    },
    Sample {
        name: "Milan, version 2, another machine",
        version: Version::V2,
        product: Product::Milan,
        tcb: tcb(0, 2, 0, 5, 0x44),
        report: "go_sev_guest/attestation.bin",
        vcek: "go_sev_guest/vcek.testcer",
        ask: "go_sev_guest/ask_ark_milan.pem",
        ark: None,
    },
];

/// The first certificate of a file; chains stand with the intermediate first.
fn first(name: &str) -> Vec<u8> {
    let bytes = vectors::read(&format!("reports/{name}")).unwrap();
    let end = b"-----END CERTIFICATE-----";
    match bytes.windows(end.len()).position(|window| window == end) {
        Some(at) => bytes[..at + end.len()].to_vec(),
        None => bytes,
    }
}

impl Sample {
    fn bytes(&self) -> Vec<u8> {
        vectors::read(&format!("reports/{}", self.report)).unwrap()
    }

    fn table(&self) -> CertificateTable {
        CertificateTable {
            vcek: Some(first(self.vcek)),
            vlek: None,
            ask: Some(first(self.ask)),
            ark: self.ark.map(first),
        }
    }

    fn key(&self) -> Result<EndorsedKey, ChainError> {
        self.key_of(&self.table())
    }

    fn key_of(&self, table: &CertificateTable) -> Result<EndorsedKey, ChainError> {
        let report = Report::parse(&self.bytes()).unwrap();
        EndorsedKey::verify(table, &report, Platform::Snp, &Roots::amd().unwrap(), NOW)
    }
}

#[test]
fn every_real_report_verifies() {
    if vectors::folder().is_none() {
        return;
    }
    for sample in SAMPLES {
        let name = sample.name;
        let report = Report::parse(&sample.bytes()).unwrap();
        assert_eq!(report.version(), sample.version, "{name}");
        let table = CertificateTable::parse(&sample.table().encode().unwrap()).unwrap();
        let key = sample.key_of(&table).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(key.product(), sample.product, "{name}");
        assert_eq!(key.root(), format!("ARK-{}", sample.product), "{name}");
        assert_eq!(key.check_tcb(&report), Ok(sample.tcb), "{name}");
        assert_eq!(key.check_chip(&report), Ok(true), "{name}");
        let verified = key.verify_report(report.clone()).unwrap();
        assert_eq!(verified.report(), &report, "{name}");
        assert_eq!(report.as_bytes(), sample.bytes(), "{name}");
    }
}

/// What must refuse a report of which the byte at `at` was changed.
fn refusal(bytes: &[u8], key: &EndorsedKey) -> Result<(), String> {
    let report = Report::parse(bytes).map_err(|error| error.to_string())?;
    key.check_tcb(&report).map_err(|error| error.to_string())?;
    key.check_chip(&report).map_err(|error| error.to_string())?;
    key.verify_report(report).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn no_byte_of_a_report_may_change() {
    if vectors::folder().is_none() {
        return;
    }
    for (index, sample) in SAMPLES.iter().enumerate() {
        let (bytes, key) = (sample.bytes(), sample.key().unwrap());
        refusal(&bytes, &key).unwrap();
        // One report byte for byte, the others in steps that come across every field.
        let step = if index == 0 { 1 } else { 7 };
        for at in (0..REPORT_LEN).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let text = refusal(&changed, &key)
                .expect_err(&format!("{}: byte {at:#x} changed unnoticed", sample.name));
            let expected = match at {
                // Version 3 read as 2 has what 2 reserves; 2 read as 3 has no processor.
                0 if sample.version == Version::V3 => "reserved",
                0 if sample.version == Version::V2 => "CPUID",
                0..4 => "version",
                0x30..0x34 if at > 0x30 => "VMPL",
                0x34..0x38 => "algorithm",
                0x180..0x188 => "TCB",
                0x188..0x18b if sample.version == Version::V2 => "reserved",
                0x188 => "CPUID",
                0x1f8..0x208 if sample.version != Version::V5 => "reserved",
                0x49..0x50
                | 0x18b..0x1a0
                | 0x1eb
                | 0x1ef
                | 0x208..SIGNED_LEN
                | 0x2d0..0x2e8
                | 0x318..REPORT_LEN => "reserved",
                0x1a0..0x1e0 => "chip",
                _ => "not signed by the key",
            };
            assert!(text.contains(expected), "{}: byte {at:#x}: {text}", sample.name);
        }
    }
}

#[test]
fn lengths_and_versions_are_refused_by_name() {
    for len in [0, 1, REPORT_LEN - 1, REPORT_LEN + 1] {
        assert_eq!(Report::parse(&vec![0; len]), Err(ReportError::Length { found: len }));
    }
    for found in [0, 1, 4, 6, u32::MAX] {
        let mut bytes = vec![0; REPORT_LEN];
        bytes[..4].copy_from_slice(&found.to_le_bytes());
        assert_eq!(Report::parse(&bytes), Err(ReportError::Version { found }));
    }
    let mut bytes = vec![0; REPORT_LEN];
    (bytes[0], bytes[0x34]) = (3, 1);
    assert_eq!(Report::parse(&bytes), Err(ReportError::Product { family: 0, model: 0 }));
    (bytes[0x188], bytes[0x189], bytes[0x48]) = (0x19, 1, 2 << 2);
    assert_eq!(Report::parse(&bytes), Err(ReportError::SigningKey { found: 2 }));
    bytes[0x48] = 0x20;
    assert_eq!(Report::parse(&bytes), Err(ReportError::Reserved { at: 0x48, found: 0x20 }));
}

#[test]
fn no_byte_of_a_certificate_may_change() {
    if vectors::folder().is_none() {
        return;
    }
    // The one in DER: in PEM a changed line ending is the same certificate.
    let sample = &SAMPLES[4];
    let vcek = first(sample.vcek);
    for at in (0..vcek.len()).step_by(5) {
        let mut changed = vcek.clone();
        changed[at] ^= 1;
        let table = CertificateTable { vcek: Some(changed), ..sample.table() };
        assert!(sample.key_of(&table).is_err(), "byte {at} changed unnoticed");
    }
}

#[test]
fn chains_that_do_not_hold_are_refused() {
    if vectors::folder().is_none() {
        return;
    }
    let [turin, genoa, milan, ..] = &SAMPLES;
    let good = genoa.table();
    let refused = |table: CertificateTable| genoa.key_of(&table).unwrap_err();
    assert_eq!(
        refused(CertificateTable { vcek: None, ..good.clone() }),
        ChainError::Missing { role: Role::Vcek }
    );
    assert_eq!(
        refused(CertificateTable { ask: None, ..good.clone() }),
        ChainError::Missing { role: Role::Ask }
    );
    let other = refused(CertificateTable { vcek: milan.table().vcek, ..good.clone() });
    assert!(matches!(other, ChainError::Issuer { role: Role::Vcek, .. }), "{other}");
    let other = refused(CertificateTable { ask: milan.table().ask, ..good.clone() });
    assert!(matches!(other, ChainError::Issuer { role: Role::Ask, .. }), "{other}");
    let other = refused(turin.table());
    assert!(matches!(other, ChainError::Product { what: "the report", .. }), "{other}");
    // Anything but a pinned root in the place of the root, even one that AMD signed.
    let other = refused(CertificateTable { ark: good.ask.clone(), ..good.clone() });
    assert!(matches!(other, ChainError::UntrustedRoot { .. }), "{other}");
    // A key that is endorsed for no other certificates.
    let other = refused(CertificateTable { ask: good.vcek.clone(), ark: None, ..good.clone() });
    assert!(matches!(other, ChainError::UntrustedRoot { .. }), "{other}");
    // The intermediate of providers' keys does not sign chips' keys.
    let vlek_ask = first("go_sev_guest/ask_ark_genoa_vlek.pem");
    let other = refused(CertificateTable { ask: Some(vlek_ask), ..good.clone() });
    assert!(matches!(other, ChainError::Issuer { role: Role::Vcek, .. }), "{other}");
    let other = refused(CertificateTable { ask: Some(b"junk".to_vec()), ..good.clone() });
    assert!(matches!(other, ChainError::Malformed { role: Role::Ask, .. }), "{other}");
    let other = refused(CertificateTable { ask: Some(vec![0x30; 20_000]), ..good });
    assert!(matches!(other, ChainError::TooLong { role: Role::Ask, .. }), "{other}");
}

#[test]
fn validity_is_the_verifiers_time() {
    if vectors::folder().is_none() {
        return;
    }
    let sample = &SAMPLES[1];
    let report = Report::parse(&sample.bytes()).unwrap();
    for at in [0, 1_700_000_000, 2_100_000_000, u64::MAX] {
        let (roots, at) = (Roots::amd().unwrap(), UnixTime(at));
        let key = EndorsedKey::verify(&sample.table(), &report, Platform::Snp, &roots, at);
        assert!(matches!(key.unwrap_err(), ChainError::Validity { .. }), "{at}");
    }
}

#[test]
fn a_report_of_another_chip_or_tcb_is_refused() {
    if vectors::folder().is_none() {
        return;
    }
    // Two Milan machines: chain and product are the same, chip and TCB are not.
    let (one, other) = (&SAMPLES[4], &SAMPLES[5]);
    let key = one.key().unwrap();
    let report = Report::parse(&other.bytes()).unwrap();
    assert_eq!(
        key.check_tcb(&report),
        Err(ChainError::Tcb { found: other.tcb, expected: one.tcb })
    );
    assert!(matches!(key.check_chip(&report), Err(ChainError::Chip { .. })));
    let refused = key.verify_report(report).unwrap_err();
    assert_eq!(refused, ChainError::ReportSignature { role: Role::Vcek });
}

#[test]
fn real_evidence_does_not_pass_as_simulated() {
    if vectors::folder().is_none() {
        return;
    }
    let sample = &SAMPLES[0];
    let report = Report::parse(&sample.bytes()).unwrap();
    let roots = Roots::amd().unwrap();
    let key = EndorsedKey::verify(&sample.table(), &report, Platform::Simulated, &roots, NOW);
    assert_eq!(key.unwrap_err(), ChainError::Simulated);
}

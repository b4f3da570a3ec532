//! Reports that real processors signed: each verifies, and no byte of one may change.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod vectors;

use casemate_measurements::appraisal::{Basis, CheckName, Expect, Outcome, ReportAppraiser};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::{ChainError, EndorsedKey, Role, UnixTime, check_intermediate};
use casemate_measurements::chain_cache::ChainCache;
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

/// The checks that refuse a report of `sample` of which bytes were changed, and what they say.
fn refusals(sample: &Sample, bytes: &[u8], trust: &Trust) -> (Vec<CheckName>, String) {
    let basis = Basis::new(&trust.roots, NOW).with_chains(&trust.chains);
    let (report_data, measurement) = (Expect::Any, Expect::Any);
    let appraiser = ReportAppraiser { basis, platform: Platform::Snp, report_data, measurement };
    let verdict = appraiser.appraise(bytes, &sample.table());
    let failed = verdict.checks().iter().filter(|check| check.outcome == Outcome::Failed);
    let failed: Vec<CheckName> = failed.map(|check| check.name).collect();
    assert_eq!(verdict.is_genuine(), failed.is_empty());
    assert_eq!(verdict.exit_code(), if failed.is_empty() { 0 } else { 2 });
    assert_eq!(verdict.statement().is_some(), failed.is_empty());
    (failed, verdict.summary().to_owned())
}

/// Whom a verifier believes, and the chains that it has verified.
struct Trust {
    roots: Roots,
    chains: ChainCache,
}

#[test]
fn no_byte_of_a_report_may_change() {
    use CheckName::{Chip, EndorsedTcb, Report, Signature};
    if vectors::folder().is_none() {
        return;
    }
    let trust = Trust { roots: Roots::amd().unwrap(), chains: ChainCache::new(8) };
    for (index, sample) in SAMPLES.iter().enumerate() {
        let (bytes, old) = (sample.bytes(), sample.version == Version::V2);
        assert_eq!(refusals(sample, &bytes, &trust).0, [], "{}", sample.name);
        // One report byte for byte, the others in steps that come across every field.
        let step = if index == 0 { 1 } else { 7 };
        for at in (0..REPORT_LEN).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let (failed, text) = refusals(sample, &changed, &trust);
            let (checks, words): (&[CheckName], _) = match at {
                // Version 3 read as 2 has what 2 reserves; 2 read as 3 has no processor.
                0 if sample.version == Version::V3 => (&[Report], "reserved"),
                0 if old => (&[Report], "CPUID"),
                // Version 4 has no mitigation vectors.
                0 if sample.version == Version::V5 => (&[Report], "reserved"),
                0..4 => (&[Report], "version"),
                0x31..0x34 => (&[Report], "VMPL"),
                0x34..0x38 => (&[Report], "algorithm"),
                0x180..0x188 => (&[EndorsedTcb, Signature], "TCB"),
                0x188..0x18b if old => (&[Report], "reserved"),
                0x188 => (&[Report], "CPUID"),
                0x1f8..0x208 if sample.version != Version::V5 => (&[Report], "reserved"),
                0x49..0x50
                | 0x18b..0x1a0
                | 0x1eb
                | 0x1ef
                | 0x208..SIGNED_LEN
                | 0x2d0..0x2e8
                | 0x318..REPORT_LEN => (&[Report], "reserved"),
                0x1a0..0x1e0 => (&[Chip, Signature], "chip"),
                _ => (&[Signature], "not signed by the key"),
            };
            assert_eq!(failed, checks, "{}: byte {at:#x}: {text}", sample.name);
            assert!(text.contains(words), "{}: byte {at:#x}: {text}", sample.name);
        }
    }
}

#[test]
fn no_field_of_a_report_may_change() {
    use CheckName::{Chain, Chip, EndorsedTcb, Report, Signature};
    if vectors::folder().is_none() {
        return;
    }
    let trust = Trust { roots: Roots::amd().unwrap(), chains: ChainCache::new(8) };
    // Field, offset, bits to flip, the checks that refuse it.
    let fields: [(&str, usize, u8, &[CheckName]); 33] = [
        ("GUEST_SVN", 0x4, 1, &[Signature]),
        ("POLICY, debugging", 0xa, 8, &[Signature]),
        ("FAMILY_ID", 0x10, 1, &[Signature]),
        ("IMAGE_ID", 0x20, 1, &[Signature]),
        ("VMPL", 0x30, 1, &[Signature]),
        ("VMPL, impossible", 0x30, 0xf0, &[Report]),
        ("SIGNATURE_ALGO", 0x34, 3, &[Report]),
        ("CURRENT_TCB", 0x38, 1, &[Signature]),
        ("PLATFORM_INFO", 0x40, 1, &[Signature]),
        ("AUTHOR_KEY_EN", 0x48, 1, &[Signature]),
        ("MASK_CHIP_KEY", 0x48, 2, &[Signature]),
        ("SIGNING_KEY, VLEK", 0x48, 1 << 2, &[Chain]),
        ("SIGNING_KEY, unknown", 0x48, 2 << 2, &[Report]),
        ("SIGNING_KEY, none", 0x48, 7 << 2, &[Report]),
        ("reserved", 0x4c, 1, &[Report]),
        ("REPORT_DATA", 0x50, 1, &[Signature]),
        ("MEASUREMENT", 0x90, 1, &[Signature]),
        ("HOST_DATA", 0xc0, 1, &[Signature]),
        ("ID_KEY_DIGEST", 0xe0, 1, &[Signature]),
        ("AUTHOR_KEY_DIGEST", 0x110, 1, &[Signature]),
        ("REPORT_ID", 0x140, 1, &[Signature]),
        ("REPORT_ID_MA", 0x160, 1, &[Signature]),
        ("REPORTED_TCB, first part", 0x180, 1, &[EndorsedTcb, Signature]),
        ("REPORTED_TCB, microcode", 0x187, 1, &[EndorsedTcb, Signature]),
        ("CHIP_ID", 0x1a0, 1, &[Chip, Signature]),
        ("CHIP_ID, its end", 0x1df, 1, &[Chip, Signature]),
        ("COMMITTED_TCB", 0x1e0, 1, &[Signature]),
        ("CURRENT_VERSION", 0x1e8, 1, &[Signature]),
        ("COMMITTED_VERSION", 0x1ec, 1, &[Signature]),
        ("LAUNCH_TCB", 0x1f0, 1, &[Signature]),
        ("R", 0x2a0, 1, &[Signature]),
        ("S", 0x2e8, 1, &[Signature]),
        ("after the signature", 0x330, 1, &[Report]),
    ];
    for sample in SAMPLES {
        for (field, at, bits, checks) in fields {
            let mut changed = sample.bytes();
            changed[at] ^= bits;
            let (failed, text) = refusals(&sample, &changed, &trust);
            assert_eq!(failed, checks, "{}: {field}: {text}", sample.name);
        }
        // R and S are less than the order of the curve and not zero.
        for (at, byte) in [(0x2a0, 0), (0x2e8, 0), (0x2a0, 0xff), (0x2e8, 0xff)] {
            let mut changed = sample.bytes();
            changed[at..at + 48].fill(byte);
            assert_eq!(refusals(&sample, &changed, &trust).0, [Signature], "{}", sample.name);
        }
        // A product of another report's, at the same place.
        let mut changed = sample.bytes();
        let (family, model) = (0x188, 0x189);
        (changed[family], changed[model]) =
            if sample.product == Product::Turin { (0x19, 0x11) } else { (0x1a, 0x02) };
        let check = if sample.version == Version::V2 { Report } else { Chain };
        assert_eq!(refusals(&sample, &changed, &trust).0, [check], "{}", sample.name);
    }
}

#[test]
fn a_verified_chain_is_used_again_and_judged_anew() {
    if vectors::folder().is_none() {
        return;
    }
    let [turin, genoa, milan, ..] = &SAMPLES;
    let (roots, chains) = (Roots::amd().unwrap(), ChainCache::new(2));
    let verify = |table: &CertificateTable, report: &Report, at| {
        chains.verify(table, report, Platform::Snp, &roots, at)
    };
    let report = Report::parse(&genoa.bytes()).unwrap();
    let key = verify(&genoa.table(), &report, NOW).unwrap();
    let again = verify(&genoa.table(), &report, NOW).unwrap();
    assert!(std::sync::Arc::ptr_eq(&key, &again));
    again.verify_report(report.clone()).unwrap();
    // Time is judged at each use.
    let late = verify(&genoa.table(), &report, UnixTime(2_100_000_000));
    assert!(matches!(late, Err(ChainError::Validity { .. })));
    // The same certificates do for no report of another product, chip or TCB.
    let other = Report::parse(&milan.bytes()).unwrap();
    let refused = verify(&genoa.table(), &other, NOW);
    assert!(matches!(refused, Err(ChainError::Product { .. })));
    assert!(again.verify_report(other).is_err());
    // Another byte is another chain, however small the difference.
    let mut vcek = genoa.table().vcek.unwrap();
    vcek.push(b'\n');
    let table = CertificateTable { vcek: Some(vcek), ..genoa.table() };
    let fresh = verify(&table, &report, NOW).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&key, &fresh));
    // Whoever does not trust the root gets nothing out of it.
    let refused = chains.verify(&table, &report, Platform::Simulated, &roots, NOW);
    assert_eq!(refused.unwrap_err(), ChainError::Simulated);
    for sample in [turin, milan, genoa, turin] {
        let report = Report::parse(&sample.bytes()).unwrap();
        let key = verify(&sample.table(), &report, NOW).unwrap();
        assert_eq!(key.check_tcb(&report), Ok(sample.tcb));
        key.verify_report(report).unwrap();
    }
}

#[test]
fn providers_intermediates_are_amds() {
    if vectors::folder().is_none() {
        return;
    }
    let roots = Roots::amd().unwrap();
    for (name, product) in [
        ("milan_vlek", Product::Milan),
        ("genoa_vlek", Product::Genoa),
        ("turin_vlek", Product::Turin),
        ("milan", Product::Milan),
        ("genoa", Product::Genoa),
        ("turin_vcek", Product::Turin),
    ] {
        let name = format!("go_sev_guest/ask_ark_{name}.pem");
        let (ask, whole) = (first(&name), vectors::read(&format!("reports/{name}")).unwrap());
        let ark = whole[ask.len()..].trim_ascii();
        let check =
            |ark, product, at| check_intermediate(&ask, ark, product, Platform::Snp, &roots, at);
        check(Some(ark), product, NOW).unwrap();
        check(None, product, NOW).unwrap();
        let other = if product == Product::Milan { Product::Genoa } else { Product::Milan };
        let refused = check(None, other, NOW).unwrap_err();
        assert!(matches!(refused, ChainError::Product { .. }), "{refused}");
        let refused = check(Some(&ask), product, NOW).unwrap_err();
        assert!(matches!(refused, ChainError::UntrustedRoot { .. }), "{refused}");
        let refused = check(None, product, UnixTime(0)).unwrap_err();
        assert!(matches!(refused, ChainError::Validity { .. }), "{refused}");
    }
}

#[test]
fn lengths_and_versions_are_refused_by_name() {
    for len in [0, 1, REPORT_LEN - 1, REPORT_LEN + 1] {
        assert_eq!(Report::parse(&vec![0; len]), Err(ReportError::Length { found: len }));
    }
    for found in [0, 1, 6, u32::MAX] {
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
    assert_eq!(refused, ChainError::Tcb { found: other.tcb, expected: one.tcb });
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

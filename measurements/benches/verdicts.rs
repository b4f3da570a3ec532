//! Verdicts on evidence that a fake maker signed, against the checks of the `sev` crate (what
//! snpguest calls) and against the signatures alone; and on a real report of Milan, where the
//! vectors are there. Prints JSON.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

#[path = "../tests/amd/mod.rs"]
#[expect(dead_code, reason = "a benchmark takes the good ones only")]
mod amd;
mod clock;
#[path = "../tests/ovmf/mod.rs"]
mod ovmf;
#[path = "../tests/release/mod.rs"]
mod release;
#[path = "../tests/scene/mod.rs"]
#[expect(dead_code, reason = "a benchmark takes the good ones only")]
mod scene;
#[path = "../tests/vectors/mod.rs"]
#[expect(dead_code, reason = "a benchmark takes files of one folder")]
mod vectors;

use std::path::Path;

use casemate_measurements::appraisal::{Basis, Expect, ReportAppraiser};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::{EndorsedKey, UnixTime};
use casemate_measurements::chain_cache::ChainCache;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Report;
use casemate_measurements::roots::Roots;
use clock::{each, least};
use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use sev::certs::snp::{Chain, Verifiable as _};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;

fn main() {
    let scene = scene::scene();
    let evidence = scene.evidence();
    let bytes = serde_json::to_vec(&evidence).unwrap();
    assert!(scene.judge_bytes(&bytes).is_accepted());

    // The curve's signature check alone, by two implementations.
    let report = Report::parse(&evidence.report.0).unwrap();
    let (r, s) = report.signature();
    let signature = Signature::from_scalars(r, s).unwrap();
    let key = VerifyingKey::from(&SigningKey::from_slice(&[7; 48]).unwrap());
    let point = key.to_encoded_point(false);
    let ring_key =
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P384_SHA384_FIXED, point);
    let flat = [r, s].concat();
    let p384 = each(20, || key.verify(report.signed_bytes(), &signature).unwrap());
    let ring = each(20, || ring_key.verify(report.signed_bytes(), &flat).unwrap());

    // The chain above it, and the report against a chain that is known already.
    let (roots, now) = (&scene.roots, scene.now);
    let endorse =
        || EndorsedKey::verify(&scene.table, &report, Platform::Simulated, roots, now).unwrap();
    let known = endorse();
    let table = &scene.table;
    let der = |bytes: &Option<Vec<u8>>| bytes.clone().unwrap();
    let peer = || {
        let chain = Chain::from_der(&der(&table.ark), &der(&table.ask), &der(&table.vcek)).unwrap();
        let report = AttestationReport::from_bytes(&evidence.report.0).unwrap();
        (&chain, &report).verify().unwrap();
    };
    let real = vectors::folder().map(|folder| real(&folder));
    println!(
        "{}",
        serde_json::json!({
            "p384": p384,
            "p384_ring": ring,
            "chain": each(20, endorse),
            "report_known_chain": each(20, || known.verify_report(report.clone()).unwrap()),
            "verdict": least(100, || assert!(scene.judge_bytes(&bytes).is_accepted())),
            "sev": each(20, peer),
            "real": real.as_ref().map(|(all, _)| all),
            "real_known_chain": real.as_ref().map(|(_, known)| known),
        })
    );
}

/// Seconds of a verdict on a real report with its certificates, and of one whose chain was
/// verified before.
fn real(vectors: &Path) -> (f64, f64) {
    let file = |name| std::fs::read(vectors.join("reports/ms_tav").join(name)).unwrap();
    let (report, vcek) = (file("milan_attestation_report.bin"), Some(file("milan_vcek.pem")));
    let (ask, ark) = (Some(file("milan_ask.pem")), Some(file("milan_ark.pem")));
    let table = CertificateTable { vcek, ask, ark, ..CertificateTable::default() };
    let roots = Roots::amd().unwrap();
    // 2026-06-01, when all of them are valid.
    let basis = Basis::new(&roots, UnixTime(1_780_272_000));
    let verify = |basis| {
        let (report_data, measurement) = (Expect::Any, Expect::Any);
        let platform = Platform::Snp;
        let appraiser = ReportAppraiser { basis, platform, report_data, measurement };
        let verdict = appraiser.appraise(&report, &table);
        assert_eq!(verdict.exit_code(), 0, "{verdict}");
    };
    let chains = ChainCache::new(1);
    (each(20, || verify(basis)), each(20, || verify(basis.with_chains(&chains))))
}

//! Verdicts on evidence that a fake maker signed, against the checks of the `sev` crate (what
//! snpguest calls) and against the signatures alone. Prints JSON.

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

use casemate_measurements::chain::EndorsedKey;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Report;
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
    println!(
        "{}",
        serde_json::json!({
            "p384": p384,
            "p384_ring": ring,
            "chain": each(20, endorse),
            "report_known_chain": each(20, || known.verify_report(report.clone()).unwrap()),
            "verdict": least(100, || assert!(scene.judge_bytes(&bytes).is_accepted())),
            "sev": each(20, peer),
        })
    );
}

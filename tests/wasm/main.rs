//! The pure part, compiled to WebAssembly without C, judges as it does everywhere else: real
//! reports and a simulated VM's evidence, good and bad, under Node.js.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail by panicking")]

#[path = "../../measurements/tests/amd/mod.rs"]
#[expect(dead_code, reason = "its attacks on chains are mounted where chains are judged")]
mod amd;
#[path = "../../measurements/tests/ovmf/mod.rs"]
mod ovmf;
#[path = "../../measurements/tests/release/mod.rs"]
mod release;
#[path = "../../measurements/tests/scene/mod.rs"]
#[expect(dead_code, reason = "one scene is enough here")]
mod scene;
mod toolchain;
#[path = "../../measurements/tests/vectors/mod.rs"]
mod vectors;

use std::process::Command;

use casemate_measurements::evidence::Base64Bytes;
use casemate_tests::{expect_code, skip, workspace};
use serde_json::{Value, json};

/// A request and whether what it asks about is genuine; `None` where the request is refused.
type Case = (&'static str, Value, Option<bool>);

fn base64(bytes: Vec<u8>) -> Value {
    serde_json::to_value(Base64Bytes(bytes)).unwrap()
}

/// Real reports of every product, and what is no longer one.
fn reports() -> Vec<Case> {
    let file = |name: String| vectors::read(&format!("reports/ms_tav/{name}"));
    let request = |product: &str, of: &str| {
        let request = json!({ "report": {
            "report": base64(file(format!("{product}_attestation_report.bin"))?),
            "vcek": base64(file(format!("{of}_vcek.pem"))?),
            "ask": base64(file(format!("{of}_ask.pem"))?),
            "now": amd::NOW,
        }});
        Some(request)
    };
    let mut cases = Vec::new();
    for product in ["milan", "genoa", "turin"] {
        let Some(genuine) = request(product, product) else { return cases };
        let mut forged = file(format!("{product}_attestation_report.bin")).unwrap();
        // The first byte of the launch digest.
        forged[0x90] ^= 1;
        let mut altered = genuine.clone();
        altered["report"]["report"] = base64(forged);
        let mut late = genuine.clone();
        late["report"]["now"] = json!(4_102_444_800_u64);
        cases.extend([
            ("a real report", genuine, Some(true)),
            ("a report with another launch digest", altered, Some(false)),
            ("certificates that are no longer valid", late, Some(false)),
        ]);
    }
    cases.push(("another product's chip", request("milan", "genoa").unwrap(), Some(false)));
    cases
}

/// A simulated VM's evidence, to which a verifier says yes or no.
fn evidence() -> Vec<Case> {
    let scene = scene::scene();
    let genuine = json!({ "evidence": {
        "evidence": serde_json::to_string(&scene.evidence()).unwrap(),
        "manifest": String::from_utf8(scene.manifest.to_bytes().unwrap()).unwrap(),
        "nonce": scene.session.nonce,
        "elapsed_ms": 100,
        "tls_spki_sha256": scene.session.tls_spki_sha256,
        "now": amd::NOW,
        "trust_simulated": base64(amd::Maker::get().ark.clone()),
    }});
    let with = |field: &str, value: Value| {
        let mut request = genuine.clone();
        request["evidence"][field] = value;
        request
    };
    let other = "11".repeat(32);
    vec![
        ("a simulated VM", genuine.clone(), Some(true)),
        ("an old nonce", with("nonce", json!(other)), Some(false)),
        ("another's TLS session", with("tls_spki_sha256", json!(other)), Some(false)),
        ("simulated, but not asked for", with("trust_simulated", Value::Null), Some(false)),
        ("no evidence", with("evidence", json!("{}")), Some(false)),
        ("no manifest", with("manifest", json!("{}")), None),
        ("no root", with("trust_simulated", base64(b"PEM".to_vec())), None),
        ("no policy", with("policy", json!("schema = 0")), None),
        ("an unknown field", with("extra", json!(1)), None),
        ("no request", json!({ "judge": "me" }), None),
    ]
}

#[test]
fn under_node_it_judges_as_it_does_here() {
    if Command::new("node").arg("--version").output().is_err() {
        return skip("wasm", "Node.js is not installed: make setup");
    }
    let module = match toolchain::compile() {
        Ok(module) => module,
        Err(reason) => return skip("wasm", &reason),
    };
    let cases = [reports(), evidence()].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("requests.json");
    let requests: Vec<&Value> = cases.iter().map(|(_, request, _)| request).collect();
    std::fs::write(&path, serde_json::to_vec(&requests).unwrap()).unwrap();
    let script = workspace().join("tests/wasm/judge.mjs");
    let output = expect_code(0, Command::new("node").arg(script).arg(&module).arg(&path));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();

    assert_eq!(said["imports"], json!([]), "no clock, randomness or network comes from the host");
    let answers = said["answers"].as_array().unwrap();
    assert_eq!(answers.len(), cases.len());
    for ((name, request, genuine), answer) in cases.iter().zip(answers) {
        let here = casemate_wasm::answer(&serde_json::to_vec(request).unwrap());
        assert_eq!(*answer, serde_json::from_slice::<Value>(&here).unwrap(), "{name}");
        assert_eq!(answer["verdict"]["genuine"].as_bool(), *genuine, "{name}: {answer}");
        assert_eq!(answer["error"].is_string(), genuine.is_none(), "{name}: {answer}");
    }
    println!("{}: {} bytes", module.display(), module.metadata().unwrap().len());
}

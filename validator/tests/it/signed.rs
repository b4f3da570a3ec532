//! Verdicts that one verifier signs and another reads.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::hash::Sha256Hash;
use casemate_validator::signed::{self, About, SignedError, Statement};
use rcgen::{KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};

use crate::amd::NOW;
use crate::support::Identity;
use crate::vm::{HOST_KEY, serve_vm, verify};

struct Keys {
    dir: tempfile::TempDir,
    private: PathBuf,
    public: PathBuf,
}

fn keys(algorithm: &'static SignatureAlgorithm) -> Keys {
    let dir = tempfile::tempdir().unwrap();
    let (private, public) = (dir.path().join("key.pem"), dir.path().join("key.pub"));
    let pair = KeyPair::generate_for(algorithm).unwrap();
    fs::write(&private, pair.serialize_pem()).unwrap();
    fs::write(&public, pair.public_key_pem()).unwrap();
    Keys { dir, private, public }
}

#[test]
fn a_signed_verdict_is_believed_with_its_key_alone() {
    let verified = verify(&serve_vm(&Identity::new(), HOST_KEY));
    let about = About {
        target: "vm.example.org:8443",
        evidence: &verified.evidence,
        policy: Some(b"schema = 1"),
        at: UnixTime(NOW),
    };
    let other = keys(&rcgen::PKCS_ECDSA_P256_SHA256);
    for algorithm in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
    {
        let keys = keys(algorithm);
        let text = signed::sign(&verified.verdict, &about, None, &keys.private).unwrap();
        let statement = signed::verify(text.as_bytes(), &keys.public).unwrap();
        assert_eq!(*statement.verdict(), verified.verdict);
        let evidence = Sha256Hash::of(&verified.evidence);
        assert_eq!(statement.subject(), Some(("vm.example.org:8443", &evidence)));
        assert_eq!(statement.time(), "2026-06-01T00:00:00Z");
        assert!(statement.verifier().starts_with("ni:///sha-256;"));

        assert!(matches!(
            signed::verify(text.as_bytes(), &other.public),
            Err(SignedError::Signature(1))
        ));
        let envelope: Value = serde_json::from_str(&text).unwrap();
        let payload = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        let payload = String::from_utf8(payload).unwrap();
        // What proves nothing says so in the word that others will look for.
        assert!(payload.contains("CASEMATE_SIMULATED_ACCEPTABLE"), "{payload}");
        let changed = payload.replace("vm.example.org", "vn.example.org");
        let mut forged = envelope.clone();
        forged["payload"] = json!(STANDARD.encode(changed));
        let forged = forged.to_string();
        assert!(matches!(
            signed::verify(forged.as_bytes(), &keys.public),
            Err(SignedError::Signature(1))
        ));
        let mut typed = envelope;
        typed["payloadType"] = json!("text/plain");
        assert!(matches!(
            signed::verify(typed.to_string().as_bytes(), &keys.public),
            Err(SignedError::Other { what: "payloadType", .. })
        ));
        drop(keys.dir);
    }
    for wrong in ["", "{}", "null", "{\"payload\":1}"] {
        let error = signed::verify(wrong.as_bytes(), &other.public).unwrap_err();
        assert!(matches!(error, SignedError::Malformed(_)), "{wrong}: {error}");
    }
}

#[test]
fn a_key_of_openssl_signs_and_openssl_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let openssl = |words: &str| {
        Command::new("openssl").args(words.split(' ')).current_dir(dir.path()).output()
    };
    if openssl("version").is_err() {
        println!("skipped: openssl is not installed");
        return;
    }
    let run = |words: &str| {
        let output = openssl(words).unwrap();
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out key.pem");
    run("pkey -in key.pem -pubout -out key.pub");
    let verified = verify(&serve_vm(&Identity::new(), HOST_KEY));
    let (evidence, at) = (&verified.evidence[..], UnixTime(NOW));
    let about = About { target: "vm", evidence, policy: None, at };
    let id = Some("https://example.org/verifier");
    let text = signed::sign(&verified.verdict, &about, id, &path("key.pem")).unwrap();
    let statement: Statement = signed::verify(text.as_bytes(), &path("key.pub")).unwrap();
    assert_eq!(statement.verifier(), "https://example.org/verifier");
    // DSSE's encoding, written out by hand.
    let envelope: Value = serde_json::from_str(&text).unwrap();
    let decode = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
    let payload = decode(&envelope["payload"]);
    let head = format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len());
    fs::write(path("message"), [head.as_bytes(), &payload].concat()).unwrap();
    fs::write(path("signature"), decode(&envelope["signatures"][0]["sig"])).unwrap();
    run("dgst -sha384 -verify key.pub -signature signature message");

    run("genpkey -algorithm RSA -out rsa.pem");
    let error = signed::sign(&verified.verdict, &about, id, &path("rsa.pem")).unwrap_err();
    assert!(matches!(error, SignedError::Kind { .. }), "{error}");
    let error = signed::sign(&verified.verdict, &about, id, &path("message")).unwrap_err();
    assert!(matches!(error, SignedError::Pem { .. }), "{error}");
}

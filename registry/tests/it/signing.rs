//! Releases signed with keys: who counts, and what is refused and why.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_registry::attestation::{MAX_BUNDLE_LEN, Statement};
use casemate_registry::public_key::{PublicKey, PublicKeyError};
use casemate_registry::release::{Depth, Release, ReleaseError};
use casemate_registry::sign::KeyError;
use casemate_registry::verify::PolicyError;
use serde_json::{Value, json};

use crate::fixture::{Scene, refusal, write};
use crate::openssl;

#[test]
fn two_of_three_keys_are_enough_and_one_is_not() {
    let scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.signer(name);
    }
    let policy = scene.policy(2, &["a", "b", "c"], "");
    assert!(!scene.verify(&policy).is_trusted());
    let first = scene.sign(&scene.signer("a"));
    let verified = scene.verify(&policy);
    assert!(!verified.is_trusted());
    assert_eq!(verified.manifest.signers, ["a"]);
    // The same signer again, under another name of a file: still one.
    fs::copy(&first[1], first[1].with_file_name("other.manifest.sigstore.json")).unwrap();
    let verified = scene.verify(&policy);
    assert_eq!((verified.manifest.signers.len(), verified.manifest.bundles.len()), (1, 2));
    assert!(!verified.is_trusted());
    // Signing is deterministic.
    let before = fs::read(&first[1]).unwrap();
    assert_eq!(scene.sign(&scene.signer("a")), first);
    assert_eq!(fs::read(&first[1]).unwrap(), before);
    scene.sign(&scene.signer("c"));
    let verified = scene.verify(&policy);
    assert!(verified.is_trusted());
    assert_eq!(verified.manifest.signers, ["a", "c"]);
    assert_eq!(verified.provenance.unwrap().signers, ["a", "c"]);
    // A stranger adds nothing.
    scene.sign(&scene.signer("stranger"));
    assert_eq!(scene.verify(&policy).manifest.signers, ["a", "c"]);
    // A manifest alone, as a verifier of VMs has it.
    for name in ["root.img", "vmlinuz", "sbom.json"] {
        fs::remove_file(scene.path("release").join(name)).unwrap();
    }
    let verified = scene.release().verify(&policy, Depth::Manifest).unwrap();
    assert!(verified.is_trusted() && verified.provenance.is_none());
    let error = scene.release().verify(&policy, Depth::Files).unwrap_err();
    assert!(matches!(error, ReleaseError::Read { .. }), "{error}");
}

#[test]
fn provenance_may_be_required() {
    let scene = Scene::new();
    let [provenance, _] = scene.sign(&scene.signer("a"));
    let policy = scene.policy(1, &["a"], "provenance = \"required\"");
    assert!(scene.verify(&policy).is_trusted());
    let good = fs::read(&provenance).unwrap();
    let text = payload(&good);
    let definition = &text["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["image"], "cpu-sandbox");
    let dependencies = definition["resolvedDependencies"].as_array().unwrap();
    assert_eq!(dependencies.len(), 4 + 3, "inputs, packages and tools");
    // Somebody who has the key and says that it was built from something else.
    let mut other = text.clone();
    other["predicate"]["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"] =
        json!("00".repeat(32));
    fs::write(&provenance, signed(&scene, "a", &other)).unwrap();
    let verified = scene.verify(&policy);
    assert!(!verified.is_trusted());
    let judged = &verified.provenance.unwrap().bundles[0];
    let error = casemate_measurements::causes::in_one_line(judged.outcome.as_ref().unwrap_err());
    assert!(error.contains("buildDefinition"), "{error}");
    fs::remove_file(&provenance).unwrap();
    assert!(!scene.verify(&policy).is_trusted());
    assert!(scene.verify(&scene.policy(1, &["a"], "")).is_trusted());
}

/// What is signed in a bundle.
fn payload(bundle: &[u8]) -> Value {
    let bundle: Value = serde_json::from_slice(bundle).unwrap();
    let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
    serde_json::from_slice(&STANDARD.decode(payload).unwrap()).unwrap()
}

/// A bundle in which `name` signs any statement.
fn signed(scene: &Scene, name: &str, statement: &Value) -> Vec<u8> {
    let statement = Statement::from_bytes(&serde_json::to_vec(statement).unwrap()).unwrap();
    scene.signer(name).sign(&statement).unwrap().bundle
}

/// A change of a statement.
type Edit = fn(&mut Value);

#[test]
fn a_signature_over_something_else_is_refused_by_name() {
    let scene = Scene::new();
    let [_, bundle] = scene.sign(&scene.signer("a"));
    let policy = scene.policy(1, &["a"], "");
    let good = payload(&fs::read(&bundle).unwrap());
    let changes: [(Edit, &str); 9] = [
        (|s| s["_type"] = json!("https://in-toto.io/Statement/v0.1"), "_type"),
        (|s| s["predicateType"] = json!("urn:casemate:index:v1"), "predicateType"),
        (
            |s| s["subject"][6]["digest"]["sha256"] = json!("00".repeat(32)),
            "vmlinuz with SHA-256 0000",
        ),
        (|s| s["subject"][0]["name"] = json!("other"), "is about"),
        (|s| drop(s["subject"].as_array_mut().unwrap().pop()), "is about"),
        (
            |s| s["subject"].as_array_mut().unwrap().push(json!({"name": "x", "digest": {}})),
            "\"x\"",
        ),
        (
            |s| {
                let first = s["subject"][0].clone();
                s["subject"].as_array_mut().unwrap().push(first);
            },
            "twice",
        ),
        (|s| s["predicate"]["release"]["version"] = json!("9.9.9"), "not manifest.json"),
        (|s| s["predicate"]["more"] = json!(1), "not manifest.json"),
    ];
    for (change, expected) in changes {
        let mut statement = good.clone();
        change(&mut statement);
        fs::write(&bundle, signed(&scene, "a", &statement)).unwrap();
        let error = refusal(&scene.verify(&policy));
        assert!(error.contains("genuine, but says something else"), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
    }
    fs::write(&bundle, signed(&scene, "a", &good)).unwrap();
    assert!(scene.verify(&policy).is_trusted());
}

#[test]
fn a_bundle_that_was_changed_is_refused_by_name() {
    let scene = Scene::new();
    let [_, path] = scene.sign(&scene.signer("a"));
    scene.signer("b");
    let policy = scene.policy(1, &["a", "b"], "");
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let flipped = |pointer: &str| {
        let mut bytes = STANDARD.decode(good.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
        // In the last name of a statement, so that it is still one.
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        json!(STANDARD.encode(bytes))
    };
    let hint = "/verificationMaterial/publicKey/hint";
    let signatures = "/dsseEnvelope/signatures";
    let one = good.pointer(signatures).unwrap()[0].clone();
    for (pointer, value, expected) in [
        (
            "/dsseEnvelope/payload",
            flipped("/dsseEnvelope/payload"),
            "not of the key of signer \"a\"",
        ),
        (
            "/dsseEnvelope/signatures/0/sig",
            flipped("/dsseEnvelope/signatures/0/sig"),
            "not of the key of signer \"a\"",
        ),
        ("/dsseEnvelope/payloadType", json!("text/plain"), "payloadType"),
        (signatures, json!([]), "exactly one signature"),
        (signatures, json!([one, one]), "exactly one signature"),
        (
            "/mediaType",
            json!("application/vnd.dev.sigstore.bundle+json;version=0.2"),
            "version=0.2",
        ),
        ("/mediaType", json!("x"), "no Sigstore bundle"),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
        let error = refusal(&scene.verify(&policy));
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    // What the bundle says of its key decides nothing.
    let mut changed = good.clone();
    *changed.pointer_mut(hint).unwrap() = json!("somebody");
    fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
    assert!(scene.verify(&policy).is_trusted());
    let mut long = serde_json::to_vec(&good).unwrap();
    long.resize(MAX_BUNDLE_LEN + 1, b' ');
    fs::write(&path, &long).unwrap();
    assert!(refusal(&scene.verify(&policy)).contains("expected at most"));
    for junk in ["", "{", "[]", "\u{0}"] {
        fs::write(&path, junk).unwrap();
        assert!(refusal(&scene.verify(&policy)).contains("no Sigstore bundle"), "{junk:?}");
    }
    // A key that no signer has.
    fs::write(&path, signed(&scene, "stranger", &payload(&serde_json::to_vec(&good).unwrap())))
        .unwrap();
    assert!(refusal(&scene.verify(&policy)).contains("no signer's of the policy"));
}

#[test]
fn a_release_is_signed_only_with_its_own_files() {
    let scene = Scene::new();
    let policy_key = scene.signer("a");
    scene.sign(&policy_key);
    let policy = scene.policy(1, &["a"], "");
    let root = scene.path("release/root.img");
    fs::write(&root, vec![8; 3 * 4096]).unwrap();
    for error in [
        scene.release().verify(&policy, Depth::Files).unwrap_err(),
        scene.release().sign(&policy_key, "urn:x").unwrap_err(),
    ] {
        assert!(matches!(&error, ReleaseError::File { path, .. } if *path == root), "{error}");
    }
    // Signatures of one release under another: the manifest is not theirs.
    write(&scene.path("release"), "0.2.0");
    let error = refusal(&scene.verify(&policy));
    assert!(error.contains("manifest.json with SHA-256"), "{error}");
    assert!(Release::open(&scene.path("absent")).is_err());
}

#[test]
fn keys_of_other_programs_and_curves_sign_too() {
    let scene = Scene::new();
    let mut names = Vec::new();
    for (name, arguments) in [
        ("p256-sec1", ["ecparam", "-genkey", "-name", "prime256v1"]),
        ("p384-sec1", ["ecparam", "-genkey", "-name", "secp384r1"]),
        ("p256", ["genpkey", "-algorithm", "EC", "-pkeyopt=ec_paramgen_curve:P-256"]),
        ("p384", ["genpkey", "-algorithm", "EC", "-pkeyopt=ec_paramgen_curve:P-384"]),
    ] {
        let mut arguments = arguments.to_vec();
        if let Some(option) = arguments[3].strip_prefix("-pkeyopt=") {
            arguments.splice(3.., ["-pkeyopt", option]);
        }
        arguments.push("-out");
        let path = scene.path(name);
        openssl(&arguments, &[&path]);
        crate::private(&path);
        let public = scene.path(&format!("{name}.pub"));
        openssl(&["pkey", "-pubout", "-in", path.to_str().unwrap(), "-out"], &[&public]);
        let theirs = fs::read_to_string(&public).unwrap();
        assert_eq!(PublicKey::from_pem(&theirs).unwrap().to_pem().unwrap(), theirs);
        scene.sign(&scene.signer(name));
        names.push(name);
    }
    assert!(scene.verify(&scene.policy(4, &names, "")).is_trusted());
    let rsa = scene.path("rsa");
    openssl(&["genpkey", "-algorithm", "RSA", "-out"], &[&rsa]);
    crate::private(&rsa);
    let error = casemate_registry::sign::SigningKey::open(
        rsa.to_str().unwrap(),
        &casemate_registry::keys::TokenDefaults::default(),
    );
    assert!(matches!(error, Err(KeyError::NoKey { .. })));
    assert!(matches!(PublicKey::from_pem("x"), Err(PublicKeyError::NoKey)));
}

#[test]
fn policies_that_cannot_hold_are_refused_by_name() {
    let scene = Scene::new();
    scene.signer("a");
    scene.signer("b");
    let signer = |name: &str, rest: &str| format!("[[signer]]\nname = \"{name}\"\n{rest}\n");
    let a = signer("a", "key = \"a.pub\"");
    let identity = "issuer = \"https://i.example\"\nsubject = \"https://s.example/*\"";
    for (text, expected) in [
        (format!("schema = 2\nthreshold = 1\n{a}"), "schema 2"),
        (format!("schema = 1\nthreshold = 0\n{a}"), "threshold is 0: expected 1 to 1"),
        (format!("schema = 1\nthreshold = 2\n{a}"), "threshold is 2: expected 1 to 1"),
        (format!("schema = 1\nthreshold = 1\nquorum = 1\n{a}"), "malformed"),
        ("schema = 1\nthreshold = 1".into(), "expected 1 to 0"),
        (format!("schema = 1\nthreshold = 1\n{a}{a}"), "name is there twice"),
        (
            format!("schema = 1\nthreshold = 1\n{a}{}", signer("c", "key = \"a.pub\"")),
            "nobody counts twice",
        ),
        (format!("schema = 1\nthreshold = 1\n{}", signer("c", "")), "expected either"),
        (
            format!(
                "schema = 1\nthreshold = 1\n{}",
                signer("c", &format!("key = \"a.pub\"\n{identity}"))
            ),
            "expected either",
        ),
        (format!("schema = 1\nthreshold = 1\n{}", signer("c", "key = \"absent\"")), "cannot read"),
        (format!("schema = 1\nthreshold = 1\n{}", signer("c", "key = \"a\"")), "is refused"),
        (format!("schema = 1\nthreshold = 1\n{}", signer("c", identity)), "needs trusted_root"),
        (
            format!(
                "schema = 1\nthreshold = 1\n{}",
                signer("c", "key = \"a.pub\"\nlog = \"required\"")
            ),
            "needs trusted_root",
        ),
        (
            format!(
                "schema = 1\nthreshold = 1\ntrusted_root = \"public\"\n{}",
                signer("c", &identity.replace("https://s.example/*", "*"))
            ),
            "subject of signer \"c\" is refused",
        ),
        (
            format!(
                "schema = 1\nthreshold = 1\ntrusted_root = \"public\"\n{}",
                signer("c", &identity.replace("https://i.example", "https://*"))
            ),
            "without stars",
        ),
        (format!("schema = 1\nthreshold = 1\ntrusted_root = \"a.pub\"\n{a}"), "trusted root a.pub"),
    ] {
        let error = scene.read(&text).unwrap_err();
        let said = casemate_measurements::causes::in_one_line(&error);
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let text = format!(
        "schema = 1\nthreshold = 1\ntrusted_root = \"public\"\n{a}{}",
        signer("c", identity)
    );
    assert_eq!(scene.read(&text).unwrap().signers().len(), 2);
    // A key may stand in the file itself.
    let pem = fs::read_to_string(scene.path("a.pub")).unwrap();
    let text =
        format!("schema = 1\nthreshold = 1\n{}", signer("a", &format!("key = '''\n{pem}'''")));
    scene.sign(&scene.signer("a"));
    assert!(scene.verify(&scene.read(&text).unwrap()).is_trusted());
    assert!(matches!(scene.read("x"), Err(PolicyError::Malformed(_))));
}

/// Prints how many signatures a second are verified; docs/performance.md has the figures.
#[test]
#[ignore = "a measurement, not a test"]
fn speed() {
    let scene = Scene::new();
    let p384 = scene.path("p384");
    openssl(&["ecparam", "-genkey", "-name", "secp384r1", "-out"], &[&p384]);
    crate::private(&p384);
    openssl(
        &["pkey", "-pubout", "-in", p384.to_str().unwrap(), "-out"],
        &[&scene.path("p384.pub")],
    );
    for name in ["a", "p384"] {
        let _ = fs::remove_dir_all(scene.path("release/signatures"));
        scene.sign(&scene.signer(name));
        crate::rate(name, &scene, &scene.policy(1, &[name], ""));
    }
}

//! Keyless signing against a stand-in for Sigstore's services, and what is refused of the result.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use casemate_registry::attestation::{LOCAL_BUILDER, Statement};
use casemate_registry::sign::{Keyless, KeylessError, Services, SignError, Signer, Token};
use casemate_registry::verify::{Identity, Policy};
use serde_json::{Value, json};

use crate::fixture::{Scene, refusal};
use crate::peer;

pub(crate) const ISSUER: &str = "https://token.example.org";
pub(crate) const WORKFLOW: &str = "https://forge.example.org/o/r/.ci/release.yml@refs/tags/v1";

/// The stand-in; it ends with the test.
pub(crate) struct StandIn {
    child: Child,
    dir: PathBuf,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl StandIn {
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let modules = peer("keyless", "sigstore-mock.sh", &[])?;
        let server =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/sigstore-mock/server.mjs");
        fs::create_dir_all(dir).unwrap();
        let mut child = Command::new("node")
            .arg(server)
            .arg(modules)
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("http://127.0.0.1:"), "{line:?}");
        Some(Self { child, dir: dir.to_owned() })
    }

    /// Who signs as `subject`, with the services of a signing config.
    pub(crate) fn signer(&self, subject: &str, config: &str) -> Signer {
        let config = fs::read_to_string(self.dir.join(config)).unwrap();
        let services = Services::from_config(&config).unwrap();
        Signer::Keyless(Box::new(Keyless::new(services, token(ISSUER, subject, 600))))
    }
}

fn token(issuer: &str, subject: &str, seconds: i64) -> Token {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let exp = i64::try_from(now).unwrap() + seconds;
    let claims = json!({"iss": issuer, "sub": subject, "aud": "sigstore", "exp": exp, "iat": now});
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());
    let text = format!("{}.{}.AAAA", part(&json!({"alg": "none"})), part(&claims));
    Token::from_text(&text).unwrap()
}

fn policy(scene: &Scene, root: &str, threshold: usize, signers: &[(&str, &str)]) -> Policy {
    let signer = |(issuer, subject): &(&str, &str)| {
        format!(
            "[[signer]]\nname = \"{subject}\"\nissuer = \"{issuer}\"\nsubject = \"{subject}\"\n"
        )
    };
    let signers = signers.iter().map(signer).collect::<Vec<_>>().concat();
    let head = format!("schema = 1\nthreshold = {threshold}\ntrusted_root = \"{root}\"\n");
    scene.read(&format!("{head}{signers}")).unwrap()
}

const PATTERN: &str = "https://forge.example.org/o/r/.ci/release.yml@refs/tags/v*";

#[test]
fn identities_sign_and_forgeries_are_refused_by_name() {
    let scene = Scene::new();
    let Some(services) = StandIn::start(&scene.path("services")) else { return };
    let root = "services/trusted_root.json";
    let signer = services.signer(WORKFLOW, "signing_config.json");
    let [_, path] = scene.sign(&signer);
    let good = policy(&scene, root, 1, &[(ISSUER, PATTERN)]);
    let verified = scene.verify(&good);
    assert!(verified.is_trusted(), "{verified:?}");
    let proof = verified.manifest.bundles[0].outcome.as_ref().unwrap();
    let identity = Identity::Certificate { issuer: ISSUER.into(), subject: WORKFLOW.into() };
    assert_eq!((&proof.identity, proof.logged), (&identity, true));
    assert!(proof.signed_by.is_some());

    for (signers, expected) in [
        (
            (ISSUER, "https://forge.example.org/o/r/.ci/release.yml@refs/heads/*"),
            "no signer of this",
        ),
        (("https://other.example.org", PATTERN), "no signer of the policy has this issuer"),
    ] {
        let error = refusal(&scene.verify(&policy(&scene, root, 1, &[signers])));
        assert!(error.contains(expected) && error.contains(WORKFLOW), "{error}");
    }

    let bytes = fs::read(&path).unwrap();
    forgeries(&scene, &services, &good, &path);
    fs::write(&path, &bytes).unwrap();
    assert!(scene.verify(&good).is_trusted());

    // A root of other people's services.
    let others = StandIn::start(&scene.path("others")).unwrap();
    let error = refusal(&scene.verify(&policy(
        &scene,
        "others/trusted_root.json",
        1,
        &[(ISSUER, PATTERN)],
    )));
    assert!(error.contains("not genuine"), "{error}");
    drop(others);
    // A policy without a root says so.
    scene.signer("a");
    let error = refusal(&scene.verify(&scene.policy(1, &["a"], "")));
    assert!(error.contains("trusted root"), "{error}");
    python(&scene, &services, &path);
}

/// What somebody without the signer's token can make of his bundle.
fn forgeries(scene: &Scene, services: &StandIn, policy: &Policy, path: &Path) {
    let good: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let signer = services.signer("https://forge.example.org/eve", "signing_config.json");
    let statement = Statement::of_manifest(scene.release().manifest()).unwrap();
    let eve: Value = serde_json::from_slice(&signer.sign(&statement).unwrap().bundle).unwrap();
    let entry = "/verificationMaterial/tlogEntries/0";
    let at = |tail: &str| format!("{entry}{tail}");
    let flipped = |pointer: &str, from_end: usize| {
        let mut bytes = STANDARD.decode(good.pointer(pointer).unwrap().as_str().unwrap()).unwrap();
        let last = bytes.len() - from_end;
        bytes[last] ^= 1;
        json!(STANDARD.encode(bytes))
    };
    let of_eve = |pointer: &str| eve.pointer(pointer).unwrap().clone();
    let certificate = "/verificationMaterial/certificate/rawBytes";
    let (payload, sig) = ("/dsseEnvelope/payload", "/dsseEnvelope/signatures/0/sig");
    let set = at("/inclusionPromise/signedEntryTimestamp");
    let checkpoint = of_eve(&at("/inclusionProof/checkpoint/envelope"));
    for (pointer, value, expected) in [
        (payload.to_owned(), flipped(payload, 6), ""),
        (sig.to_owned(), flipped(sig, 1), ""),
        (certificate.to_owned(), of_eve(certificate), ""),
        (certificate.to_owned(), flipped(certificate, 1), "certificate"),
        (set.clone(), flipped(&set, 1), "inclusion promise"),
        (at("/integratedTime"), json!("1700000000"), ""),
        (at("/inclusionProof/rootHash"), flipped(&at("/inclusionProof/rootHash"), 1), ""),
        (at("/inclusionProof/checkpoint/envelope"), checkpoint, ""),
        (at("/logId/keyId"), json!(STANDARD.encode([7; 32])), ""),
        (entry.to_owned(), of_eve(entry), "log entry does not match"),
        ("/verificationMaterial/tlogEntries".to_owned(), json!([]), ""),
        (
            "/verificationMaterial/timestampVerificationData".to_owned(),
            of_eve("/verificationMaterial/timestampVerificationData"),
            "timestamp",
        ),
    ] {
        let mut changed = good.clone();
        *changed.pointer_mut(&pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        fs::write(path, serde_json::to_vec(&changed).unwrap()).unwrap();
        let error = refusal(&scene.verify(policy));
        assert!(error.contains("not genuine"), "{pointer}: {error}");
        assert!(error.contains(expected), "{pointer}: expected {expected:?}: {error}");
    }
}

/// The Python implementation, which shares no code with ours.
fn python(scene: &Scene, services: &StandIn, bundle: &Path) {
    let Some(venv) = peer("sigstore-python", "sigstore-python.sh", &[]) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/sigstore-verify.py");
    let said = |subject: &str, issuer: &str| {
        let output = Command::new(venv.join("bin/python"))
            .arg(script)
            .arg(services.dir.join("trusted_root.json"))
            .arg(bundle)
            .args([subject, issuer])
            .env("HOME", scene.path(""))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    let good = said(WORKFLOW, ISSUER);
    assert!(good.starts_with("good urn:casemate:manifest:v1"), "{good}");
    assert!(said("https://forge.example.org/eve", ISSUER).starts_with("bad"));
    assert!(said(WORKFLOW, "https://other.example.org").starts_with("bad"));
}

#[test]
fn late_and_foreign_signatures_do_not_count() {
    let scene = Scene::new();
    let Some(services) = StandIn::start(&scene.path("services")) else { return };
    let root = "services/trusted_root.json";
    let good = policy(&scene, root, 1, &[(ISSUER, PATTERN)]);
    // A certificate of an hour ago, logged now.
    let [_, path] = scene.sign(&services.signer(WORKFLOW, "signing_config_early.json"));
    let error = refusal(&scene.verify(&good));
    assert!(error.contains("CertExpired"), "{error}");
    // A statement of version 0.1, by the right identity.
    let signer = services.signer(WORKFLOW, "signing_config.json");
    let statement = Statement::of_manifest(scene.release().manifest()).unwrap().to_bytes().unwrap();
    let old = String::from_utf8(statement).unwrap().replace("Statement/v1", "Statement/v0.1");
    let old = Statement::from_bytes(old.as_bytes()).unwrap();
    fs::write(&path, signer.sign(&old).unwrap().bundle).unwrap();
    let error = refusal(&scene.verify(&good));
    assert!(error.contains("Statement/v0.1"), "{error}");
    fs::remove_file(&path).unwrap();

    // Two workflows that fit one signer are one signer; with a key they are two.
    let other = WORKFLOW.replace("v1", "v2");
    for subject in [WORKFLOW, &other] {
        scene.sign(&services.signer(subject, "signing_config.json"));
    }
    scene.signer("a");
    let key = "[[signer]]\nname = \"a\"\nkey = \"a.pub\"\n";
    let text = format!(
        "schema = 1\nthreshold = 2\ntrusted_root = \"{root}\"\n[[signer]]\nname = \"ci\"\n\
         issuer = \"{ISSUER}\"\nsubject = \"{PATTERN}\"\n{key}"
    );
    let both = scene.read(&text).unwrap();
    let verified = scene.verify(&both);
    assert_eq!(verified.manifest.signers, ["ci"]);
    assert!(!verified.is_trusted());
    scene.sign(&scene.signer("a"));
    assert!(scene.verify(&both).is_trusted());
    // A key whose owner has to log what he signs, and did not.
    let logged = scene.read(&format!("{text}log = \"required\"\n")).unwrap();
    assert_eq!(scene.verify(&logged).manifest.signers, ["ci"]);
}

/// Prints how many signatures a second are verified; docs/performance.md has the figures.
#[test]
#[ignore = "a measurement, not a test"]
fn speed() {
    let scene = Scene::new();
    let Some(services) = StandIn::start(&scene.path("services")) else { return };
    scene.sign(&services.signer(WORKFLOW, "signing_config.json"));
    let policy = policy(&scene, "services/trusted_root.json", 1, &[(ISSUER, PATTERN)]);
    crate::rate("keyless", &scene, &policy);
}

#[test]
fn without_a_token_or_services_nothing_is_signed() {
    let scene = Scene::new();
    let services = || Services::public().unwrap();
    let sign = |token: Token| {
        let signer = Signer::Keyless(Box::new(Keyless::new(services(), token)));
        let error = scene.release().sign(&signer, LOCAL_BUILDER).unwrap_err();
        let casemate_registry::release::ReleaseError::Sign(SignError::Keyless(error)) = error
        else {
            panic!("{error}")
        };
        error
    };
    let error = sign(token(ISSUER, WORKFLOW, -60));
    assert!(matches!(error, KeylessError::Expired { .. }), "{error}");
    assert!(matches!(Token::from_text("x.y"), Err(KeylessError::Token(_))));
    assert!(matches!(Services::from_config("{}"), Err(KeylessError::Config(_))));
    assert!(!scene.path("release/signatures").exists());
}

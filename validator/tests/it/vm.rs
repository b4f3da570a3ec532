//! A VM that exists only as its evidence: a real report, signed by a simulated maker of
//! processors, over a real binding.

use std::fs;

use casemate_measurements::appraisal::{CheckName, KnownRelease, Outcome};
use casemate_measurements::binding::{self, Binding};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::launch_config::{self, LaunchConfig};
use casemate_measurements::manifest::{self, Manifest};
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Unsigned;
use casemate_measurements::roots::Roots;
use casemate_validator::certificates::{Certificates, Settings};
use casemate_validator::fetch::{Limits, fetch_evidence};
use casemate_validator::host_key::HostKey;
use casemate_validator::target::Target;
use casemate_validator::verify::{Verified, Verifier};
use casemate_validator::{release as validator_release, ssh, trust};

use crate::amd::{self, Endorsed, Maker, NOW};
use crate::release;
use crate::sshd::{Client, Sshd, available};
use crate::support::{Identity, finish, relay, serve_tcp, serve_tls};

pub(crate) const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";

/// What a VM with these keys says about `nonce`.
fn evidence(nonce: Nonce, tls: Sha256Hash, ssh_host_key: &str, manifest: &Manifest) -> Vec<u8> {
    let launch_config = LaunchConfig {
        schema: 1,
        ssh_authorized_keys: vec![HOST_KEY.into()],
        name: "vm".into(),
        gpus: None,
    };
    let launch_config = launch_config.to_bytes().unwrap();
    let binding = Binding {
        tls_spki_sha256: tls,
        ssh_host_key: ssh_host_key.into(),
        gpu_evidence_sha256: None,
        launch_config_sha256: Sha256Hash::of(&launch_config),
    };
    let binding = serde_json::to_string(&binding).unwrap();
    let report = Unsigned {
        report_data: binding::report_data(&nonce, binding.as_bytes()),
        host_data: launch_config::host_data(&launch_config),
        measurement: manifest.reference_values[0].measurement,
        policy: manifest.guest_policy,
        ..amd::fields()
    };
    let evidence = Evidence {
        schema: Evidence::SCHEMA,
        platform: Platform::Simulated,
        nonce,
        report: Base64Bytes(amd::sign_bytes(&report.signed_bytes())),
        certificates: Base64Bytes(Maker::get().table(&Endorsed::genoa()).encode().unwrap()),
        binding,
        launch_config: String::from_utf8(launch_config).unwrap(),
        gpu_evidence: None,
    };
    serde_json::to_vec(&evidence).unwrap()
}

/// Serves what `answer` says to the nonce of each request.
fn serve(identity: &Identity, answer: impl Fn(Nonce) -> Vec<u8> + Send + Sync + 'static) -> Target {
    serve_tls(identity.tls13(), move |head, stream| {
        let (_, rest) = head.split_once("?nonce=").unwrap();
        let body = answer(rest.split(' ').next().unwrap().parse().unwrap());
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        finish(stream, &[head.as_bytes(), &body].concat());
    })
}

/// Serves evidence of a VM whose TLS key is `identity`'s.
pub(crate) fn serve_vm(identity: &Identity, ssh_host_key: &str) -> Target {
    let (tls, key) = (identity.spki_sha256(), ssh_host_key.to_owned());
    serve(identity, move |nonce| evidence(nonce, tls, &key, &manifest()))
}

pub(crate) fn manifest() -> Manifest {
    release::manifest(Platform::Simulated)
}

pub(crate) fn known() -> KnownRelease {
    KnownRelease::new(manifest()).unwrap()
}

pub(crate) fn simulated_roots() -> Roots {
    Roots::amd().unwrap().with_simulated(&Maker::get().ark).unwrap()
}

fn verify_with(target: &Target, release: &KnownRelease, roots: &Roots) -> Verified {
    let (limits, now) = (Limits::default(), UnixTime(NOW));
    let certificates = &Certificates::open(&Settings::default()).unwrap();
    let (releases, policy) = (std::slice::from_ref(release), &trust::policy(roots));
    let verifier = Verifier {
        releases,
        policy,
        roots,
        certificates,
        revocation_lists: &[],
        nvattest: None,
        limits,
        now,
    };
    verifier.verify(target).unwrap()
}

/// Verifies as a tenant does who named the simulated root.
pub(crate) fn verify(target: &Target) -> Verified {
    verify_with(target, &known(), &simulated_roots())
}

/// The only failed check.
fn failed(verified: &Verified) -> CheckName {
    let checks = verified.verdict.checks().iter();
    let failed: Vec<_> = checks.filter(|check| check.outcome == Outcome::Failed).collect();
    assert_eq!(failed.len(), 1, "{}", verified.verdict);
    failed[0].name
}

#[test]
fn a_genuine_vm_is_accepted_and_its_host_key_pinned() {
    let verified = verify(&serve_vm(&Identity::new(), HOST_KEY));
    assert_eq!(verified.verdict.exit_code(), 0, "{}", verified.verdict);
    let key: HostKey = HOST_KEY.parse().unwrap();
    assert_eq!(verified.host_key().unwrap(), Some(key));
}

#[test]
fn each_question_gets_a_nonce_of_its_own() {
    let target = serve_vm(&Identity::new(), HOST_KEY);
    let (first, second) = (verify(&target), verify(&target));
    assert_ne!(first.nonce, second.nonce);
    assert_ne!(first.nonce.as_bytes(), &[0; 32]);
}

#[test]
fn evidence_of_an_earlier_question_is_refused() {
    let identity = Identity::new();
    let tls = identity.spki_sha256();
    let old = evidence(Nonce::from_bytes([1; 32]), tls, HOST_KEY, &manifest());
    let verified = verify(&serve(&identity, move |_| old.clone()));
    assert_eq!((failed(&verified), verified.verdict.exit_code()), (CheckName::Nonce, 2));

    // With the new nonce written over the old one, the report gives it away.
    let identity = Identity::new();
    let tls = identity.spki_sha256();
    let old = Nonce::from_bytes([1; 32]);
    let echoed = move |nonce: Nonce| {
        let old = evidence(old, tls, HOST_KEY, &manifest());
        let mut old: Evidence = serde_json::from_slice(&old).unwrap();
        old.nonce = nonce;
        serde_json::to_vec(&old).unwrap()
    };
    let verified = verify(&serve(&identity, echoed));
    let check = verified.verdict.check(CheckName::ReportNonce).unwrap();
    assert_eq!((check.outcome, verified.verdict.exit_code()), (Outcome::Failed, 2));
    assert_eq!(verified.host_key(), Ok(None));
}

#[test]
fn what_is_no_evidence_is_not_genuine() {
    for body in ["", "{}", "not JSON", "[[[[[[[[", "\u{0}"] {
        let verified = verify(&serve(&Identity::new(), move |_| body.into()));
        assert_eq!(failed(&verified), CheckName::Evidence, "{body}");
        assert_eq!(verified.verdict.exit_code(), 2);
        assert_eq!(verified.host_key(), Ok(None));
    }
}

#[test]
fn a_relay_changes_nothing_and_a_terminating_proxy_is_refused() {
    let vm = Identity::new();
    let behind = serve_vm(&vm, HOST_KEY);
    let port = behind.port();
    let front = serve_tcp(move |tcp| {
        relay(tcp, std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    });
    assert_eq!(verify(&front).verdict.exit_code(), 0);

    let proxy = Identity::new();
    let front = serve(&proxy, move |nonce| {
        fetch_evidence(&behind, &nonce, &Limits::default()).unwrap().evidence
    });
    let verified = verify(&front);
    assert_eq!((failed(&verified), verified.verdict.exit_code()), (CheckName::TlsKey, 2));
    assert_eq!(verified.host_key(), Ok(None));
}

#[test]
fn a_simulated_vm_is_refused_where_its_root_was_not_named() {
    let target = serve_vm(&Identity::new(), HOST_KEY);
    let verified = verify_with(&target, &known(), &trust::roots(None).unwrap());
    assert_eq!((failed(&verified), verified.verdict.exit_code()), (CheckName::Platform, 2));
}

#[test]
fn another_release_is_genuine_but_not_acceptable() {
    let target = serve_vm(&Identity::new(), HOST_KEY);
    let wanted = KnownRelease::new(release::manifest(Platform::Snp)).unwrap();
    let verified = verify_with(&target, &wanted, &simulated_roots());
    assert_eq!(verified.verdict.exit_code(), 3, "{}", verified.verdict);
    let check = verified.verdict.check(CheckName::Measurement).unwrap();
    assert_eq!(check.outcome, Outcome::Failed);
    assert_eq!(verified.host_key(), Ok(None));
}

#[test]
fn an_attested_text_that_is_no_key_reaches_no_file() {
    let injected = format!("{HOST_KEY}\n* {HOST_KEY}");
    let verified = verify(&serve_vm(&Identity::new(), &injected));
    assert!(!matches!(verified.host_key(), Ok(Some(_))), "{}", verified.verdict);
}

#[test]
fn a_release_and_a_root_are_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(manifest::FILE_NAME), manifest().to_bytes().unwrap()).unwrap();
    let root = dir.path().join("ark.pem");
    fs::write(&root, &Maker::get().ark).unwrap();
    let release = validator_release::read(dir.path()).unwrap();
    let roots = trust::roots(Some(&root)).unwrap();
    let target = serve_vm(&Identity::new(), HOST_KEY);
    let verified = verify_with(&target, &release, &roots);
    assert_eq!(verified.verdict.exit_code(), 0, "{}", verified.verdict);
}

/// The attack that everything here is for: the evidence is the genuine VM's, passed on byte for
/// byte, and the port of its sshd leads to the attacker's.
#[test]
fn evidence_of_the_vm_and_ssh_to_the_attacker_is_refused() {
    if !available() {
        return;
    }
    let client = Client::new();
    let genuine = Sshd::start("genuine", &client);
    let attacker = Sshd::start("attacker", &client);
    let verified = verify(&serve_vm(&Identity::new(), &genuine.host_key().to_string()));
    let key = verified.host_key().unwrap().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("ran");
    let command = format!("touch {}", marker.display());
    let run = |sshd: &Sshd| ssh::run(&client.session(&sshd.address, sshd.port, &command), &key);
    assert_eq!(run(&attacker).unwrap(), 255);
    assert!(!marker.exists());
    assert_eq!(run(&genuine).unwrap(), 0);
    assert!(marker.exists());
}

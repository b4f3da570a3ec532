//! `casemate verify gpu`, by the program itself, on what NVIDIA's own device said.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};

/// The nonce that the sample's switch was asked with.
const NONCE: &str = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";

fn sample() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../measurements/tests/samples/ls10.json");
    path.to_owned()
}

/// What it prints, on standard output and beside it; it must end with `code`.
fn gpu(code: i32, args: &[&str]) -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
    let Output { status, stdout, stderr } =
        command.args(["verify", "gpu"]).args(args).arg("--offline").output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

#[test]
fn a_real_switch_is_genuine_and_no_gpu() {
    let (json, _) = gpu(3, &[&sample(), "--nonce", NONCE, "--format", "json"]);
    let verdict: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(verdict["genuine"], true, "{json}");
    let (text, _) = gpu(3, &[&sample(), "--nonce", NONCE]);
    assert!(text.contains("genuine but not acceptable"), "{text}");
    let (text, _) = gpu(2, &[&sample(), "--nonce", &"42".repeat(32)]);
    assert!(text.contains("not genuine"), "{text}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let absent = path("absent.json");
    let (_, error) = gpu(1, &[&absent, "--nonce", NONCE]);
    assert!(error.contains(&absent), "{error}");
    std::fs::write(Path::new(&path("list.json")), "[").unwrap();
    let (_, error) = gpu(1, &[&path("list.json"), "--nonce", NONCE]);
    assert!(error.contains("list.json is refused"), "{error}");
    let manifests = ["--gpu-manifests", dir.path().to_str().unwrap()];
    let sample = sample();
    let with_manifests = [&[&*sample, "--nonce", NONCE], &manifests[..]].concat();
    let (_, error) = gpu(1, &with_manifests);
    assert!(error.contains("holds no *.swidtag"), "{error}");
    std::fs::write(dir.path().join("driver.swidtag"), "<no manifest/>").unwrap();
    let (_, error) = gpu(1, &with_manifests);
    assert!(error.contains("driver.swidtag is no reference integrity manifest"), "{error}");
}

/// Text that is no evidence says nothing about a GPU.
#[test]
fn what_is_no_evidence_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("evidence.json");
    for text in ["", "{}", "[{}]", "{\"schema\":2,\"devices\":[]}", "{\"schema\":1,\"devices\":[]}"]
    {
        std::fs::write(&file, text).unwrap();
        let (out, error) = gpu(1, &[file.to_str().unwrap(), "--nonce", NONCE]);
        assert!(error.contains("evidence.json is refused"), "{text}: {error}");
        assert!(!out.contains("genuine"), "{text}: {out}");
    }
}

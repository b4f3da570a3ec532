//! What the program does when its output is full, or nobody reads it any more.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs::File;
use std::process::{Command, Stdio};

/// What is refused: a full disk, and a pipe without a reader.
fn refusals() -> [Stdio; 2] {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [full.into(), writer.into()]
}

fn casemate(args: &[&str], state: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
    command.args(args).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", state);
    command.env_remove("CASEMATE_SOCKET");
    command
}

#[test]
fn data_that_cannot_be_written_is_one_line_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../measurements/tests/samples/ls10.json");
    let nonce = "42".repeat(32);
    for args in [
        &["--help"][..],
        &["--version"],
        &["completions", "bash"],
        &["policy", "init"],
        &["schema", "policy"],
        &["serve", "--print-unit", "service"],
        &["ps"],
        &["ps", "--format", "json"],
        &["host", "inventory"],
        &["verify", "gpu", sample, "--offline", "--nonce", &nonce],
        &["verify", "gpu", sample, "--offline", "--nonce", &nonce, "--format", "json"],
    ] {
        for refused in refusals() {
            let output = casemate(args, dir.path()).stdout(refused).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
            let lines: Vec<&str> =
                said.lines().filter(|line| !line.starts_with("warning:")).collect();
            let [line] = &lines[..] else { panic!("{args:?}: {said}") };
            assert!(line.contains("cannot write to standard output"), "{args:?}: {said}");
        }
    }
}

#[test]
fn talk_that_cannot_be_written_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    for refused in refusals() {
        let mut command = casemate(&["policy", "check", "absent.toml"], dir.path());
        assert_eq!(command.stderr(refused).status().unwrap().code(), Some(1));
    }
}

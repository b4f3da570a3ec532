//! Keys, ID blocks and stores against what other programs make of them, and hostile ones.
#![expect(clippy::unwrap_used, reason = "tests panic and report")]

mod files;
mod hostile;
mod interrupted;
mod peers;
mod stores;
mod token;

use std::path::Path;
use std::process::{Command, Output};

/// Runs a program that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// `openssl` with arguments.
fn openssl(arguments: &[&str], paths: &[&Path]) -> Output {
    run(Command::new("openssl").args(arguments).args(paths))
}

//! Keys, ID blocks, signatures and stores against what other programs make of them, and hostile
//! ones.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests panic and report")]

mod channel;
mod cosign;
mod files;
mod fixture;
mod hostile;
mod hostile_objects;
mod index;
mod interrupted;
#[cfg(feature = "schema")]
#[path = "../../../measurements/tests/jsonschema/mod.rs"]
mod jsonschema;
mod keyless;
#[path = "../../../measurements/tests/ovmf/mod.rs"]
mod ovmf;
mod page;
mod peers;
mod referrers;
#[path = "../../../measurements/tests/release/mod.rs"]
mod release;
#[cfg(feature = "schema")]
mod schemas;
mod signing;
mod stores;
mod token;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program that must succeed.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

/// What a script of `tests/peers` installs: its path, or `None` with a word where it cannot be had
/// and `CASEMATE_REQUIRE` does not name it.
fn peer(name: &str, script: &str, arguments: &[&str]) -> Option<PathBuf> {
    let script = format!("{}/../tests/peers/{script}", env!("CARGO_MANIFEST_DIR"));
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let mut install = Command::new("bash");
    install.arg(script).args(arguments).env("CARGO_TARGET_DIR", target);
    let output = install.output().unwrap();
    if output.status.success() {
        let path = String::from_utf8(output.stdout).unwrap();
        return Some(path.trim_end().into());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|required| required == name), "{name}: {said}");
    eprintln!("skipped: {name} cannot be had: {said}");
    None
}

/// Prints how many verifications of a release's manifest fit in a second.
fn rate(name: &str, scene: &fixture::Scene, policy: &casemate_registry::verify::Policy) {
    let release = scene.release();
    let (start, mut done) = (std::time::Instant::now(), 0_u32);
    while start.elapsed().as_secs() < 2 {
        let verified = release.verify(policy, casemate_registry::release::Depth::Manifest);
        assert!(verified.unwrap().is_trusted());
        done += 1;
    }
    let rate = f64::from(done) / start.elapsed().as_secs_f64();
    eprintln!("{name}: {rate:.0} verifications a second");
}

/// Takes a private key away from everybody else.
fn private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// `openssl` with arguments.
fn openssl(arguments: &[&str], paths: &[&Path]) -> Output {
    run(Command::new("openssl").args(arguments).args(paths))
}

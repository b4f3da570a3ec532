//! The check of a kernel's configuration, as the stage of images/cpu-sandbox runs it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::Command;

const CHECK: &str = "../images/cpu-sandbox/kernel/check-config.awk";

/// What the check says of `fragments`, given the kernel's options and what came out.
fn checked(options: &str, came_out: &str, fragments: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("options", options);
    write(".config", came_out);
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join(CHECK);
    let mut command = Command::new("awk");
    command.current_dir(&dir).arg("-f").arg(check).args(["options", ".config"]);
    for (index, fragment) in fragments.iter().enumerate() {
        let name = format!("{index}.config");
        write(&name, fragment);
        command.arg(name);
    }
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

const OPTIONS: &str = "A\nB\nNAME\nVALUE\n";
const CAME_OUT: &str =
    "# Linux\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NAME=\"x=y\"\nCONFIG_VALUE=-1\n";

#[test]
fn a_configuration_that_came_out_as_stated_passes() {
    let stated =
        "# why\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NAME=\"x=y\"\nCONFIG_VALUE=-1\n";
    assert_eq!(checked(OPTIONS, CAME_OUT, &[stated]), (true, String::new()));
    // A later fragment takes back what an earlier one states.
    let later = ["# CONFIG_A is not set\n", "CONFIG_A=y\n"];
    assert_eq!(checked(OPTIONS, CAME_OUT, &later), (true, String::new()));
}

#[test]
fn an_option_that_came_out_otherwise_is_named() {
    for (stated, said) in [
        ("CONFIG_B=y", "0.config:1: CONFIG_B: stated y, came out n"),
        ("# CONFIG_A is not set", "0.config:1: CONFIG_A: stated n, came out y"),
        ("CONFIG_A=m", "0.config:1: CONFIG_A: stated m, came out y"),
        ("\nCONFIG_NAME=\"x\"", "0.config:2: CONFIG_NAME: stated \"x\", came out \"x=y\""),
        ("# CONFIG_GONE is not set", "0.config:1: CONFIG_GONE: this kernel has no such option"),
        ("CONFIG A=y", "0.config:1: no option and no comment: CONFIG A=y"),
    ] {
        let (passed, text) = checked(OPTIONS, CAME_OUT, &[stated]);
        assert!(!passed && text.starts_with(said), "{stated}: {text}");
        assert!(text.contains("1 options of the kernel are not what the recipe states"), "{text}");
    }
}

//! Two builds under everything that may differ between two machines give the same bytes.

use std::path::Path;
use std::process::Command;

use casemate_tests::{casemate, expect_code, gpu_release, release, required, skip, workspace};

use crate::{changed_recipe, copy_cache, files, move_away};

/// What stages compile takes minutes, so it is compiled twice by `make images` alone.
#[test]
fn builds_are_bit_identical_under_perturbation() {
    identical(release(), "images/cpu-sandbox", Stages::Taken);
}

#[test]
fn builds_with_stages_are_bit_identical_under_perturbation() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    identical(release(), "images/cpu-sandbox", Stages::MadeAgain);
    identical(gpu_release(), "images/gpu-hopper", Stages::MadeAgain);
}

/// What becomes of stages when an image is built again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stages {
    /// Their outputs are those of the first build.
    Taken,
    /// They run again.
    MadeAgain,
}

/// Builds the image in `folder` again elsewhere and compares with the release `first`.
fn identical(first: &Path, folder: &str, stages: Stages) {
    let root = nix::unistd::geteuid().is_root();
    let dir = tempfile::Builder::new().prefix("cm-other ").tempdir_in("/var/tmp").unwrap();
    let away = dir.path().join("another/place");
    std::fs::create_dir_all(&away).unwrap();
    move_away(&away);
    // No cache, no mirror, no network: a bundle of inputs is all there is, and everything computed
    // is computed again.
    let mut command = casemate(["image", "export-inputs", "--format", "json", "--output"]);
    let output = expect_code(0, command.arg(away.join("inputs")).arg(workspace().join(folder)));
    let bundle: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let inputs = format!("file://{}", away.join("inputs").to_str().unwrap().replace(' ', "%20"));
    let inputs = format!("{inputs}#@sha256:{}", bundle["manifest"].as_str().unwrap());
    if stages == Stages::Taken {
        copy_cache(&away.join("cache"), &["stages"]);
    }

    // Another user, host name, clock, umask, locale, time zone, job count and unpack order.
    let mut words = vec!["faketime", "-f", "+397d"];
    if !Path::new("/usr/bin/faketime").exists() {
        skip("faketime", "the clock is not perturbed: faketime is not installed");
        words.clear();
    }
    let mut script = String::from("umask 077; ");
    if root {
        let owner = ["-R", "65534:65534"];
        let _ = expect_code(0, Command::new("chown").args(owner).arg(dir.path()));
        script.push_str(
            "hostname elsewhere; exec setpriv --reuid=65534 --regid=65534 --clear-groups -- ",
        );
    } else {
        skip("root", "both builds run as this user: only root can become another");
        script.push_str("exec ");
    }
    script.push_str("\"$@\"");
    let mut command = Command::new(if root { "unshare" } else { "env" });
    if root {
        command.args(["--uts", "--net"]);
    }
    command.args(["sh", "-c", &script, "sh"]).args(words);
    command.arg(away.join("casemate")).args(["image", "build", folder]);
    command.args(["--platform", "simulated", "--offline", "--jobs", "1", "--unpack-order", "7"]);
    command.arg("--inputs").arg(inputs).env_remove("CARGO_HOME").env_remove("CASEMATE_MIRRORS");
    command.arg("--output").arg(away.join("release"));
    command.current_dir(&away).env("CASEMATE_CACHE", away.join("cache")).env("HOME", &away);
    command.env("TZ", "Pacific/Kiritimati").env("LANG", "tr_TR.UTF-8").env("LC_ALL", "tr_TR.UTF-8");
    command.env("HOSTNAME", "elsewhere").env("SOURCE_DATE_EPOCH", "1").env("USER", "another");
    command.env("RUSTFLAGS", "-Copt-level=0").env_remove("XDG_CACHE_HOME");
    let _ = expect_code(0, &mut command);

    let second = away.join("release");
    for name in files() {
        let (a, b) = (std::fs::read(first.join(name)), std::fs::read(second.join(name)));
        let same = a.unwrap() == b.unwrap();
        if !same {
            let mut command = casemate(["image", "diff"]);
            let output = command.arg(first).arg(&second).output().unwrap();
            panic!("{name} differs:\n{}", String::from_utf8_lossy(&output.stdout));
        }
    }
    let _ = expect_code(0, casemate(["image", "diff"]).arg(first).arg(&second));
}

/// What differs is named down to the file inside the file system.
#[test]
fn diff_names_the_first_file_that_differs() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = changed_recipe(dir.path(), "name = ", "name = ");
    let file = recipe.join("rootfs/etc/nftables.conf");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("# one line more\n");
    std::fs::write(file, text).unwrap();
    let other = dir.path().join("release");
    let mut command = casemate(["image", "build", "--platform", "simulated", "--output"]);
    let _ = expect_code(0, command.arg(&other).arg(&recipe));

    let mut command = casemate(["image", "diff"]);
    let output = expect_code(3, command.arg(release()).arg(&other));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("root.img") && said.contains("etc/nftables.conf"), "{said}");
}

//! Builds that are killed or run out of space leave nothing half-written.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_tests::{casemate, expect_code, recipe, release, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{copy_cache, files};

fn build(cache: &Path, output: &Path) -> Command {
    let mut command = casemate(["image", "build", "--offline", "--platform", "simulated"]);
    command.arg(recipe()).arg("--output").arg(output).env("CASEMATE_CACHE", cache);
    command
}

fn same_as_release(other: &Path) {
    for name in files() {
        let same = std::fs::read(release().join(name)).unwrap()
            == std::fs::read(other.join(name)).unwrap();
        assert!(same, "{name} differs after interruptions");
    }
}

/// Killed at many moments of every phase but the compilers', the next run continues.
#[test]
fn a_killed_build_continues_and_gives_the_same_bytes() {
    release();
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (cache, output) = (dir.path().join("cache"), dir.path().join("release"));
    copy_cache(&cache, &["blobs", "programs", "stages"]);
    let mut killed = 0;
    let mut wait = 100;
    for signal in [Signal::SIGKILL, Signal::SIGINT].into_iter().cycle() {
        // Who runs the tests in the background has interrupts ignored, and so would the build.
        let inner = build(&cache, &output);
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(inner.get_program()).args(inner.get_args());
        command.env("CASEMATE_CACHE", &cache);
        let said = dir.path().join("cache/said");
        let talk = std::fs::File::create(&said).unwrap();
        let mut child = command.stderr(talk).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{}", std::fs::read_to_string(said).unwrap());
            break;
        }
        // The release comes in one step: what is there, however early, is whole.
        if output.exists() {
            same_as_release(&output);
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            break;
        }
        killed += 1;
        wait += wait / 2;
        assert!(wait < 300_000, "the build does not end");
    }
    assert!(killed >= 5, "only {killed} builds were interrupted");
    let _ = expect_code(0, &mut build(&cache, &output));
    same_as_release(&output);
    // What was left half-written has no name that anything uses.
    let left = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let others: Vec<_> = left
        .map(|name| name.into_string().unwrap())
        .filter(|name| !["cache", "release"].contains(&name.as_str()))
        .filter(|name| !name.starts_with(".casemate-release-"))
        .collect();
    assert_eq!(others, Vec::<String>::new());
}

/// No space for the release: a clear error, and the old release is untouched.
#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_release() {
    release();
    if !nix::unistd::geteuid().is_root() {
        return skip("root", "only root can mount a small file system");
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let script = "mount -t tmpfs -o size=24m tmpfs \"$1\"; mkdir \"$1/release\"; \
                  echo old >\"$1/release/manifest.json\"; shift; \"$@\"; code=$?; \
                  ls -A \"$DIR\" >&2; cat \"$DIR/release/manifest.json\" >&2; exit $code";
    let inner = build(&crate::cache(), &dir.path().join("release"));
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(dir.path());
    command.arg(inner.get_program()).args(inner.get_args()).env("DIR", dir.path());
    let output = expect_code(1, &mut command);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(
        said.ends_with("release\nold\n"),
        "the old release is gone, or parts lie about: {said}"
    );
}

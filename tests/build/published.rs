//! A release that was published is pulled, launched and verified against by its reference alone.

use std::path::Path;
use std::process::Command;

use casemate_tests::{casemate, expect_code, key_pair, release};

use crate::files;

/// The binary with a cache of its own.
fn with_cache(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = casemate(arguments);
    command.env("CASEMATE_CACHE", dir.join("cache"));
    command
}

fn json(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_published_release_is_run_by_reference() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir = dir.path();
    // A key that lies about is no part of a release.
    let copy = dir.join("release");
    let _ =
        expect_code(0, Command::new("cp").args(["-r", "--reflink=auto"]).arg(release()).arg(&copy));
    std::fs::create_dir(copy.join("signatures")).unwrap();
    std::fs::write(copy.join("signatures/me.manifest.sigstore.json"), "{}").unwrap();
    std::fs::write(copy.join("id.pem"), "PRIVATE").unwrap();
    let store = format!("file://{}/store", dir.display());
    let tag = format!("{store}#0.1.0");
    let mut command = with_cache(dir, &["release", "publish", "--format", "json"]);
    let output = expect_code(0, command.arg(&copy).arg(&tag));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not published: id.pem"));
    let pinned = json(&output)["reference"].as_str().unwrap().to_owned();

    let out = dir.join("out");
    let mut command = with_cache(dir, &["release", "pull", "--format", "json", &tag]);
    let pulled = json(&expect_code(0, command.arg(&out)));
    assert_eq!(pulled["reference"], pinned.as_str());
    for name in files().chain(["signatures/me.manifest.sigstore.json"]) {
        let same =
            std::fs::read(copy.join(name)).unwrap() == std::fs::read(out.join(name)).unwrap();
        assert!(same, "{name} differs");
    }
    assert!(!out.join("id.pem").exists());

    let key = key_pair(dir, "key").with_extension("pub");
    let digest = pinned.rsplit_once('@').unwrap().1;
    let by_digest = format!("{store}#@{digest}");
    for reference in [&tag, &by_digest] {
        let mut command = with_cache(dir, &["run", "--platform", "simulated", "--plan", reference]);
        let output = expect_code(0, command.arg("--ssh-key").arg(&key));
        let plan = String::from_utf8(output.stdout).unwrap();
        assert!(plan.contains(&format!("releases/{}", digest.replace(':', "-"))), "{plan}");
    }
    // What is in the cache and named by digest needs no store.
    std::fs::rename(dir.join("store"), dir.join("gone")).unwrap();
    let mut command = with_cache(dir, &["run", "--platform", "simulated", "--plan", &by_digest]);
    let _ = expect_code(0, command.arg("--ssh-key").arg(&key));
    let mut command = with_cache(dir, &["run", "--platform", "simulated", "--plan", &tag]);
    let output = expect_code(1, command.arg("--ssh-key").arg(&key));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no 0.1.0"));
    // `verify` has read the release before it finds that nobody answers.
    let mut command =
        with_cache(dir, &["verify", "127.0.0.1:1", "--offline", "--release", &by_digest]);
    let output = expect_code(1, &mut command);
    assert!(String::from_utf8_lossy(&output.stderr).contains("127.0.0.1:1"));
}

#[test]
fn a_store_that_was_changed_is_refused() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let dir = dir.path();
    let reference = format!("file://{}/store#x", dir.display());
    let _ = expect_code(0, with_cache(dir, &["release", "publish"]).arg(release()).arg(&reference));
    let blobs = std::fs::read_dir(dir.join("store/blobs/sha256")).unwrap();
    let largest =
        blobs.map(|entry| entry.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let path = largest.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output =
        expect_code(1, with_cache(dir, &["release", "pull", &reference]).arg(dir.join("out")));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("is damaged or lies"), "{said}");
    assert!(!dir.join("out").exists());
}

/// The page of two releases, as a browser that runs no script would see it.
#[test]
fn releases_are_rendered_as_a_site() {
    let dir = tempfile::tempdir().unwrap();
    let site = dir.path().join("site");
    let mut command = casemate(["release", "page"]);
    let _ = expect_code(0, command.arg(release()).arg(release()).arg("--output").arg(&site));
    let list = std::fs::read_to_string(site.join("index.html")).unwrap();
    let mut pages = 0;
    for entry in std::fs::read_dir(&site).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.contains("default-src &#39;none&#39;"), "{text}");
        for word in ["<script", "http://", "https://", "<img", "<link"] {
            let inside = text.split("<body>").nth(1).unwrap();
            assert!(!inside.contains(word), "{word}");
        }
        pages += 1;
    }
    assert_eq!(pages, 3);
    assert!(list.contains("SIMULATED"));
}

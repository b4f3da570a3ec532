//! docker-registry and oras: a registry without the referrers API, and another client's eyes.

use casemate_registry::reference::Selector;
use casemate_registry::store::{Expected, Options};

use super::programs::{oras, peer, registry};
use super::{exercise, opened, published, pulled, read, tag, version_1};

#[test]
fn a_registry_keeps_releases() {
    let Some(server) = registry(false) else { return };
    let store =
        opened(&format!("oci://127.0.0.1:{}/images/sandbox", server.port), &Options::default());
    exercise(store.as_ref());
}

/// oras sees files, chunks and signatures under the digests that we say.
#[test]
fn oras_pulls_what_was_published() {
    let (Some(server), Some(client)) = (registry(false), peer("oras.sh")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = format!("127.0.0.1:{}/sandbox", server.port);
    let store = opened(&format!("oci://{place}"), &Options::default());
    let one = dir.path().join("one");
    version_1(&one);
    let done = published(store.as_ref(), &one, "v1", Expected::Any).unwrap();

    let out = dir.path().join("oras");
    std::fs::create_dir(&out).unwrap();
    oras(&client, &out, ["pull", "--plain-http", &format!("{place}:v1")]);
    let (theirs, ours) = (read(&out), read(&one));
    for name in ["manifest.json", "vmlinuz"] {
        assert_eq!(theirs[name], ours[name], "{name}");
    }
    // Its chunks carry their offsets, so that anyone can put a file together.
    let mut disk = vec![0; ours["root.img"].len()];
    let chunks = theirs
        .iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix("root.img.chunks/")?, bytes)));
    for (offset, bytes) in chunks {
        let at = usize::from_str_radix(offset, 16).unwrap();
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }
    assert!(disk == ours["root.img"]);

    let pinned = format!("{place}@sha256:{}", done.manifest);
    let seen = oras(&client, &out, ["discover", "--plain-http", "-o", "json", &pinned]);
    let seen: serde_json::Value = serde_json::from_str(&seen).unwrap();
    let signature = &seen["manifests"][0];
    assert_eq!(signature["artifactType"], "application/vnd.dev.sigstore.bundle.v0.3+json");
}

/// What oras copies into a directory is a store of ours, and back.
#[test]
fn oras_copies_releases_to_and_from_directories() {
    let (Some(server), Some(client)) = (registry(false), peer("oras.sh")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = format!("127.0.0.1:{}", server.port);
    let options = Options::default();
    let store = opened(&format!("oci://{place}/from"), &options);
    let one = dir.path().join("one");
    version_1(&one);
    let done = published(store.as_ref(), &one, "v1", Expected::Any).unwrap();
    oras(
        &client,
        dir.path(),
        [
            "copy",
            "--recursive",
            "--from-plain-http",
            "--to-oci-layout",
            &format!("{place}/from:v1"),
            "layout:v1",
        ],
    );
    let layout = opened(&format!("file://{}/layout", dir.path().display()), &options);
    let out = dir.path().join("out");
    let selector = Selector::Both(tag("v1"), done.manifest);
    assert_eq!(pulled(layout.as_ref(), &selector, &out).unwrap().signatures, 1);
    assert_eq!(read(&out), read(&one));

    let ours = opened(&format!("file://{}/ours", dir.path().display()), &options);
    published(ours.as_ref(), &one, "v1", Expected::Any).unwrap();
    oras(
        &client,
        dir.path(),
        [
            "copy",
            "--recursive",
            "--from-oci-layout",
            "--to-plain-http",
            "ours:v1",
            &format!("{place}/to:v1"),
        ],
    );
    let copied = opened(&format!("oci://{place}/to"), &options);
    assert_eq!(pulled(copied.as_ref(), &selector, &out).unwrap().signatures, 1);
}

/// What somebody else pushed under the same name is named for what it is.
#[test]
fn another_artifact_is_refused() {
    let (Some(server), Some(client)) = (registry(false), peer("oras.sh")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let place = format!("127.0.0.1:{}/other", server.port);
    std::fs::write(dir.path().join("a"), "a").unwrap();
    oras(&client, dir.path(), ["push", "--plain-http", &format!("{place}:v1"), "a:text/plain"]);
    let store = opened(&format!("oci://{place}"), &Options::default());
    let error = pulled(store.as_ref(), &Selector::Tag(tag("v1")), &dir.path().join("out"));
    let error = chain(&error.unwrap_err());
    assert!(error.contains("expected one of casemate"), "{error}");
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

//! Object stores: moto's S3 and Azurite's blobs.

use std::io::Read as _;

use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::publish::PublishError;
use casemate_registry::artifact::pull::PullError;
use casemate_registry::reference::Selector;
use casemate_registry::store::{Expected, ObjectSettings, Options, StoreError};

use super::azurite::{CLOSED, OPEN, azurite};
use super::oci::chain;
use super::programs::{self, SECRET};
use super::{exercise, found, opened, published, pulled, read, tag, version_1, write};

/// Options to ask with, and the beginning of a reference that only one test uses.
pub(crate) fn places(test: &str) -> Vec<(String, Options)> {
    let s3 = programs::s3().map(|objects| (format!("s3://bucket/{test}"), with(objects)));
    let azure = azurite().map(|server| (format!("az://{CLOSED}/{test}"), with(server.by_key())));
    s3.into_iter().chain(azure).collect()
}

fn with(objects: ObjectSettings) -> Options {
    Options { objects, ..Options::default() }
}

#[test]
fn an_object_store_keeps_releases() {
    for (place, options) in places("some/prefix") {
        exercise(opened(&place, &options).as_ref());
    }
}

#[test]
fn a_bucket_keeps_releases_without_a_prefix() {
    if let Some(objects) = programs::s3() {
        exercise(opened("s3://bucket", &with(objects)).as_ref());
    }
    if let Some(server) = azurite() {
        exercise(opened(&format!("az://{CLOSED}"), &with(server.by_key())).as_ref());
    }
}

#[test]
fn a_bucket_that_is_not_there_has_no_release() {
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    for (place, options) in places("") {
        let (scheme, _) = place.split_once("://").unwrap();
        let store = opened(&format!("{scheme}://no-such-bucket"), &options);
        let error = found(store.as_ref(), &Selector::Tag(tag("a")));
        assert!(matches!(error, Err(PullError::None { .. })), "{error:?}");
        let error = published(store.as_ref(), dir.path(), "a", Expected::Any).unwrap_err();
        assert!(matches!(error, PublishError::Store(StoreError::Transport { .. })), "{error}");
        assert!(!chain(&error).contains(SECRET), "{error}");
    }
}

/// What broke off is asked for from where it ended.
#[test]
fn a_blob_is_read_from_anywhere() {
    let bytes = super::noise(7, 100_000);
    let blob = Blob::of(&bytes);
    for (place, options) in places("ranges") {
        let store = opened(&place, &options);
        assert!(!store.has(&blob).unwrap(), "{place}");
        store.put(&blob, &bytes).unwrap();
        // It is there now, and stays.
        store.put(&blob, &bytes).unwrap();
        assert!(store.has(&blob).unwrap(), "{place}");
        for from in [0, 1, 65_536, bytes.len() - 1] {
            let mut rest = Vec::new();
            store.read(&blob, from as u64).unwrap().read_to_end(&mut rest).unwrap();
            assert!(rest == bytes[from..], "{place} from {from}");
        }
    }
}

/// Several publishers at once: every tag is there, and one alone moves the one that all want.
#[test]
fn publishers_do_not_lose_each_others_tags() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("manifest.json", b"{}")]);
    for (place, options) in places("race") {
        let tags: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
        let publish = |name: &str| {
            let store = opened(&place, &options);
            published(store.as_ref(), dir.path(), name, Expected::Absent)
        };
        let won: Vec<bool> = std::thread::scope(|scope| {
            let threads = tags.iter().map(|name| {
                scope.spawn(move || {
                    publish(name).unwrap();
                    publish("wanted").map(drop)
                })
            });
            let threads: Vec<_> = threads.collect();
            let one = |result: Result<(), PublishError>| match result {
                Ok(()) => true,
                Err(PublishError::Store(StoreError::Conflict { .. })) => false,
                Err(error) => panic!("{error}"),
            };
            threads.into_iter().map(|thread| one(thread.join().unwrap())).collect()
        });
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{place}: {won:?}");
        let store = opened(&place, &options);
        let found: Vec<String> = store.tags().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found[..8], tags, "{place}");
        assert_eq!(found[8..], ["wanted"], "{place}");
    }
}

/// A token says who asks as well as a key, and stands in no message, though it travels in addresses.
#[test]
fn a_token_is_enough_and_never_shown() {
    let Some(server) = azurite() else { return };
    let (objects, signature) = server.by_token();
    let options = with(objects);
    let store = opened(&format!("az://{CLOSED}/token"), &options);
    exercise(store.as_ref());
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    let missing = opened("az://no-such-container", &options);
    let error = published(missing.as_ref(), dir.path(), "a", Expected::Any).unwrap_err();
    let shown = format!("{options:?} {store:?} {missing:?} {error:?} {}", chain(&error));
    let decoded = signature.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=");
    assert_eq!(decoded.len(), 44);
    for secret in [signature, &decoded, "sig="] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Who is not known, or not well, is told where it is taken from who asks.
#[test]
fn who_may_not_ask_is_refused() {
    let Some(server) = azurite() else { return };
    let wrong = "aHVudGVyMmh1bnRlcjI=";
    let nobody = ("AZURE_SKIP_SIGNATURE", "true");
    let dir = tempfile::tempdir().unwrap();
    version_1(dir.path());
    for set in [("AZURE_STORAGE_ACCOUNT_KEY", wrong), nobody] {
        let store = opened(&format!("az://{CLOSED}/denied"), &with(server.settings(&[set])));
        let error = published(store.as_ref(), dir.path(), "a", Expected::Any).unwrap_err();
        let shown = format!("{store:?} {error:?} {}", chain(&error));
        assert!(shown.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{shown}");
        assert!(!shown.contains(wrong) && !shown.contains(SECRET), "{shown}");
    }

    // An open container is read by anyone, and written by the account alone.
    let known = opened(&format!("az://{OPEN}"), &with(server.by_key()));
    published(known.as_ref(), dir.path(), "a", Expected::Any).unwrap();
    let anyone = opened(&format!("az://{OPEN}"), &with(server.settings(&[nobody])));
    let (selector, out) = (Selector::Tag(tag("a")), dir.path().join("out"));
    pulled(anyone.as_ref(), &selector, &out).unwrap();
    let pulled = read(&out);
    assert!(pulled.contains_key("root.img"), "{:?}", pulled.keys());
    let error = published(anyone.as_ref(), dir.path(), "b", Expected::Any).unwrap_err();
    assert!(matches!(error, PublishError::Store(StoreError::Denied { .. })), "{error}");
}

//! How registries list what refers to a release, well and badly: every signature arrives, or an
//! error. And what a store may not make a reader keep.

use std::collections::BTreeMap;

use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::descriptor::{Descriptor, Kind};
use casemate_registry::artifact::manifest::{
    BUNDLE_TYPE, EMPTY, INDEX_TYPE, Manifest, ManifestBytes,
};
use casemate_registry::artifact::mirror::mirror;
use casemate_registry::artifact::pull::{PullError, Resolved, signatures};
use casemate_registry::store::{Options, Store};
use serde_json::{Value, json};

use crate::hostile::{Answer, Server, tight};
use crate::stores::{opened, tag};

/// A registry with a release of no files and its signatures.
struct Scene {
    server: Server,
    release: Resolved,
    referrers: Vec<ManifestBytes>,
}

impl Scene {
    /// With so many signatures, each of other bytes.
    fn new(count: usize) -> Self {
        let bodies: Vec<Vec<u8>> = (0..count).map(|number| vec![b'0'; number + 1]).collect();
        Self::with(&bodies)
    }

    fn with(bodies: &[Vec<u8>]) -> Self {
        let descriptor = Descriptor::new(Kind::Release, ("a", "1"), None, BTreeMap::new()).unwrap();
        let bytes = descriptor.to_bytes().unwrap();
        let manifest = Manifest::of_artifact(&descriptor, Blob::of(&bytes)).unwrap();
        let server = Server::start();
        for blob in bodies.iter().map(Vec::as_slice).chain([&bytes[..], EMPTY]) {
            server.answer(
                &format!("/v2/a/blobs/sha256:{}", Blob::of(blob).sha256),
                &[Answer::Bytes(blob.to_vec())],
            );
        }
        let signed = |(number, body): (usize, &Vec<u8>)| {
            let path = format!("signatures/{number}.sigstore.json");
            Manifest::of_signature(&path, Blob::of(body), &manifest.entry()).unwrap()
        };
        let referrers = bodies.iter().enumerate().map(signed).collect();
        let scene = Self { server, release: Resolved { manifest, descriptor }, referrers };
        scene.referrers.iter().for_each(|one| scene.put(one));
        scene
    }

    fn put(&self, manifest: &ManifestBytes) {
        let path = format!("/v2/a/manifests/sha256:{}", manifest.sha256());
        self.server.answer(&path, &[Answer::Bytes(manifest.bytes().to_vec())]);
    }

    fn api(&self) -> String {
        format!("/v2/a/referrers/sha256:{}", self.release.manifest.sha256())
    }

    /// The list under the tag that stands in for the API.
    fn listed_by_tag(&self) {
        let path = format!("/v2/a/manifests/sha256-{}", self.release.manifest.sha256());
        self.server.answer(&path, &[Answer::Bytes(index(&self.referrers))]);
    }

    fn store(&self) -> Box<dyn Store> {
        opened(&format!("oci://127.0.0.1:{}/a", self.server.port), &tight())
    }

    fn signatures(&self) -> Result<usize, PullError> {
        Ok(signatures(self.store().as_ref(), &self.release.manifest)?.len())
    }
}

fn index(referrers: &[ManifestBytes]) -> Vec<u8> {
    let entries: Vec<_> = referrers.iter().map(ManifestBytes::entry).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries });
    serde_json::to_vec(&index).unwrap()
}

fn typed(more: &str) -> String {
    format!("Content-Type: {INDEX_TYPE}{more}")
}

#[test]
fn a_list_in_pages_is_read_to_its_end() {
    let scene = Scene::new(3);
    let (api, port) = (scene.api(), scene.server.port);
    let page = |number: usize, next: Option<String>| {
        let link = next.map(|next| format!("\r\nLink: <{next}>; rel=\"next\"")).unwrap_or_default();
        // Some registries name the character set.
        let headers = typed(&format!("; charset=utf-8{link}"));
        [Answer::With(headers, index(&scene.referrers[number..=number]))]
    };
    let absolute = format!("http://127.0.0.1:{port}{api}?last=2");
    scene.server.answer(&api, &page(0, Some("?last=1".to_owned())));
    scene.server.answer(&format!("{api}?last=1"), &page(1, Some(absolute)));
    scene.server.answer(&format!("{api}?last=2"), &page(2, None));
    assert_eq!(scene.signatures().unwrap(), 3);

    // A page that cannot be had is an error, not the end.
    let elsewhere = Server::start();
    for next in [
        format!("http://127.0.0.1:{}{api}?last=2", elsewhere.port),
        format!("{api}?last=none"),
        api.clone(),
    ] {
        scene.server.answer(&format!("{api}?last=1"), &page(1, Some(next.clone())));
        let error = scene.signatures().unwrap_err();
        assert!(matches!(error, PullError::Store(_)), "{next}: {error}");
    }
    assert!(elsewhere.asked().is_empty());
}

#[test]
fn tags_in_pages_are_read_to_their_end() {
    let scene = Scene::new(0);
    let page = |tags: &[&str], next: &str| {
        let headers = format!("Link: <{next}>; rel=\"next\"");
        [Answer::With(headers, serde_json::to_vec(&json!({ "tags": tags })).unwrap())]
    };
    let own = format!("http://127.0.0.1:{}/v2/a/tags/list?last=x", scene.server.port);
    scene.server.answer("/v2/a/tags/list?n=1000", &page(&["x"], &own));
    scene.server.answer("/v2/a/tags/list?last=x", &[Answer::Bytes(br#"{"tags":["y"]}"#.to_vec())]);
    assert_eq!(scene.store().tags().unwrap(), [tag("x"), tag("y")]);
    scene.server.answer("/v2/a/tags/list?n=1000", &page(&["x"], "https://other.invalid/"));
    assert!(scene.store().tags().is_err());
}

#[test]
fn a_registry_without_the_api_has_its_list_under_a_tag() {
    let page = b"<html></html>".to_vec();
    for answer in [
        Answer::Status(404, ""),
        Answer::Status(405, ""),
        Answer::Status(501, ""),
        Answer::With("Content-Type: text/html; charset=utf-8".to_owned(), page),
        Answer::Redirect("/webui/1".to_owned()),
    ] {
        let scene = Scene::new(1);
        scene.listed_by_tag();
        scene.server.answer(&scene.api(), &[answer]);
        scene.server.answer("/webui/1", &[Answer::Status(429, "slow down")]);
        assert_eq!(scene.signatures().unwrap(), 1);
    }
    // An answer that is no list says nothing about signatures.
    for answer in [
        Answer::Status(403, ""),
        Answer::Status(409, ""),
        Answer::With("Content-Type: application/json".to_owned(), b"{}".to_vec()),
        Answer::With(typed(""), b"<html>".to_vec()),
    ] {
        let scene = Scene::new(1);
        scene.listed_by_tag();
        scene.server.answer(&scene.api(), &[answer]);
        assert!(matches!(scene.signatures().unwrap_err(), PullError::Store(_)));
    }
}

#[test]
fn a_tag_that_is_refused_is_looked_for_in_the_list_of_tags() {
    let scene = Scene::new(0);
    let list = format!("sha256-{}", scene.release.manifest.sha256());
    scene.server.answer(&format!("/v2/a/manifests/{list}"), &[Answer::Status(403, "")]);
    scene.server.answer("/v2/a/tags/list?n=1000", &[Answer::Bytes(br#"{"tags":["x"]}"#.to_vec())]);
    assert_eq!(scene.signatures().unwrap(), 0);
    let tags = serde_json::to_vec(&json!({ "tags": [list] })).unwrap();
    scene.server.answer("/v2/a/tags/list?n=1000", &[Answer::Bytes(tags)]);
    assert!(scene.signatures().is_err());
}

#[test]
fn a_mirror_has_what_the_list_names_or_fails() {
    let dir = tempfile::tempdir().unwrap();
    let to = opened(&format!("file://{}/to", dir.path().display()), &Options::default());
    let scene = Scene::new(2);
    scene.server.answer(&scene.api(), &[Answer::With(typed(""), index(&scene.referrers))]);
    let copy = || {
        let from = scene.store();
        let artifact = (from.as_ref(), &scene.release);
        mirror(
            artifact,
            to.as_ref(),
            Some((&tag("x"), casemate_registry::store::Expected::Any)),
            1,
            &|_| (),
        )
    };
    let gone = format!("/v2/a/manifests/sha256:{}", scene.referrers[1].sha256());
    scene.server.answer(&gone, &[Answer::Status(404, "")]);
    let error = copy().unwrap_err().to_string();
    assert!(error.contains(&scene.referrers[1].sha256().to_string()), "{error}");
    assert!(scene.signatures().is_err());
    assert!(to.tags().unwrap().is_empty());
    scene.put(&scene.referrers[1]);
    assert_eq!(copy().unwrap().referrers, 2);
    assert_eq!(signatures(to.as_ref(), &scene.release.manifest).unwrap().len(), 2);
}

/// Refused before more is read than a release's signatures may have.
#[test]
fn a_store_does_not_fill_the_readers_memory() {
    let body = vec![b'x'; 4 << 20];
    let scene = Scene::with(&vec![body; 17]);
    scene.server.answer(&scene.api(), &[Answer::With(typed(""), index(&scene.referrers))]);
    let error = scene.signatures().unwrap_err().to_string();
    assert!(error.contains("more than 64 MiB together"), "{error}");

    let scene = Scene::new(257);
    scene.server.answer(&scene.api(), &[Answer::With(typed(""), index(&scene.referrers))]);
    let error = scene.signatures().unwrap_err().to_string();
    assert!(error.contains("257 are listed, at most 256"), "{error}");

    // One manifest names one signature.
    let scene = Scene::new(1);
    let mut manifest: Value = serde_json::from_slice(scene.referrers[0].bytes()).unwrap();
    let layer = json!({ "mediaType": BUNDLE_TYPE, "digest": format!("sha256:{}", Sha256Hash::of(b"0")), "size": 1 });
    manifest["layers"] = json!(vec![layer; 16_000]);
    let many = ManifestBytes::new(serde_json::to_vec(&manifest).unwrap());
    scene.put(&many);
    scene.server.answer(&scene.api(), &[Answer::With(typed(""), index(&[many]))]);
    let error = scene.signatures().unwrap_err().to_string();
    assert!(error.contains("has 16000 layers, expected one for each signature"), "{error}");
    let blob = format!("/v2/a/blobs/sha256:{}", Sha256Hash::of(b"0"));
    assert!(scene.server.asked().iter().all(|(path, ..)| *path != blob));
}

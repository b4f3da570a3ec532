//! Every kind of store, held by a real program: what is published is what is pulled, a new version
//! moves what changed, and other clients see the same.

pub(crate) mod azurite;
mod credentials;
pub(crate) mod objects;
mod oci;
pub(crate) mod programs;
mod web;

use std::collections::BTreeMap;
use std::path::Path;

use casemate_registry::artifact::chunk::Sizes;
use casemate_registry::artifact::descriptor::Kind;
use casemate_registry::artifact::local::LocalChunks;
use casemate_registry::artifact::mirror::mirror;
use casemate_registry::artifact::publish::{PublishError, PublishOptions, Published, publish};
use casemate_registry::artifact::pull::{PullError, PullOptions, Pulled, Resolved, pull, resolve};
use casemate_registry::artifact::source::{Source, SourceFile};
use casemate_registry::reference::{Reference, Selector, Tag};
use casemate_registry::store::{Expected, Options, Store, StoreError, open};

/// Small enough for many chunks in little time.
pub(crate) const SIZES: Sizes = Sizes::around(16 * 1024);

/// Bytes that look random and follow from `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut step).flatten().take(len).collect()
}

/// Writes files below a directory.
pub(crate) fn write(dir: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Every file below a directory.
pub(crate) fn read(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Files of a release as a source, with a signature.
pub(crate) fn source(dir: &Path, version: &str) -> Source {
    let all = read(dir);
    let files = all
        .keys()
        .filter(|name| !name.starts_with("signatures/"))
        .map(|name| (name.clone(), SourceFile { file: dir.join(name), expected: None }));
    let signatures = all.iter().filter(|(name, _)| name.starts_with("signatures/"));
    Source {
        kind: Kind::Release,
        name: "sandbox".to_owned(),
        version: version.to_owned(),
        platform: None,
        files: files.collect(),
        signatures: signatures.map(|(name, bytes)| (name.clone(), bytes.clone())).collect(),
        left_out: Vec::new(),
    }
}

/// Version 1, with a disk of 2 MB, a run of zeros in it, and a file that is empty.
pub(crate) fn version_1(dir: &Path) {
    let disk = [noise(1, 900_000), vec![0; 1 << 20], noise(2, 1_100_000)].concat();
    write(
        dir,
        &[
            ("manifest.json", b"{}"),
            ("root.img", &disk),
            ("vmlinuz", &noise(3, 9000)),
            ("empty", b""),
            ("signatures/a.sigstore.json", b"{\"one\": 1}"),
        ],
    );
}

/// Version 2: the disk gained bytes in the middle.
pub(crate) fn version_2(dir: &Path) {
    version_1(dir);
    let mut disk = std::fs::read(dir.join("root.img")).unwrap();
    disk.splice(300_000..300_000, noise(9, 7000));
    std::fs::write(dir.join("root.img"), disk).unwrap();
}

pub(crate) fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

pub(crate) fn opened(reference: &str, options: &Options) -> Box<dyn Store> {
    open(&reference.parse::<Reference>().unwrap().place, options).unwrap()
}

pub(crate) fn published(
    store: &dyn Store,
    dir: &Path,
    to: &str,
    expected: Expected,
) -> Result<Published, PublishError> {
    let options = PublishOptions { sizes: Some(SIZES), expected, ..PublishOptions::default() };
    publish(&source(dir, "1"), store, Some(&tag(to)), &options, &|_| ())
}

pub(crate) fn found(store: &dyn Store, selector: &Selector) -> Result<Resolved, PullError> {
    resolve(store, selector, Kind::Release)
}

pub(crate) fn pulled(
    store: &dyn Store,
    selector: &Selector,
    out: &Path,
) -> Result<Pulled, PullError> {
    let resolved = found(store, selector)?;
    pull(store, &resolved, out, &LocalChunks::default(), &PullOptions::default(), &|_| ())
}

/// What every store must do.
fn exercise(store: &dyn Store) -> Published {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    version_1(&one);
    version_2(&two);
    let latest = Selector::Tag(tag("latest"));
    let error = found(store, &latest).unwrap_err();
    assert!(matches!(error, PullError::None { .. }), "{error}");

    let first = published(store, &one, "latest", Expected::Absent).unwrap();
    assert!(first.sent > 1_900_000 && first.had == 0, "{first:?}");
    let out = dir.path().join("out");
    let got = pulled(store, &latest, &out).unwrap();
    assert_eq!((got.fetched, got.signatures), (first.sent, 1));
    assert_eq!(read(&out), read(&one));

    // A tag that somebody else moved is not moved back.
    let error = published(store, &two, "latest", Expected::Absent).unwrap_err();
    let PublishError::Store(StoreError::Conflict { found: now, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(now, Some(first.manifest));

    // A new version moves what changed, either way.
    let second = published(store, &two, "latest", Expected::Manifest(first.manifest)).unwrap();
    assert!(second.had > 1_700_000, "{second:?}");
    let mut local = LocalChunks::default();
    local.add_artifact(&out, &first.descriptor);
    let resolved = found(store, &latest).unwrap();
    let options = PullOptions::default();
    let got = pull(store, &resolved, &out, &local, &options, &|_| ()).unwrap();
    assert!(got.fetched < 300_000 && got.reused > 1_700_000, "{got:?}");
    assert_eq!(read(&out), read(&two));

    // The earlier one is still there by its digest; a tag can be held to one.
    let pinned = Selector::Digest(first.manifest);
    pulled(store, &pinned, &out).unwrap();
    assert_eq!(read(&out), read(&one));
    let moved = Selector::Both(tag("latest"), first.manifest);
    let error = found(store, &moved).unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::Moved { .. })), "{error}");

    // Publishing the same again sends nothing; a second signature is added.
    write(&two, &[("signatures/b.sigstore.json", b"{\"two\": 2}")]);
    let again = published(store, &two, "v2", Expected::Any).unwrap();
    assert_eq!((again.manifest, again.sent), (second.manifest, 0));
    pulled(store, &latest, &out).unwrap();
    assert_eq!(read(&out), read(&two));
    assert_eq!(store.tags().unwrap(), [tag("latest"), tag("v2")]);
    again
}

#[test]
fn a_directory_keeps_releases() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&format!("file://{}/deep/store", dir.path().display()), &Options::default());
    exercise(store.as_ref());
    let left = read(&dir.path().join("deep/store"));
    assert!(left.keys().all(|name| !name.contains("tmp")), "{:?}", left.keys());
}

#[test]
fn a_mirror_has_the_same_digests() {
    let Some(server) = programs::registry(false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut places = vec![format!("file://{}/store", dir.path().display())];
    places.push(format!("oci://127.0.0.1:{}/a/b", server.port));
    places.push(format!("file://{}/back", dir.path().display()));
    let mut places: Vec<_> = places.into_iter().map(|place| (place, Options::default())).collect();
    places.splice(1..1, objects::places("mirror"));
    let stores: Vec<_> = places.iter().map(|(place, options)| opened(place, options)).collect();
    let one = dir.path().join("one");
    version_1(&one);
    let original = published(stores[0].as_ref(), &one, "x", Expected::Any).unwrap();
    let pinned = Selector::Digest(original.manifest);
    for pair in stores.windows(2) {
        let [from, to] = pair else { unreachable!() };
        let artifact = found(from.as_ref(), &pinned).unwrap();
        let tag = Some((&tag("y"), Expected::Absent));
        let done = mirror((from.as_ref(), &artifact), to.as_ref(), tag, 4, &|_| ()).unwrap();
        assert!(done.sent > 1_900_000 && done.had == 0 && done.referrers == 1, "{done:?}");
        let tag = Some((&self::tag("y"), Expected::Manifest(original.manifest)));
        let again = mirror((from.as_ref(), &artifact), to.as_ref(), tag, 4, &|_| ()).unwrap();
        assert_eq!(again.sent, 0);
    }
    let out = dir.path().join("out");
    let back = stores.last().unwrap();
    pulled(back.as_ref(), &Selector::Both(tag("y"), original.manifest), &out).unwrap();
    assert_eq!(read(&out), read(&one));
}

#[test]
fn what_is_no_release_is_not_replaced_and_what_is_too_long_not_pulled() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&format!("file://{}/store", dir.path().display()), &Options::default());
    let (one, out) = (dir.path().join("one"), dir.path().join("out"));
    version_1(&one);
    published(store.as_ref(), &one, "x", Expected::Any).unwrap();
    write(&out, &[("precious", b"data")]);
    let selector = Selector::Tag(tag("x"));
    let error = pulled(store.as_ref(), &selector, &out).unwrap_err();
    assert!(matches!(error, PullError::Occupied { .. }), "{error}");
    let resolved = found(store.as_ref(), &selector).unwrap();
    let options = PullOptions { max_size: 1 << 20, ..PullOptions::default() };
    let to = dir.path().join("other");
    let local = LocalChunks::default();
    let error = pull(store.as_ref(), &resolved, &to, &local, &options, &|_| ()).unwrap_err();
    assert!(error.to_string().contains("--max-size"), "{error}");
    assert!(!to.exists());
    let wrong = resolve(store.as_ref(), &selector, Kind::Inputs).unwrap_err();
    assert!(matches!(wrong, PullError::Kind { .. }), "{wrong}");
}

#[test]
fn a_changed_file_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&format!("file://{}/store", dir.path().display()), &Options::default());
    let one = dir.path().join("one");
    version_1(&one);
    let mut source = source(&one, "1");
    let file = source.files.get_mut("vmlinuz").unwrap();
    file.expected = Some(casemate_measurements::hash::Sha256Hash::of(b"other"));
    let options = PublishOptions::default();
    let error = publish(&source, store.as_ref(), Some(&tag("x")), &options, &|_| ()).unwrap_err();
    assert!(matches!(error, PublishError::Changed { .. }), "{error}");
    assert!(store.tags().unwrap().is_empty());
}

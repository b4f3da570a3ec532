//! Channels: an index in a store, and from it to the release that is current; and what a store
//! that lies can do about either.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::slice;

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::index::{self, IndexArtifactError};
use casemate_registry::artifact::manifest::{Manifest, ManifestBytes, ManifestError};
use casemate_registry::artifact::publish::{PublishOptions, digest, publish};
use casemate_registry::artifact::pull::{PullError, Resolved};
use casemate_registry::artifact::source::Source;
use casemate_registry::cache::{FetchOptions, ReleaseCache};
use casemate_registry::channel::{self, ChannelError};
use casemate_registry::index::{
    Change, Clock, Entry, Index, IndexFile, Memory, MemoryError, Revocation, StateError, Time,
    TrustError,
};
use casemate_registry::reference::{Channel, Reference, Selector, Tag};
use casemate_registry::release::{Depth, Release};
use casemate_registry::store::{Expected, Options, Store, StoreError};
use casemate_registry::verify::Policy;
use serde_json::json;

use crate::fixture::{self, Scene};
use crate::stores::objects::places;
use crate::stores::programs::{oras, peer, registry};
use crate::stores::{opened, read};

const NOW: u64 = 1_790_000_000;
const DAY: u64 = 86_400;
const CLOCK: Clock = Clock(Time(NOW + DAY));

/// Releases and a store, in which a channel is followed.
struct Shop {
    scene: Scene,
    place: String,
    store: Box<dyn Store>,
    policy: Policy,
}

impl Shop {
    fn new() -> Self {
        let scene = Scene::new();
        let place = format!("file://{}", scene.path("store").display());
        Self::with(scene, place, &Options::default())
    }

    fn with(scene: Scene, place: String, options: &Options) -> Self {
        scene.signer("a");
        let store = opened(&place, options);
        let policy = scene.policy(1, &["a"], "index = \"casemate\"");
        Self { scene, place, store, policy }
    }

    fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Publishes a release, signed, by its digest alone.
    fn release(&self, version: &str) -> Entry {
        let dir = self.scene.path(version);
        fixture::write(&dir, version);
        let release = Release::open(&dir).unwrap();
        release.sign(&self.scene.signer("a"), "urn:a").unwrap();
        self.publish(&Source::of_release(&dir).unwrap(), &release)
    }

    fn publish(&self, source: &Source, release: &Release) -> Entry {
        let done = publish(source, self.store(), None, &PublishOptions::default(), &|_| ());
        let digest = done.unwrap().manifest;
        Entry {
            name: source.name.clone(),
            version: source.version.clone(),
            platform: Platform::Snp,
            manifest_sha256: release.manifest_sha256(),
            artifact_sha256: Some(digest),
            channels: BTreeSet::from(["stable".to_owned()]),
        }
    }

    fn signed(&self, index: &Index) -> IndexFile {
        let mut file = IndexFile::new(index.clone()).unwrap();
        file.sign(&self.scene.signer("a")).unwrap();
        file
    }

    fn put(&self, index: &Index) -> Result<ManifestBytes, IndexArtifactError> {
        let file = self.signed(index);
        index::publish(self.store(), &file, &tag(), Expected::Any, CLOCK)
    }

    /// Points the tag of the index wherever a store likes.
    fn force(&self, manifest: &ManifestBytes, blobs: &[&[u8]]) {
        for bytes in blobs {
            self.store().put(&Blob::of(bytes), bytes).unwrap();
        }
        self.store().commit(manifest, &[], Some((&tag(), Expected::Any))).unwrap();
    }

    fn force_index(&self, index: &Index) {
        let bytes = self.signed(index).to_bytes().unwrap();
        self.force(&Manifest::of_index(Blob::of(&bytes)).unwrap(), &[&bytes, b"{}"]);
    }

    fn channel(&self, query: &str) -> Channel {
        format!("{}?{query}", self.place).parse().unwrap()
    }

    fn memory(&self) -> Memory {
        Memory::new(&self.scene.path("state"))
    }

    /// Takes the index as a reader with a memory does.
    fn trusted(&self, clock: Clock) -> Result<Index, TrustError> {
        let file = index::fetch(self.store(), &tag()).unwrap();
        file.trust(&self.policy, &self.memory(), clock)?;
        Ok(file.index().clone())
    }

    fn follow(&self, query: &str) -> Result<(Entry, Resolved), ChannelError> {
        let index = self.trusted(CLOCK).unwrap();
        channel::follow(self.store(), &index, &self.channel(query), Platform::Snp)
    }

    /// Follows an index that says whatever its signers like.
    fn follow_in(&self, index: &Index, query: &str) -> ChannelError {
        index.check().unwrap();
        let channel = self.channel(query);
        channel::follow(self.store(), index, &channel, Platform::Snp).unwrap_err()
    }
}

fn tag() -> Tag {
    Channel::index_tag()
}

fn first(entries: &[Entry]) -> Index {
    let changes = entries.iter().cloned().map(Change::Add);
    Index::empty("casemate").next(changes, Time(NOW), 30 * DAY).unwrap()
}

fn next(index: &Index, changes: Vec<Change>) -> Index {
    index.next(changes, Time(index.issued.0 + 60), 30 * DAY).unwrap()
}

/// From an index to a release that is here, and to the next one.
fn exercise(shop: &Shop) {
    let one = shop.release("0.1.0");
    let dir = shop.scene.path("0.1.0");
    let source = Source::of_release(&dir).unwrap();
    assert_eq!(digest(&source, &|_| ()).unwrap(), one.artifact_sha256.unwrap());
    let index = first(slice::from_ref(&one));
    let put = shop.put(&index).unwrap();
    // The same again is nothing new.
    assert_eq!(shop.put(&index).unwrap(), put);

    let (entry, found) = shop.follow("channel=stable").unwrap();
    assert_eq!((&entry, found.manifest.sha256()), (&one, &one.artifact_sha256.unwrap()));
    let seen = channel::preview(shop.store(), &found).unwrap();
    let release = Release::open(seen.path()).unwrap();
    assert!(release.verify(&shop.policy, Depth::Manifest).unwrap().is_trusted());
    assert!(!seen.path().join("root.img").exists());
    entry.check(*found.manifest.sha256(), &release).unwrap();
    let cache = ReleaseCache::new(&shop.scene.path("cache"));
    let options = FetchOptions::default();
    let kept = cache.keep(shop.store(), &found, &options, &|_| (), &|_| ()).unwrap();
    assert_eq!(read(&kept.path), read(&dir));

    let two = shop.release("0.2.0");
    shop.put(&next(&index, vec![Change::Add(two.clone())])).unwrap();
    assert_eq!(shop.follow("channel=stable&image=cpu-sandbox").unwrap().0, two);
    assert!(shop.store().tags().unwrap().contains(&tag()));
}

#[test]
fn a_channel_leads_to_what_is_current() {
    exercise(&Shop::new());
}

#[test]
fn an_object_store_has_indexes() {
    for (place, options) in places("channel") {
        exercise(&Shop::with(Scene::new(), place, &options));
    }
}

#[test]
fn a_registry_has_indexes_that_oras_reads() {
    let Some(server) = registry(false) else { return };
    let place = format!("127.0.0.1:{}/images/sandbox", server.port);
    let shop = Shop::with(Scene::new(), format!("oci://{place}"), &Options::default());
    exercise(&shop);
    let Some(client) = peer("oras.sh") else { return };
    let out = shop.scene.path("oras");
    std::fs::create_dir(&out).unwrap();
    oras(&client, &out, ["pull", "--plain-http", &format!("{place}:index")]);
    let pulled = IndexFile::read(&out.join("index.json")).unwrap();
    assert_eq!(pulled.index().version, 2);
    let manifest =
        oras(&client, &out, ["manifest", "fetch", "--plain-http", &format!("{place}:index")]);
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["artifactType"], "application/vnd.casemate.index.v1");
}

#[test]
fn an_index_is_replaced_only_by_what_its_readers_take() {
    let shop = Shop::new();
    let one = first(&[shop.release("0.1.0")]);
    let two = next(&one, vec![Change::Add(shop.release("0.2.0"))]);
    let put = shop.put(&two).unwrap();
    let behind = |index: &Index| match shop.put(index).unwrap_err() {
        IndexArtifactError::Behind { source, .. } => *source,
        error => panic!("{error}"),
    };
    assert!(matches!(behind(&one), StateError::Rollback { found: 1, seen: 2, .. }));
    let fork = next(&one, vec![]);
    assert!(matches!(behind(&fork), StateError::Fork { version: 2, .. }));
    let late = two.next([], Time(NOW - 9 * DAY), DAY).unwrap();
    assert!(matches!(behind(&late), StateError::Frozen { version: 3, .. }));

    // A tag that somebody else moved is not moved back.
    let three = shop.signed(&next(&two, vec![]));
    let publish = |expected| index::publish(shop.store(), &three, &tag(), expected, CLOCK);
    for stale in [Expected::Absent, Expected::Manifest(Sha256Hash::of(b"before"))] {
        let error = publish(stale).unwrap_err();
        let IndexArtifactError::Store(StoreError::Conflict { found, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!(found, Some(*put.sha256()));
    }
    publish(Expected::Manifest(*put.sha256())).unwrap();

    // Two who countersign the same version lose nothing of each other.
    let mut other = IndexFile::new(three.index().clone()).unwrap();
    other.sign(&shop.scene.signer("b")).unwrap();
    index::publish(shop.store(), &other, &tag(), Expected::Any, CLOCK).unwrap();
    let both = shop.scene.policy(2, &["a", "b"], "index = \"casemate\"");
    let file = index::fetch(shop.store(), &tag()).unwrap();
    file.trust(&both, &shop.memory(), CLOCK).unwrap();
}

#[test]
fn a_store_that_hands_out_another_index_is_refused() {
    let shop = Shop::new();
    let one = first(&[shop.release("0.1.0")]);
    let two = next(&one, vec![Change::Add(shop.release("0.2.0"))]);
    shop.put(&two).unwrap();
    assert_eq!(shop.trusted(CLOCK).unwrap(), two);
    let state = |index: &Index, clock| {
        shop.force_index(index);
        match shop.trusted(clock).unwrap_err() {
            TrustError::Memory(MemoryError::State(error)) => error,
            error => panic!("{error}"),
        }
    };
    assert!(matches!(state(&one, CLOCK), StateError::Rollback { found: 1, seen: 2, .. }));
    assert!(matches!(state(&next(&one, vec![]), CLOCK), StateError::Fork { version: 2, .. }));
    let later = Clock(Time(NOW + 60 * DAY));
    assert!(matches!(state(&two, later), StateError::Frozen { version: 2, .. }));
    let mut other = two.clone();
    other.name = "other".to_owned();
    shop.force_index(&other);
    assert!(matches!(shop.trusted(CLOCK), Err(TrustError::Name { .. })));
    // Signed by somebody, but by nobody who counts.
    let mut file = IndexFile::new(next(&two, vec![])).unwrap();
    file.sign(&shop.scene.signer("stranger")).unwrap();
    let bytes = file.to_bytes().unwrap();
    shop.force(&Manifest::of_index(Blob::of(&bytes)).unwrap(), &[&bytes]);
    let Err(TrustError::Signatures(judgement)) = shop.trusted(CLOCK) else { panic!() };
    assert!(judgement.signers.is_empty());
    let nameless = shop.scene.policy(1, &["a"], "");
    let trust = file.trust(&nameless, &shop.memory(), CLOCK);
    assert!(matches!(trust, Err(TrustError::Unnamed)));
    // Nothing of that was remembered.
    assert_eq!(shop.memory().seen("casemate").unwrap(), Some(two));
}

#[test]
fn what_is_no_index_is_refused_before_it_is_read() {
    let shop = Shop::new();
    let error = index::fetch(shop.store(), &tag()).unwrap_err();
    assert!(matches!(error, IndexArtifactError::None { .. }), "{error}");
    let refused = |manifest: &ManifestBytes, blobs: &[&[u8]]| {
        shop.force(manifest, blobs);
        let error = index::fetch(shop.store(), &tag()).unwrap_err();
        // Nor is it replaced by one.
        assert!(shop.put(&first(&[])).is_err());
        error
    };
    let digest = shop.release("0.1.0").artifact_sha256.unwrap();
    let release = shop.store().manifest(&Selector::Digest(digest)).unwrap().unwrap();
    let IndexArtifactError::Manifest { source: ManifestError::NoIndex { found, .. }, .. } =
        refused(&release, &[])
    else {
        panic!()
    };
    assert_eq!(found, "application/vnd.casemate.release.v1");

    let file = shop.signed(&first(&[])).to_bytes().unwrap();
    let good = Manifest::of_index(Blob::of(&file)).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_slice(good.bytes()).unwrap();
        change(&mut json);
        ManifestBytes::new(serde_json::to_vec(&json).unwrap())
    };
    let other = changed(&|json| json["artifactType"] = json!("application/x-other"));
    let twice = changed(&|json| {
        let layer = json["layers"][0].clone();
        json["layers"].as_array_mut().unwrap().push(layer);
    });
    for manifest in [other, twice] {
        let IndexArtifactError::Manifest { source, .. } = refused(&manifest, &[&file]) else {
            panic!()
        };
        assert!(matches!(source, ManifestError::NoIndex { .. }), "{source}");
    }
    // Of a terabyte: not a byte of it is asked for, or the store would have said that it is missing.
    let huge = changed(&|json| {
        json["layers"][0]["size"] = json!(1_u64 << 40);
        json["layers"][0]["digest"] = json!(format!("sha256:{}", Sha256Hash::of(b"huge")));
    });
    let IndexArtifactError::Manifest { source, .. } = refused(&huge, &[]) else { panic!() };
    assert!(matches!(source, ManifestError::Blob { size, .. } if size == 1 << 40), "{source}");
    let error = refused(&Manifest::of_index(Blob::of(b"{}")).unwrap(), &[b"{}"]);
    assert!(matches!(error, IndexArtifactError::Index { .. }), "{error}");
    // Other bytes under the right name.
    let mut lie = file.clone();
    lie.reverse();
    std::fs::write(blob(&shop, &Blob::of(&file).sha256), &lie).unwrap();
    shop.store().commit(&good, &[], Some((&tag(), Expected::Any))).unwrap();
    let error = index::fetch(shop.store(), &tag()).unwrap_err();
    assert!(matches!(error, IndexArtifactError::Store(StoreError::Content { .. })), "{error}");
}

fn blob(shop: &Shop, sha256: &Sha256Hash) -> PathBuf {
    shop.scene.path(&format!("store/blobs/sha256/{sha256}"))
}

#[test]
fn only_what_the_index_lets_be_used_is_reached() {
    let shop = Shop::new();
    let (one, two) = (shop.release("0.1.0"), shop.release("0.2.0"));
    let mut other = two.clone();
    other.name = "other".to_owned();
    let index = first(&[one.clone(), other.clone()]);
    let ChannelError::Image { images, .. } = shop.follow_in(&index, "channel=stable") else {
        panic!()
    };
    assert_eq!(images, ["cpu-sandbox", "other"]);
    let absent = shop.follow_in(&index, "channel=stable&image=none");
    assert!(absent.to_string().contains("cpu-sandbox, other"), "{absent}");
    let empty = shop.follow_in(&index, "channel=beta");
    assert!(matches!(&empty, ChannelError::Empty { .. }), "{empty}");
    assert!(empty.to_string().contains("stable for snp"), "{empty}");
    let channel = shop.channel("channel=stable");
    let simulated = channel::follow(shop.store(), &index, &channel, Platform::Simulated);
    assert!(matches!(simulated, Err(ChannelError::Empty { .. })));

    let mut undigested = one.clone();
    undigested.artifact_sha256 = None;
    let index = first(&[undigested]);
    let error = shop.follow_in(&index, "channel=stable");
    assert!(matches!(error, ChannelError::NoDigest { .. }) && !error.is_refusal(), "{error}");
    // Added again it has one.
    let mended = next(&index, vec![Change::Add(one.clone())]);
    channel::follow(shop.store(), &mended, &channel, Platform::Snp).unwrap();

    let (manifest_sha256, since) = (one.manifest_sha256, Time(NOW));
    let revocation = Revocation { manifest_sha256, reason: "leaks".to_owned(), since };
    let mut revoked = next(&first(slice::from_ref(&one)), vec![Change::Revoke(revocation)]);
    revoked.releases[0].channels = one.channels.clone();
    let minimum = Change::Minimum { name: "cpu-sandbox".to_owned(), version: "0.2.0".to_owned() };
    let low = next(&first(&[one]), vec![minimum]);
    for (index, why) in [(revoked, "leaks"), (low, "below the minimum version 0.2.0")] {
        let error = shop.follow_in(&index, "channel=stable");
        assert!(error.is_refusal() && error.to_string().contains(why), "{error}");
    }
}

#[test]
fn another_release_than_the_index_says_is_refused() {
    let shop = Shop::new();
    let (one, two) = (shop.release("0.1.0"), shop.release("0.2.0"));
    let refused = |change: &dyn Fn(&mut Entry)| {
        let mut entry = two.clone();
        change(&mut entry);
        shop.follow_in(&first(&[entry]), "channel=stable")
    };
    for (change, differs) in [
        (
            (&|entry: &mut Entry| entry.artifact_sha256 = one.artifact_sha256)
                as &dyn Fn(&mut Entry),
            "the SHA-256 of manifest.json",
        ),
        (&|entry| entry.manifest_sha256 = one.manifest_sha256, "the SHA-256 of manifest.json"),
        (&|entry| entry.version = "0.3.0".to_owned(), "the version"),
        (&|entry| entry.name = "other".to_owned(), "the name"),
    ] {
        let error = refused(change);
        assert!(error.is_refusal(), "{error}");
        let ChannelError::Other(mismatch) = error else { panic!("{error}") };
        assert_eq!(mismatch.what, differs);
    }
    let error = refused(&|entry| entry.artifact_sha256 = Some(Sha256Hash::of(b"nowhere")));
    assert!(pulling(&error, |error| matches!(error, PullError::None { .. })), "{error}");
    let put = shop.put(&first(slice::from_ref(&two))).unwrap();
    let error = refused(&|entry| entry.artifact_sha256 = Some(*put.sha256()));
    assert!(pulling(&error, |error| matches!(error, PullError::Manifest { .. })), "{error}");

    // Signers and a descriptor that agree on another version than the manifest has.
    let dir = shop.scene.path("0.2.0");
    let release = Release::open(&dir).unwrap();
    let mut source = Source::of_release(&dir).unwrap();
    source.version = "9.0.0".to_owned();
    let lie = shop.publish(&source, &release);
    let index = first(&[lie]);
    let channel = shop.channel("channel=stable");
    let (entry, found) = channel::follow(shop.store(), &index, &channel, Platform::Snp).unwrap();
    let seen = channel::preview(shop.store(), &found).unwrap();
    let error = entry.check(*found.manifest.sha256(), &Release::open(seen.path()).unwrap());
    let Err(ChannelError::Other(mismatch)) = error else { panic!() };
    assert_eq!((mismatch.found.as_str(), mismatch.expected.as_str()), ("0.2.0", "9.0.0"));
}

/// Whether nothing could be pulled, for this reason.
fn pulling(error: &ChannelError, reason: impl Fn(&PullError) -> bool) -> bool {
    matches!(error, ChannelError::Pull(error) if reason(error))
}

#[test]
fn a_store_that_cannot_be_reached_is_named() {
    let store = opened("oci://127.0.0.1:1/a", &Options::default());
    let error = index::fetch(store.as_ref(), &tag()).unwrap_err();
    let IndexArtifactError::Store(StoreError::Transport { store, .. }) = error else { panic!() };
    assert_eq!(store, "oci://127.0.0.1:1/a");
}

/// Signers sign the manifest; the descriptor is whatever a store writes.
#[test]
fn a_descriptor_that_says_something_else_than_the_manifest_is_refused() {
    let shop = Shop::new();
    let dir = shop.scene.path("release");
    let latest: Tag = "latest".parse().unwrap();
    let put = |change: &dyn Fn(&mut Source)| {
        let mut source = Source::of_release(&dir).unwrap();
        change(&mut source);
        publish(&source, shop.store(), Some(&latest), &PublishOptions::default(), &|_| ()).unwrap();
    };
    let cache = ReleaseCache::new(&shop.scene.path("cache"));
    let place = shop.channel("channel=stable").place;
    let reference = Reference { place, selector: Selector::Tag(latest.clone()) };
    let options = FetchOptions::default();
    let fetch = || cache.fetch(&reference, &options, &|_| (), &|_| ()).map_err(Box::new);
    put(&|_| ());
    fetch().unwrap();
    let other = |change: &dyn Fn(&mut Source), said: &str| {
        put(change);
        let error = fetch().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    other(
        &|source| "6.0.0".clone_into(&mut source.version),
        "has the version 6.0.0, its manifest.json 0.1.0",
    );
    other(&|source| "other".clone_into(&mut source.name), "has the name other, its manifest.json");
    other(&|source| source.platform = None, "has the platform none, its manifest.json snp");
}

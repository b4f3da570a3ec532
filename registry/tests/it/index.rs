//! Indexes: what a reader takes, and what he refuses and why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use casemate_registry::index::{
    Change, Clock, EditError, Entry, FormatError, Index, IndexError, IndexFile, Memory,
    MemoryError, Revocation, StateError, Time, advance,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixture::Scene;

const NOW: u64 = 1_790_000_000;
const DAY: u64 = 86_400;

fn hash(text: &str) -> Sha256Hash {
    Sha256Hash::of(text.as_bytes())
}

fn entry(version: &str, channels: &[&str]) -> Entry {
    Entry {
        name: "cpu-sandbox".into(),
        version: version.into(),
        platform: Platform::Snp,
        manifest_sha256: hash(version),
        artifact_sha256: None,
        channels: channels.iter().map(|&channel| channel.into()).collect(),
    }
}

fn revocation(version: &str) -> Revocation {
    Revocation { manifest_sha256: hash(version), reason: "leaks".into(), since: Time(NOW) }
}

fn first() -> Index {
    let add = ["0.1.0", "0.2.0"].map(|version| Change::Add(entry(version, &["stable"])));
    Index::empty("casemate").next(add, Time(NOW), 30 * DAY).unwrap()
}

fn next(index: &Index, changes: Vec<Change>) -> Index {
    index.next(changes, Time(index.issued.0 + DAY), 30 * DAY).unwrap()
}

#[test]
fn versions_follow_each_other_and_releases_never_change() {
    let one = first();
    one.check().unwrap();
    // The newer release took the channel.
    assert_eq!(one.releases[0].channels, BTreeSet::new());
    assert_eq!(one.releases[1].channels, BTreeSet::from(["stable".to_owned()]));
    assert_eq!(one.objection("cpu-sandbox", "0.1.0", &hash("0.1.0")), None);
    let two = next(
        &one,
        vec![
            Change::Revoke(revocation("0.1.0")),
            Change::Minimum { name: "cpu-sandbox".into(), version: "0.2.0".into() },
        ],
    );
    two.check().unwrap();
    let objection = |version: &str, manifest: &str| {
        two.objection("cpu-sandbox", version, &hash(manifest)).unwrap_or_default()
    };
    assert_eq!(objection("0.2.0", "0.2.0"), "");
    assert!(objection("0.1.0", "0.1.0").contains("leaks"));
    assert!(objection("0.1.9", "x").contains("minimum version 0.2.0"));
    assert!(objection("0.2.0", "x").contains("not in the index"));
    assert!(objection("0.3.0", "0.3.0").contains("not in the index"));

    let mut other = entry("0.2.0", &[]);
    other.manifest_sha256 = hash("other bytes");
    let error = one.next([Change::Add(other)], Time(NOW), DAY).unwrap_err();
    assert!(matches!(error, EditError::Taken { .. }), "{error}");
    let error = two.next([Change::Revoke(revocation("0.1.0"))], Time(NOW), DAY).unwrap_err();
    assert!(matches!(error, EditError::Already { .. }), "{error}");
    let error = two.next([Change::Add(entry("0.1.0", &[]))], Time(NOW), DAY).unwrap_err();
    assert!(matches!(error, EditError::Revoked { .. }), "{error}");
}

#[test]
fn what_a_reader_saw_before_decides() {
    let one = first();
    let two = next(&one, vec![Change::Revoke(revocation("0.1.0"))]);
    let now = Clock(Time(NOW + 2 * DAY));
    advance(None, &one, now).unwrap();
    advance(Some(&one), &one, now).unwrap();
    advance(Some(&one), &two, now).unwrap();
    let refused = |seen: &Index, found: &Index, at: u64| {
        let error = advance(Some(seen), found, Clock(Time(at))).unwrap_err();
        let said = error.to_string();
        // What was seen and what was found are both named.
        (error, said)
    };
    let at = NOW + 2 * DAY;
    let (error, said) = refused(&two, &one, at);
    assert!(matches!(error, StateError::Rollback { found: 1, seen: 2, .. }), "{said}");
    let mut fork = one.clone();
    fork.minimum.insert("cpu-sandbox".into(), "0.1.0".into());
    let (error, said) = refused(&one, &fork, at);
    assert!(matches!(error, StateError::Fork { version: 1, .. }), "{said}");
    let (error, said) = refused(&one, &two, NOW + 31 * DAY);
    assert!(matches!(error, StateError::Frozen { version: 2, .. }), "{said}");
    let (error, said) = refused(&one, &two, NOW);
    assert!(matches!(error, StateError::Clock { .. }), "{said}");
    let mut renamed = two.clone();
    renamed.name = "other".into();
    assert!(matches!(refused(&one, &renamed, at).0, StateError::Name { .. }));
    let mut forgetful = next(&two, vec![]);
    forgetful.revoked.clear();
    assert!(matches!(refused(&two, &forgetful, at).0, StateError::Unrevoked { .. }));
    let minimum =
        |version: &str| Change::Minimum { name: "cpu-sandbox".into(), version: version.into() };
    let high = next(&one, vec![minimum("0.10.0")]);
    let (error, said) = refused(&high, &next(&high, vec![minimum("0.9.0")]), at);
    assert!(matches!(error, StateError::Lowered { .. }), "{said}");
    assert!(said.contains("0.9.0") && said.contains("0.10.0"), "{said}");
    let mut changed = next(&one, vec![]);
    changed.releases[0].manifest_sha256 = hash("other");
    assert!(matches!(refused(&one, &changed, at).0, StateError::Changed { .. }));
}

#[test]
fn what_was_seen_survives_and_damage_is_no_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let memory = Memory::new(&dir.path().join("deep/state"));
    let clock = Clock(Time(NOW + 2 * DAY));
    let one = first();
    let two = next(&one, vec![]);
    assert!(memory.seen("casemate").unwrap().is_none());
    memory.take(&two, clock).unwrap();
    assert_eq!(memory.seen("casemate").unwrap(), Some(two.clone()));
    let error = memory.take(&one, clock).unwrap_err();
    assert!(matches!(error, MemoryError::State(StateError::Rollback { .. })), "{error}");
    assert_eq!(memory.seen("casemate").unwrap(), Some(two.clone()));
    let path = dir.path().join("deep/state/casemate.json");
    for damage in ["", "{}", "{\"schema\":1"] {
        fs::write(&path, damage).unwrap();
        let error = memory.take(&two, clock).unwrap_err();
        assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
    }
    // Two readers at once: whatever the order, the newest is remembered.
    fs::remove_file(&path).unwrap();
    let three = next(&two, vec![]);
    let clock = Clock(Time(NOW + 3 * DAY));
    std::thread::scope(|scope| {
        for index in [&one, &two, &three, &two, &one, &three] {
            scope.spawn(|| drop(memory.take(index, clock)));
        }
    });
    assert_eq!(memory.seen("casemate").unwrap(), Some(three));
}

#[test]
fn an_index_needs_as_many_signers_as_a_release() {
    let scene = Scene::new();
    let [a, b] = ["a", "b"].map(|name| scene.signer(name));
    let policy = scene.policy(2, &["a", "b"], "");
    let path = scene.path("index.json");
    let mut file = IndexFile::new(first()).unwrap();
    file.sign(&a).unwrap();
    file.sign(&a).unwrap();
    file.write(&path).unwrap();
    let mut read = IndexFile::read(&path).unwrap();
    assert_eq!(read.index(), &first());
    let judgement = read.judge(&policy);
    assert_eq!((judgement.signers.len(), judgement.bundles.len()), (1, 1));
    assert!(!judgement.is_trusted());
    read.sign(&b).unwrap();
    read.write(&path).unwrap();
    let read = IndexFile::read(&path).unwrap();
    assert!(read.judge(&policy).is_trusted());
    assert_eq!(read.sha256(), Sha256Hash::of(&first().to_bytes().unwrap()));

    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut changed = good.clone();
        change(&mut changed);
        IndexFile::from_bytes(&serde_json::to_vec(&changed).unwrap())
    };
    let error = refused(&|v| v["schema"] = json!(2)).unwrap_err();
    assert!(matches!(error, IndexError::Schema(2)), "{error}");
    let error = refused(&|v| v["bundles"] = json!([])).unwrap_err();
    assert!(matches!(error, IndexError::Bundles(0)), "{error}");
    let error = refused(&|v| v["more"] = json!(1)).unwrap_err();
    assert!(matches!(error, IndexError::Malformed(_)), "{error}");
    let error = refused(&|v| v["bundles"][1] = json!({})).unwrap_err();
    assert!(matches!(error, IndexError::Bundle { at: 2, .. }), "{error}");
    // Signatures of two indexes together.
    let mut second = IndexFile::new(next(&first(), vec![])).unwrap();
    second.sign(&b).unwrap();
    let second: Value = serde_json::from_slice(&second.to_bytes().unwrap()).unwrap();
    let error = refused(&|v| v["bundles"][1] = second["bundles"][0].clone()).unwrap_err();
    assert!(matches!(error, IndexError::Other { at: 2 }), "{error}");
    // A release's signature is none of an index.
    let [_, bundle] = scene.sign(&a);
    let bundle: Value = serde_json::from_slice(&fs::read(bundle).unwrap()).unwrap();
    let error = refused(&|v| v["bundles"] = json!([bundle])).unwrap_err();
    assert!(matches!(error, IndexError::Statement(_)), "{error}");
    // A forged signature does not count.
    let forged = refused(&|v| {
        let sig = v["bundles"][1]["dsseEnvelope"]["signatures"][0]["sig"].clone();
        v["bundles"][0]["dsseEnvelope"]["signatures"][0]["sig"] = sig;
    });
    assert!(!forged.unwrap().judge(&policy).is_trusted());
}

#[test]
fn an_index_that_contradicts_itself_is_refused_by_name() {
    let broken = |change: &dyn Fn(&mut Index)| {
        let mut index = next(&first(), vec![Change::Revoke(revocation("0.1.0"))]);
        change(&mut index);
        index.check().unwrap_err()
    };
    assert!(matches!(broken(&|i| i.schema = 2), FormatError::Schema { found: 2 }));
    assert!(matches!(broken(&|i| i.expires = i.issued), FormatError::Times { .. }));
    assert!(matches!(broken(&|i| i.releases.reverse()), FormatError::Order { .. }));
    assert!(matches!(broken(&|i| i.revoked.push(i.revoked[0].clone())), FormatError::Order { .. }));
    let twice = broken(&|i| {
        i.releases[0].channels.insert("stable".into());
    });
    assert!(matches!(twice, FormatError::Order { what: "channels", .. }));
    for (change, expected) in [
        (&(|i: &mut Index| i.name = "../x".into()) as &dyn Fn(&mut Index), "name"),
        (&|i| i.version = 0, "version"),
        (&|i| i.version = 1 << 53, "version"),
        (&|i| i.revoked[0].reason = "a\nb".into(), "a reason"),
        (&|i| i.minimum = BTreeMap::from([("a".into(), "new".into())]), "a minimum version"),
        (&|i| i.releases[1].version = "a/b".into(), "a version"),
    ] {
        let FormatError::Value { what, .. } = broken(change) else { panic!("{expected}") };
        assert_eq!(what, expected);
    }
    for text in ["2026-11-25T21:49:02+00:00", "2026-11-25 21:49:02Z", "1969-01-01T00:00:00Z", "x"] {
        assert!(text.parse::<Time>().is_err(), "{text}");
    }
    let time: Time = "2026-11-25T21:49:02Z".parse().unwrap();
    assert_eq!(time.to_string(), "2026-11-25T21:49:02Z");
}

/// What an attacker who holds every index ever signed can do: hand them out in any order, at any
/// time.
fn histories() -> impl Strategy<Value = (Vec<Index>, Vec<(usize, u64)>)> {
    let changes = prop::collection::vec((0_u8..4, 0_u8..4), 1..8);
    let served = prop::collection::vec((any::<prop::sample::Index>(), 0..20 * DAY), 1..20);
    (changes, served).prop_map(|(changes, served)| {
        let mut indexes = vec![first()];
        for (kind, number) in changes {
            let last = indexes.last().unwrap_or_else(|| panic!("no index")).clone();
            let version = format!("0.{number}.0");
            let change = match kind {
                0 => Some(Change::Add(entry(&version, &["stable"]))),
                1 => Some(Change::Revoke(revocation(&version))),
                2 => Some(Change::Minimum { name: "cpu-sandbox".into(), version }),
                _ => None,
            };
            let issued = Time(last.issued.0 + DAY);
            if let Ok(index) = last.next(change, issued, 5 * DAY) {
                indexes.push(index);
            }
        }
        let mut at = NOW;
        let served = served.into_iter().map(|(which, later)| {
            at += later / 10;
            (which.index(indexes.len()), at)
        });
        let served = served.collect();
        (indexes, served)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Versions, revocations and minimum versions that a reader believes never go back; what he
    /// takes is never out of date; and whoever is handed only the true history in order takes all
    /// of it that is current.
    #[test]
    fn a_reader_never_goes_back((indexes, served) in histories()) {
        let mut seen: Option<Index> = None;
        for (which, at) in served {
            let found = &indexes[which];
            match advance(seen.as_ref(), found, Clock(Time(at))) {
                Ok(()) => {
                    prop_assert!(found.expires.0 > at);
                    if let Some(seen) = &seen {
                        prop_assert!(found.version >= seen.version);
                        for old in &seen.revoked {
                            let kept = |new: &Revocation| new.manifest_sha256 == old.manifest_sha256;
                            prop_assert!(found.revoked.iter().any(kept));
                        }
                        prop_assert!(seen.minimum.keys().all(|name| found.minimum.contains_key(name)));
                    }
                    seen = Some(found.clone());
                }
                Err(StateError::Rollback { found: version, seen: before, .. }) => {
                    prop_assert!(version < before);
                    prop_assert_eq!(Some(before), seen.as_ref().map(|seen| seen.version));
                }
                Err(StateError::Frozen { expires, .. }) => prop_assert!(expires.0 <= at),
                Err(StateError::Clock { issued, .. }) => prop_assert!(issued.0 > at),
                // Only a minimum that really went down: signers can do that, readers do not follow.
                Err(StateError::Lowered { .. }) => {}
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }

    /// Any single change of a signed index's bytes is refused or changes nothing.
    #[test]
    fn bytes_of_an_index_are_all_held(at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let bytes = canonical_file();
        let mut changed = bytes.clone();
        let at = at.index(changed.len());
        changed[at] = with;
        if let Ok(file) = IndexFile::from_bytes(&changed) {
            let untouched = file.index() == &first();
            let judgement = file.judge(policy());
            prop_assert!(untouched || !judgement.is_trusted());
        }
    }
}

fn scene() -> &'static (Scene, casemate_registry::verify::Policy, Vec<u8>) {
    static SCENE: std::sync::OnceLock<(Scene, casemate_registry::verify::Policy, Vec<u8>)> =
        std::sync::OnceLock::new();
    SCENE.get_or_init(|| {
        let scene = Scene::new();
        let key = scene.signer("a");
        let mut file = IndexFile::new(first()).unwrap();
        file.sign(&key).unwrap();
        let policy = scene.policy(1, &["a"], "");
        let bytes = file.to_bytes().unwrap();
        (scene, policy, bytes)
    })
}

fn canonical_file() -> Vec<u8> {
    scene().2.clone()
}

fn policy() -> &'static casemate_registry::verify::Policy {
    &scene().1
}

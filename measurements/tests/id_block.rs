//! ID blocks from the release to the verdict: signed for every row, judged as the security
//! processor does, and held by a verifier to the manifest and to its own policy.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

#[expect(dead_code, reason = "its chains are good here")]
mod amd;
mod ovmf;
mod release;
mod scene;
mod signer;
#[expect(dead_code, reason = "these tests read reports only")]
mod vectors;

use casemate_measurements::appraisal::{CheckName, Expect, IdRule, Outcome};
use casemate_measurements::hash::{FamilyId, ImageId, Sha256Hash, Sha384Hash};
use casemate_measurements::id_block::release::{IdBlocks, IdBlocksError};
use casemate_measurements::id_block::{self, Accepted, IdBlockError};
use casemate_measurements::identity::Identity;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::{GuestPolicy, PolicyBit};
use casemate_measurements::report::{IdBlockFields, Report};
use scene::{Scene, refused, scene};
use signer::Key;

/// A manifest that states ids, and keys where they are given.
fn manifest(id_keys: &[&Key], author_keys: &[&Key]) -> Manifest {
    let sorted = |keys: &[&Key]| {
        let mut digests: Vec<_> = keys.iter().map(|key| key.digest()).collect();
        digests.sort_unstable();
        digests
    };
    let identity = Identity {
        family_id: FamilyId::from_bytes(*b"casemate\0\0\0\0\0\0\0\0"),
        image_id: ImageId::from_bytes([7; 16]),
        guest_svn: 3,
        id_keys: sorted(id_keys),
        author_keys: sorted(author_keys),
    };
    Manifest { id_block: Some(identity), ..release::manifest(Platform::Simulated) }
}

fn sign(manifest: &Manifest, id: &Key, author: Option<&Key>) -> Result<IdBlocks, IdBlocksError> {
    let hash = Sha256Hash::of(&manifest.to_bytes().unwrap());
    let author = author.map(|author| author as &dyn id_block::Signer);
    IdBlocks::sign(manifest, hash, id, author, &mut |_| ())
}

fn hash(manifest: &Manifest) -> Sha256Hash {
    Sha256Hash::of(&manifest.to_bytes().unwrap())
}

/// What the security processor says of a launch of the scene's shape with these blocks.
fn launch(manifest: &Manifest, blocks: &IdBlocks) -> Result<Accepted, IdBlockError> {
    let shape = release::shape("EPYC-v4", 4);
    let launch = blocks.launch(manifest, &shape).unwrap();
    let digest = manifest.find(&shape).unwrap().measurement;
    let policy = manifest.guest_policy;
    let author = launch.author_key_enabled;
    id_block::verify(&launch.block, &launch.auth[..], author, &digest, policy)
}

#[test]
fn every_row_of_a_release_is_signed_and_launches() {
    let (id, author) = (Key::new(1), Key::new(2));
    for (author, path) in [(None, "without an author"), (Some(&author), "with an author")] {
        let manifest = manifest(&[&id], author.as_slice());
        let blocks = sign(&manifest, &id, author).unwrap();
        let bytes = blocks.to_bytes().unwrap();
        assert_eq!(IdBlocks::from_bytes(&bytes).unwrap(), blocks, "{path}");
        assert_eq!(sign(&manifest, &id, author).unwrap().to_bytes().unwrap(), bytes, "{path}");
        blocks.check(&manifest, &hash(&manifest)).unwrap();
        for row in &manifest.reference_values {
            let launch = blocks.launch(&manifest, &row.shape()).unwrap();
            let accepted = id_block::verify(
                &launch.block,
                &launch.auth[..],
                launch.author_key_enabled,
                &row.measurement,
                manifest.guest_policy,
            )
            .unwrap();
            assert_eq!(accepted.id_key_digest, id.digest());
            assert_eq!(accepted.author_key_digest, author.map(Key::digest));
            assert_eq!(accepted.block.guest_svn, 3);
        }
        assert_eq!(blocks.launch(&manifest, &release::shape("EPYC-Milan", 1)), None);
    }
}

#[test]
fn blocks_are_of_one_manifest_and_its_keys() {
    let (id, author, other) = (Key::new(1), Key::new(2), Key::new(3));
    let of = manifest(&[&id], &[&author]);
    let blocks = sign(&of, &id, Some(&author)).unwrap();
    for refused in
        [sign(&of, &other, Some(&author)), sign(&of, &id, Some(&other)), sign(&of, &id, None)]
    {
        let error = refused.unwrap_err();
        assert!(matches!(error, IdBlocksError::Key { .. }), "{error}");
    }
    let mut newer = of.clone();
    newer.release.version = "0.1.1".into();
    let error = blocks.check(&newer, &hash(&newer)).unwrap_err();
    assert!(matches!(error, IdBlocksError::OtherManifest { .. }), "{error}");

    let json = String::from_utf8(blocks.to_bytes().unwrap()).unwrap();
    let check = |json: &str| IdBlocks::from_bytes(json.as_bytes())?.check(&of, &hash(&of));
    check(&json).unwrap();
    // Two rows' signatures exchanged: each is good, for the other.
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let signature = |row: usize| value["signatures"][row]["signature"].as_str().unwrap();
    let swapped = json.replace(signature(0), "x").replace(signature(1), signature(0));
    let swapped = swapped.replace("\"x\"", &format!("\"{}\"", signature(1)));
    let error = check(&swapped).unwrap_err();
    assert!(matches!(error, IdBlocksError::Signature { .. }), "{error}");
    let fewer = json.replacen("\"vcpus\":1", "\"vcpus\":3", 1);
    assert!(matches!(check(&fewer), Err(IdBlocksError::Rows { .. })));
    let endorsed = value["author"]["signature"].as_str().unwrap();
    let error = check(&json.replace(endorsed, signature(0))).unwrap_err();
    assert!(matches!(error, IdBlocksError::Endorsement), "{error}");
    let error = check(&json.replace("\"schema\":1", "\"schema\":2")).unwrap_err();
    assert!(matches!(error, IdBlocksError::Schema { found: 2 }), "{error}");
    for malformed in ["{}", "", &json[1..], &json.replacen('{', "{\"x\":1,", 1)] {
        assert!(matches!(check(malformed), Err(IdBlocksError::Malformed(_))), "{malformed:.40}");
    }
}

/// A scene whose VM was launched with a block.
fn launched(manifest: Manifest, id: &Key, author: Option<&Key>) -> Scene {
    let accepted = launch(&manifest, &sign(&manifest, id, author).unwrap()).unwrap();
    let mut scene = Scene { manifest, ..scene() };
    scene.fields.id_block = accepted.into();
    scene
}

#[test]
fn a_block_of_the_named_keys_is_accepted() {
    let (id, author) = (Key::new(1), Key::new(2));
    let scene = launched(manifest(&[&id], &[&author]), &id, Some(&author));
    let verdict = scene.verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let keys = verdict.check(CheckName::IdKeys).unwrap();
    assert!(keys.found.contains(&id.digest().to_string()), "{}", keys.found);
    assert!(keys.found.contains(&author.digest().to_string()), "{}", keys.found);
    // An author that is named vouches for any ID key.
    let rotated = launched(manifest(&[], &[&author]), &Key::new(9), Some(&author));
    assert_eq!(rotated.verdict().exit_code(), 0);
    // Keys may be rotated: one of two.
    let two = launched(manifest(&[&id, &Key::new(4)], &[]), &id, None);
    assert_eq!(two.verdict().exit_code(), 0);
}

/// What a test changes of a report.
type Change = fn(&mut IdBlockFields);

#[test]
fn each_field_of_the_block_is_judged() {
    let (id, author) = (Key::new(1), Key::new(2));
    let good = || launched(manifest(&[&id], &[&author]), &id, Some(&author));
    let changes: [(Change, CheckName); 6] = [
        (|block| block.family_id = FamilyId::ZERO, CheckName::IdBlock),
        (|block| block.image_id = ImageId::from_bytes([8; 16]), CheckName::IdBlock),
        (|block| block.guest_svn = 2, CheckName::IdBlock),
        (|block| block.id_key_digest = Sha384Hash::of(b"other"), CheckName::IdKeys),
        (|block| block.author_key_digest = Some(Sha384Hash::of(b"other")), CheckName::IdKeys),
        (|block| block.author_key_digest = None, CheckName::IdKeys),
    ];
    for (change, failed) in changes {
        let mut scene = good();
        change(&mut scene.fields.id_block);
        refused(&scene.verdict(), 3, &[failed]);
    }
    // The flag and the digest of the author key belong together.
    let mut scene = good();
    scene.fields.id_block.author_key_digest = Some(Sha384Hash::ZERO);
    scene.policy.id_block.author_key = IdRule::Is(Expect::Any);
    let verdict = scene.verdict();
    refused(&verdict, 3, &[CheckName::IdKeys]);
    assert!(verdict.summary().contains("contradicts"), "{verdict}");
    // A newer guest is accepted, up to what the verifier demands.
    let mut scene = good();
    scene.fields.id_block.guest_svn = 4;
    assert_eq!(scene.verdict().exit_code(), 0);
    scene.policy.id_block.least_guest_svn = 5;
    refused(&scene.verdict(), 3, &[CheckName::IdBlock]);
    // No block at all.
    let mut scene = good();
    scene.fields.id_block = IdBlockFields::NONE;
    refused(&scene.verdict(), 3, &[CheckName::IdBlock, CheckName::IdKeys]);
}

#[test]
fn a_key_that_nobody_named_is_refused_unless_the_verifier_names_it() {
    let id = Key::new(1);
    // The release states ids and no keys: a VM without a block is one of it …
    let mut without = scene();
    without.manifest = manifest(&[], &[]);
    let verdict = without.verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.check(CheckName::IdKeys).unwrap().outcome, Outcome::Passed);
    // … whose security version counts only when the verifier asks for one …
    without.policy.id_block.least_guest_svn = 1;
    refused(&without.verdict(), 3, &[CheckName::IdBlock]);
    // … and one with a block of anybody is not.
    let mut signed = launched(manifest(&[], &[]), &id, None);
    refused(&signed.verdict(), 3, &[CheckName::IdKeys]);
    signed.policy.id_block.id_key = IdRule::Is(Expect::Exactly(id.digest()));
    assert_eq!(signed.verdict().exit_code(), 0);
    signed.policy.id_block.family_id = IdRule::Is(Expect::Exactly(FamilyId::ZERO));
    refused(&signed.verdict(), 3, &[CheckName::IdBlock]);
    // A release that states nothing has no blocks.
    let mut unstated = signed;
    unstated.manifest.id_block = None;
    unstated.policy = scene().policy;
    refused(&unstated.verdict(), 3, &[CheckName::IdBlock, CheckName::IdKeys]);
    // What may be anything is not judged, and says so.
    let rules = &mut unstated.policy.id_block;
    rules.id_key = IdRule::Is(Expect::Any);
    rules.author_key = IdRule::Is(Expect::Any);
    rules.family_id = IdRule::Is(Expect::Any);
    rules.image_id = IdRule::Is(Expect::Any);
    let verdict = unstated.verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    for name in [CheckName::IdBlock, CheckName::IdKeys] {
        assert_eq!(verdict.check(name).unwrap().outcome, Outcome::Skipped);
    }
}

#[test]
fn a_verdict_names_the_bits_of_the_policy() {
    let mut scene = scene();
    scene.fields.policy = GuestPolicy::default().with(PolicyBit::SingleSocket);
    let verdict = scene.verdict();
    refused(&verdict, 3, &[CheckName::GuestPolicy]);
    let check = verdict.check(CheckName::GuestPolicy).unwrap();
    assert_eq!(
        (check.expected.as_str(), check.found.as_str()),
        ("0x30000 (smt)", "0x130000 (smt, single_socket)")
    );
}

/// Every policy that real machines reported is one that this code can name.
#[test]
fn policies_of_real_reports_are_read() {
    let Some(folder) = vectors::folder() else { return };
    let mut seen = std::collections::BTreeSet::new();
    let mut folders = vec![folder.join("reports")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(report) = Report::parse(&std::fs::read(&path).unwrap()) {
                let policy = GuestPolicy::new(report.policy()).unwrap();
                println!("{}: {policy} ({})", path.display(), policy.describe());
                seen.insert(path);
            }
        }
    }
    assert!(seen.len() >= 4, "only {} reports were read", seen.len());
}

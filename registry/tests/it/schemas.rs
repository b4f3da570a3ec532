//! What is read and written fits the schemas that are generated from the types, by the word of
//! another program.

use std::fs;

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use casemate_registry::index::{Change, Entry, Index, IndexFile, Revocation, Time};
use casemate_registry::schema::Format;
use serde_json::{Value, json};

use crate::fixture::Scene;
use crate::jsonschema;

fn fit(pairs: &[(Format, Value)]) -> Vec<bool> {
    jsonschema::fit(pairs.iter().map(|(of, value)| (of.schema().to_value(), value)))
}

/// A signers file that is accepted.
fn signers(scene: &Scene, more: &str) -> Value {
    scene.policy(1, &["a"], more);
    let text = fs::read_to_string(scene.path("signers.toml")).unwrap();
    serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap()
}

fn index() -> Index {
    let manifest_sha256 = Sha256Hash::of(b"manifest");
    let entry = |version: &str, artifact_sha256| Entry {
        name: "cpu-sandbox".to_owned(),
        version: version.to_owned(),
        platform: Platform::Snp,
        manifest_sha256: Sha256Hash::of(version.as_bytes()),
        artifact_sha256,
        channels: ["stable".to_owned()].into(),
    };
    let changes = [
        Change::Add(entry("1.0.0", None)),
        Change::Add(entry("1.1.0", Some(Sha256Hash::of(b"artifact")))),
        Change::Revoke(Revocation { manifest_sha256, reason: "leaks".to_owned(), since: Time(9) }),
        Change::Minimum { name: "cpu-sandbox".to_owned(), version: "1.0.0".to_owned() },
    ];
    let index = Index::empty("casemate").next(changes, Time(10), 10).unwrap();
    index.check().unwrap();
    index
}

#[test]
fn real_instances_fit_and_malformed_ones_do_not() {
    if !jsonschema::has_validator() {
        return;
    }
    let scene = Scene::new();
    let mut file = IndexFile::new(index()).unwrap();
    file.sign(&scene.signer("a")).unwrap();
    let file: Value = serde_json::from_slice(&file.to_bytes().unwrap()).unwrap();
    let predicate = serde_json::to_value(index()).unwrap();
    let plain = signers(&scene, "");
    let more = "index = \"casemate\"\nprovenance = \"required\"\ntrusted_root = \"public\"";
    let mut full = signers(&scene, more);
    full["signer"][0]["log"] = json!("required");
    full["signer"].as_array_mut().unwrap().push(
        json!({ "name": "ci", "issuer": "https://issuer.example", "subject": "https://x/**" }),
    );
    let good = vec![
        (Format::Index, file.clone()),
        (Format::IndexPredicate, predicate.clone()),
        (Format::Signers, plain.clone()),
        (Format::Signers, full.clone()),
    ];
    assert_eq!(fit(&good), vec![true; good.len()]);
    let mut bad: Vec<(Format, Value)> = good
        .iter()
        .map(|(of, value)| {
            let mut value = value.clone();
            value["no_such_field"] = json!(1);
            (*of, value)
        })
        .collect();
    for (of, value, at, wrong) in [
        (Format::Index, &file, "/bundles", json!([])),
        (Format::Index, &file, "/schema", json!("1")),
        (Format::IndexPredicate, &predicate, "/issued", json!("today")),
        (Format::IndexPredicate, &predicate, "/releases/0/manifest_sha256", json!("AB")),
        (Format::IndexPredicate, &predicate, "/releases/1/artifact_sha256", json!("AB")),
        (Format::IndexPredicate, &predicate, "/releases/0/platform", json!("tdx")),
        (Format::IndexPredicate, &predicate, "/revoked/0/reason", json!(null)),
        (Format::Signers, &plain, "/threshold", json!(0)),
        (Format::Signers, &plain, "/signer/0/name", json!("")),
        (Format::Signers, &full, "/provenance", json!("maybe")),
        (Format::Signers, &full, "/signer/0/log", json!(true)),
    ] {
        let mut value = value.clone();
        *value.pointer_mut(at).unwrap() = wrong;
        bad.push((of, value));
    }
    assert_eq!(fit(&bad), vec![false; bad.len()]);
}

//! What the types read and write fits the schemas that are generated from them, by the word of
//! another program: the Python package `jsonschema`.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

#[expect(dead_code, reason = "its attacks on chains are mounted where chains are judged")]
mod amd;
mod jsonschema;
mod ovmf;
mod release;
#[expect(dead_code, reason = "what it refuses is told by other tests")]
mod scene;

use casemate_measurements::appraisal::KnownRelease;
use casemate_measurements::appraisal::policy_file::PolicyFile;
use casemate_measurements::schema::Format;
use serde_json::{Value, json};

/// Which of the instances fit.
fn fit(pairs: &[(Format, Value)]) -> Vec<bool> {
    jsonschema::fit(pairs.iter().map(|(of, value)| (of.schema().to_value(), value)))
}

fn policy(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

/// The template with every default stated.
fn every_default() -> String {
    let template = PolicyFile::template(None);
    let assignment = |line: &&str| {
        let key = line.split(' ').next().unwrap_or("");
        let keyed = key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        line.starts_with('[') || (keyed && line[key.len()..].starts_with(" = "))
    };
    let lines = template.lines().map(|line| line.strip_prefix("# ").filter(assignment));
    lines.map(Option::unwrap_or_default).collect::<Vec<_>>().join("\n")
}

#[test]
fn real_instances_fit_and_malformed_ones_do_not() {
    if !jsonschema::has_validator() {
        return;
    }
    let scene = scene::scene();
    let known = KnownRelease::new(scene.manifest.clone()).unwrap();
    let manifest: Value = serde_json::from_slice(&known.manifest().to_bytes().unwrap()).unwrap();
    let evidence = serde_json::to_value(scene.evidence()).unwrap();
    let config: Value = serde_json::from_str(&scene.launch_config).unwrap();
    let accepted = serde_json::to_value(scene.verdict()).unwrap();
    let refused = serde_json::to_value(scene.judge_bytes(b"{}")).unwrap();
    let stated = format!("schema = 1\n{}", every_default());
    PolicyFile::parse(&stated).unwrap();
    let strict = policy(&PolicyFile::template(Some(&known)));
    let good = vec![
        (Format::Manifest, manifest.clone()),
        (Format::Evidence, evidence.clone()),
        (Format::LaunchConfig, config.clone()),
        (Format::Verdict, accepted.clone()),
        (Format::Verdict, refused),
        (Format::Policy, strict.clone()),
        (Format::Policy, policy(&stated)),
        (
            Format::Policy,
            policy("schema = 1\nvmpl = [0, 3]\nguest_policy = \"0x30000\"\nallow = [\"smt-on\"]"),
        ),
    ];
    assert_eq!(fit(&good), vec![true; good.len()], "{}", Format::Policy.schema().to_value());
    // Each with a field that is unknown, and one that is of another form.
    let mut bad: Vec<(Format, Value)> = good
        .iter()
        .map(|(of, value)| {
            let mut value = value.clone();
            value["no_such_field"] = json!(1);
            (*of, value)
        })
        .collect();
    for (of, value, field, wrong) in [
        (Format::Manifest, &manifest, "guest_policy", json!("0x030000")),
        (Format::Manifest, &manifest, "reference_values", json!([{ "vcpus": 0 }])),
        (Format::Evidence, &evidence, "nonce", json!("AB")),
        (Format::LaunchConfig, &config, "name", json!(null)),
        (Format::Verdict, &accepted, "checks", json!([{ "name": "evidence" }])),
        (Format::Policy, &strict, "vmpl", json!(4)),
        (Format::Policy, &strict, "allow", json!(["smt"])),
        (Format::Policy, &strict, "expires", json!("tomorrow")),
        (Format::Policy, &strict, "launch_config", json!("ab")),
        (Format::Policy, &strict, "machine", json!({ "SMT": true })),
    ] {
        let mut value = value.clone();
        value[field] = wrong;
        bad.push((of, value));
    }
    assert_eq!(fit(&bad), vec![false; bad.len()]);
}

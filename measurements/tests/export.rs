//! Exports, parsed back by the programs' own readers or ones that know nothing of casemate.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ovmf;
mod release;

use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::export::{CLASS_ID, PROFILE, Subject, corim, rvps, sek8s_yaml};
use casemate_measurements::manifest::{Manifest, ReferenceValue};
use casemate_measurements::platform::Platform;
use serde_json::Value;

const SUBJECT: Subject<'_> = Subject { name: "cpu-sandbox", version: "0.1.0" };

/// Rows of which the last three are again the digests of others, by names of the same CPU.
fn rows() -> Vec<ReferenceValue> {
    let manifest = release::manifest(Platform::Snp);
    let mut shapes: Vec<_> = manifest.reference_values.iter().map(ReferenceValue::shape).collect();
    shapes.extend([1, 2, 4].map(|vcpus| release::shape("EPYC", vcpus)));
    let rows = Manifest::table(&manifest.law, &shapes);
    assert_eq!(rows.len(), 9);
    rows
}

fn digests() -> Vec<String> {
    let mut digests: Vec<String> = Vec::new();
    for row in rows() {
        let digest = row.measurement.to_string();
        if !digests.contains(&digest) {
            digests.push(digest);
        }
    }
    assert_eq!(digests.len(), 6);
    digests
}

/// What Debian's Python makes of the input.
fn python(script: &str, input: &[u8]) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), input).unwrap();
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(file.path())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "`make setup` installs python3-yaml and python3-cbor2");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn sek8s_validators_read_the_yaml() {
    let yaml = sek8s_yaml(SUBJECT, &rows()).unwrap();
    // What the loader of chutes-api does with an entry: strip, upper case, 96 characters.
    let script = "import json, sys, yaml\n\
                  entry = yaml.safe_load(open(sys.argv[1]))\n\
                  for hw in entry['snp']['hardware']:\n    \
                      hw['measurement'] = str(hw['measurement']).upper().strip()\n    \
                      assert len(hw['measurement']) == 96\n\
                  print(json.dumps(entry))";
    let entry = python(script, yaml.as_bytes());
    assert_eq!(entry["version"], "0.1.0");
    let hardware = entry["snp"]["hardware"].as_array().unwrap();
    let found: Vec<String> = hardware
        .iter()
        .map(|entry| entry["measurement"].as_str().unwrap().to_lowercase())
        .collect();
    assert_eq!(found, digests(), "each digest once: the API refuses it on two entries");
    assert_eq!(hardware[0]["fingerprints"], serde_json::json!([]));
    let names: Vec<&str> = hardware.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert!(names.iter().any(|name| name.ends_with("; also EPYC-v4]")), "{names:?}");
}

#[test]
fn trustees_sample_extractor_reads_the_message() {
    let message: Value = serde_json::from_str(&rvps(SUBJECT, &rows()).unwrap()).unwrap();
    assert_eq!((&message["version"], &message["type"]), (&"0.1.0".into(), &"sample".into()));
    let payload = STANDARD.decode(message["payload"].as_str().unwrap()).unwrap();
    let values: std::collections::HashMap<String, Vec<String>> =
        serde_json::from_slice(&payload).unwrap();
    let found: Vec<String> = values["snp_launch_measurement"]
        .iter()
        .map(|value| hex::encode(STANDARD.decode(value).unwrap()))
        .collect();
    assert_eq!(found, digests());
}

/// Walks the CBOR by the numbers of draft-ietf-rats-corim-11, with a decoder that knows no `CoRIM`.
#[test]
fn another_cbor_decoder_finds_the_reference_values() {
    let cbor = corim(SUBJECT, &rows()).unwrap();
    let script = "import cbor2, json, sys\n\
                  outer = cbor2.load(open(sys.argv[1], 'rb'))\n\
                  assert outer.tag == 501, outer.tag\n\
                  rim, found, tags = outer.value, [], []\n\
                  for tag in rim[1]:\n    \
                      assert tag.tag == 506, tag.tag\n    \
                      comid = cbor2.loads(tag.value)\n    \
                      tags.append(comid[1][0])\n    \
                      [[env, [claim]]] = comid[4][0]\n    \
                      assert env[0][0].tag == 111 and list(env[0]) == [0], env\n    \
                      [[alg, digest]] = claim[1][2]\n    \
                      found.append([env[0][0].value.hex(), claim[0], alg, digest.hex()])\n\
                  profile = rim[3]\n\
                  print(json.dumps({'id': rim[0], 'profile': getattr(profile, 'value', profile),\n    \
                                    'tags': tags, 'found': found}))";
    let rim = python(script, &cbor);
    assert_eq!(rim["id"], "casemate cpu-sandbox 0.1.0");
    assert_eq!(rim["profile"], PROFILE);
    let class = hex::encode(CLASS_ID);
    let expected: Vec<Value> =
        digests().iter().map(|digest| serde_json::json!([class, 641, 7, digest])).collect();
    assert_eq!(rim["found"], Value::Array(expected));
    let tags = rim["tags"].as_array().unwrap();
    assert!(tags[0].as_str().unwrap().starts_with("cpu-sandbox 0.1.0: 1 x "), "{tags:?}");
    assert_eq!(cbor, corim(SUBJECT, &rows()).unwrap(), "the same rows make the same bytes");
}

#[test]
fn the_crates_own_validation_passes() {
    let cbor = corim(SUBJECT, &rows()).unwrap();
    let (_, comids) = ::corim::validate::decode_and_validate_at(&cbor, 1_780_272_000).unwrap();
    assert_eq!(comids.len(), 6);
}

#[test]
fn nothing_is_not_exported() {
    assert!(sek8s_yaml(SUBJECT, &[]).is_err());
    assert!(rvps(SUBJECT, &[]).is_err());
    assert!(corim(SUBJECT, &[]).is_err());
}

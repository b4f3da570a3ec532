//! Manifests: what a good one says, and which contradictions are refused.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ovmf;
mod release;

use casemate_measurements::canonical;
use casemate_measurements::hash::LaunchDigest;
use casemate_measurements::manifest::{Manifest, ManifestError};
use casemate_measurements::platform::Platform;
use proptest::prelude::*;
use serde_json::{Value, json};

fn good() -> Manifest {
    release::manifest(Platform::Snp)
}

/// The manifest after one change to its JSON.
fn changed(pointer: &str, value: Value) -> Result<Manifest, ManifestError> {
    let mut json: Value = serde_json::from_slice(&good().to_bytes().unwrap()).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    Manifest::from_bytes(&canonical::to_vec(&json).unwrap())
}

#[test]
fn a_good_one_comes_back_and_names_shapes() {
    let bytes = good().to_bytes().unwrap();
    let manifest = Manifest::from_bytes(&bytes).unwrap();
    assert_eq!(manifest, good());
    assert_eq!(manifest.reference_values.len(), 6);
    let shape = release::shape("EPYC-v4", 4);
    let row = manifest.find(&shape).unwrap();
    assert_eq!(row.measurement, manifest.law.digest(&shape));
    assert_eq!(manifest.find_measurement(&row.measurement).unwrap().shape(), shape);
    assert!(manifest.find(&release::shape("EPYC-v4", 3)).is_none());
    assert!(manifest.find_measurement(&LaunchDigest::from_bytes([0; 48])).is_none());
}

#[test]
fn firmware_that_says_nothing_uses_forty_bits() {
    let stock = good();
    assert_eq!(stock.firmware_address_bits(), 40);
    let text = String::from_utf8(stock.to_bytes().unwrap()).unwrap();
    assert!(!text.contains("firmware_address_bits"), "{text}");
    let wide = Manifest { firmware_address_bits: Some(46), ..stock.clone() };
    let read = Manifest::from_bytes(&wide.to_bytes().unwrap()).unwrap();
    assert_eq!(read.firmware_address_bits(), 46);
    for found in [39, 47] {
        let error = Manifest { firmware_address_bits: Some(found), ..stock.clone() }.to_bytes();
        assert!(matches!(error, Err(ManifestError::AddressBits { found: n }) if n == found));
    }
}

#[test]
fn every_contradiction_is_refused_by_name() {
    let zero = "00".repeat(32);
    for (pointer, value, expected) in [
        ("/artifacts/vmlinuz/sha256", json!(zero), "law.kernel_hashes.kernel"),
        ("/artifacts/initrd/sha256", json!(zero), "law.kernel_hashes.initrd"),
        ("/artifacts/firmware.fd/sha256", json!(zero), "law.firmware_sha256"),
        ("/artifacts/cmdline/sha256", json!(zero), "artifacts.cmdline.sha256"),
        ("/artifacts/cmdline/size", json!(1), "artifacts.cmdline.size"),
        ("/artifacts/root.img/size", json!(4096), "root.img"),
        ("/artifacts/root.img/size", json!(3 * 4096 + 1), "root.img"),
        ("/law/kernel_hashes/cmdline", json!(zero), "law.kernel_hashes.cmdline"),
        ("/release/platform", json!("simulated"), "release.platform"),
        ("/boot/verity/root_hash", json!(zero), "boot.verity"),
        ("/release/name", json!("a b"), "release name"),
        ("/release/version", json!(""), "release version"),
        ("/schema", json!(2), "schema 2"),
        ("/boot/cmdline", json!("quiet"), "boot.cmdline"),
        ("/reference_values", json!([]), "0 rows"),
        ("/reference_values/0/measurement", json!("00".repeat(48)), "by the law"),
        ("/law/reset_eip", json!("0x80b005"), "by the law"),
        ("/law/firmware_pages", json!("00".repeat(48)), "by the law"),
        ("/reference_values/0/vcpus", json!(2), "stands before"),
    ] {
        let error = changed(pointer, value).expect_err(pointer).to_string();
        assert!(error.contains(expected), "{pointer}: {error}");
    }
    for (pointer, value) in [
        ("/guest_policy", json!("0x10000")),
        ("/guest_policy", json!(196_608)),
        ("/law/hashes_table_gpa", json!("0x0")),
        ("/law/sections", json!([])),
        ("/law/sections/3/size", json!(8192)),
        ("/release", json!({"name": "a", "version": "1", "platform": "snp", "x": 1})),
        ("/reference_values/0/cpu_model", json!("host")),
        ("/reference_values/0/vcpus", json!(0)),
    ] {
        let error = changed(pointer, value).expect_err(pointer);
        assert!(matches!(error, ManifestError::Malformed(_)), "{pointer}: {error}");
    }
}

#[test]
fn artifacts_are_the_six_and_rows_sorted_and_once() {
    let mut manifest = good();
    manifest.artifacts.remove("sbom.json");
    assert!(matches!(manifest.to_bytes(), Err(ManifestError::Artifacts { .. })));
    let mut manifest = good();
    let root = manifest.artifacts["root.img"];
    manifest.artifacts.insert("../root.img".into(), root);
    assert!(matches!(manifest.to_bytes(), Err(ManifestError::Artifacts { .. })));
    let mut manifest = good();
    manifest.reference_values.swap(0, 1);
    assert!(matches!(manifest.to_bytes(), Err(ManifestError::Table { .. })));
    let mut manifest = good();
    let row = manifest.reference_values[0];
    manifest.reference_values.insert(0, row);
    assert!(matches!(manifest.to_bytes(), Err(ManifestError::Table { .. })));
}

#[test]
fn other_spellings_are_refused() {
    let bytes = good().to_bytes().unwrap();
    let mut newline = bytes.clone();
    newline.push(b'\n');
    assert!(matches!(Manifest::from_bytes(&newline), Err(ManifestError::Malformed(_))));
    assert!(Manifest::from_bytes(b"").is_err());
    let long = vec![b' '; 8 * 1024 * 1024 + 1];
    assert!(matches!(Manifest::from_bytes(&long), Err(ManifestError::TooLong { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn no_changed_byte_panics(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let original = good().to_bytes().unwrap();
        let mut bytes = original.clone();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        // One that is still accepted lists the same digests: the law and the table were not
        // changed together.
        if let Ok(manifest) = Manifest::from_bytes(&bytes) {
            let digests = |manifest: &Manifest| -> Vec<LaunchDigest> {
                manifest.reference_values.iter().map(|row| row.measurement).collect()
            };
            prop_assert_eq!(digests(&manifest), digests(&good()));
        }
    }
}

//! A release directory that is not what its manifest says is refused, and the refusal names the
//! file, what was found and what was expected.

use std::fs;
use std::path::Path;

use casemate_launcher::release::{Release, ReleaseError};
use casemate_measurements::manifest::{Manifest, ReferenceValue, artifact};
use casemate_measurements::platform::Platform;

use crate::fixture::Contents;

fn written(dir: &Path) -> Manifest {
    Contents::unbootable(Platform::Simulated).write(dir)
}

#[test]
fn a_whole_release_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = written(dir.path());
    let release = Release::open(dir.path()).unwrap();
    assert_eq!(*release.manifest(), manifest);
    assert_eq!(release.path(artifact::ROOT), dir.path().join("root.img"));
}

#[test]
fn one_flipped_bit_in_any_artifact_is_refused() {
    for name in artifact::ALL {
        let dir = tempfile::tempdir().unwrap();
        let manifest = written(dir.path());
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = Release::open(dir.path()).unwrap_err();
        let ReleaseError::Hash { path: named, found, expected } = &error else {
            panic!("{name}: {error}");
        };
        assert_eq!((named, *expected), (&path, manifest.artifacts[name].sha256));
        let text = error.to_string();
        assert!(
            text.contains(&found.to_string()) && text.contains(&expected.to_string()),
            "{text}"
        );
    }
}

#[test]
fn missing_short_and_special_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = written(dir.path());
    let path = dir.path().join(artifact::ROOT);
    fs::write(&path, [0; 8191]).unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(matches!(error, ReleaseError::Size { found: 8191, expected: 8192, .. }), "{error}");
    fs::remove_file(&path).unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(matches!(&error, ReleaseError::Read { path: p, .. } if *p == path), "{error}");
    fs::create_dir(&path).unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(matches!(error, ReleaseError::NotAFile { .. }), "{error}");
    fs::remove_file(dir.path().join("manifest.json")).unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("manifest.json"), "{error}");
    drop(manifest);
}

#[test]
fn a_malformed_manifest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let path = dir.path().join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    for wrong in [String::new(), text.replacen('{', "{ ", 1), text.replacen('1', "2", 1)] {
        fs::write(&path, wrong).unwrap();
        let error = Release::open(dir.path()).unwrap_err();
        assert!(matches!(error, ReleaseError::Manifest { .. }), "{error}");
    }
}

#[test]
fn a_law_of_another_firmware_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let genuine = written(dir.path());
    // A publisher whose table is of a firmware with other sections, but who names this file's
    // hash: the manifest agrees with itself, not with the files.
    let json = serde_json::to_string(&genuine.law).unwrap();
    let other = json.replace("\"0x800000\"", "\"0x900000\"");
    assert_ne!(json, other);
    let law = serde_json::from_str(&other).unwrap();
    let shapes: Vec<_> = genuine.reference_values.iter().map(ReferenceValue::shape).collect();
    let reference_values = Manifest::table(&law, &shapes);
    let forged = Manifest { law, reference_values, ..genuine };
    fs::write(dir.path().join("manifest.json"), forged.to_bytes().unwrap()).unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(matches!(error, ReleaseError::Law { .. }), "{error}");
}

//! Manifests: what is read is written the same.
#![no_main]

use casemate_measurements::manifest::Manifest;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        assert_eq!(manifest.to_bytes().expect("it was read"), bytes);
    }
});

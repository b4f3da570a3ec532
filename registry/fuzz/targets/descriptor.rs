//! What a store says an artifact is: whatever is accepted is bounded, leads nowhere else, and is
//! written as it was read. So is the manifest around it.
#![no_main]

use casemate_registry::artifact::blob::MAX_BLOB;
use casemate_registry::artifact::descriptor::{Chunk, Descriptor, MAX_FILE};
use casemate_registry::artifact::manifest::ManifestBytes;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = ManifestBytes::new(bytes.to_vec()).read() {
        for blob in manifest.blobs().unwrap_or_default().iter().skip(1) {
            assert!(blob.size <= MAX_BLOB);
        }
    }
    let Ok(descriptor) = Descriptor::from_bytes(bytes) else { return };
    assert_eq!(descriptor.to_bytes().unwrap(), bytes);
    for (path, file) in descriptor.files() {
        let plain = std::path::Path::new(path)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        assert!(plain && !path.contains("//"), "{path}");
        let mut end = 0;
        for (offset, chunk) in file.chunks() {
            assert_eq!(offset, end, "chunks follow each other");
            end += chunk.size();
            assert!(!matches!(chunk, Chunk::Stored(blob) if blob.size > MAX_BLOB));
        }
        assert!(end == file.size() && end <= MAX_FILE);
    }
});

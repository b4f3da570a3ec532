//! Signed indexes: what is read is written the same, and holds to itself.
#![no_main]

use casemate_registry::index::IndexFile;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = IndexFile::from_bytes(bytes) {
        file.index().check().expect("it was read");
        let written = file.to_bytes().expect("it was read");
        let again = IndexFile::from_bytes(&written).expect("it was written");
        assert_eq!(again.index(), file.index());
        assert_eq!(again.to_bytes().expect("it was read"), written);
    }
});

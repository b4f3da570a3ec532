//! References as people type them: whatever is read is written as it is read, and no error quotes
//! what stands before an `@` in the host.
#![no_main]

use casemate_registry::reference::{Named, Reference};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let again: Reference = reference.to_string().parse().expect("what is written is read");
        assert_eq!(again, reference);
    }
    if let Ok(named) = text.parse::<Named>() {
        let again: Named = named.to_string().parse().expect("what is written is read");
        assert_eq!(again, named);
    }
    if text.len() < 100 && !text.contains(['@', '/', '#', '?']) {
        let error = format!("https://me:hunter2@{text}").parse::<Reference>().unwrap_err();
        assert!(text.contains("hunter2") || !error.to_string().contains("hunter2"));
    }
});

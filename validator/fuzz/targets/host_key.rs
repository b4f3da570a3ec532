//! A host key out of evidence: what is read is written as the same single line.
#![no_main]

#[path = "../../src/host_key.rs"]
#[allow(dead_code, unreachable_pub)]
mod host_key;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(key) = text.parse::<host_key::HostKey>() {
        assert_eq!(key.to_string(), text);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
});

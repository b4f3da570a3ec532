//! Signers files, and patterns over identities.
#![no_main]

use casemate_registry::verify::{Pattern, Policy, PolicyError};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let nothing = |name: &str| Err(PolicyError::NoRoot { name: name.to_owned() });
    if let Ok(policy) = Policy::from_toml(text, &nothing) {
        assert!((1..=policy.signers().len()).contains(&policy.threshold()));
    }
    if let Ok(pattern) = text.parse::<Pattern>() {
        assert!(text.contains('*') || pattern.matches(text));
        assert_eq!(pattern.to_string(), text);
    }
});

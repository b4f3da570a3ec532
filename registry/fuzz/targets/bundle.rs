//! Bundles: whatever they hold, none that nobody signed counts.
#![no_main]

use std::sync::OnceLock;

use casemate_registry::attestation::{MANIFEST_PREDICATE, Statement, StatementError, Subjects};
use casemate_registry::verify::{Expected, Policy, Predicate, judge};

/// A key whose private half nobody has kept, and the public instance's root.
const POLICY: &str = r#"
schema = 1
threshold = 1
trusted_root = "public"

[[signer]]
name = "key"
key = """
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbVOVJC6cB7Ie0w0c4Se2iaG+76ib
aUPUsaNAratDl9SZ/PCkbWm/ovWwTtw6Et+JrKDjBcBbDXtPIikep4Yazw==
-----END PUBLIC KEY-----
"""

[[signer]]
name = "identity"
issuer = "https://i.example"
subject = "https://s.example/**"
"#;

#[derive(Debug)]
struct Anything;

impl Predicate for Anything {
    fn check(&self, _: &Statement) -> Result<(), StatementError> {
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    static READ: OnceLock<Policy> = OnceLock::new();
    let policy = READ.get_or_init(|| {
        Policy::from_toml(POLICY, &|name| unreachable!("{name} is not read")).expect("a policy")
    });
    let subjects = Subjects::new();
    let expected =
        Expected { predicate_type: MANIFEST_PREDICATE, subjects: &subjects, predicate: &Anything };
    let judged = judge(&[("fuzz".to_owned(), bytes.to_vec())], &expected, policy, None);
    assert!(!judged.is_trusted() && judged.bundles[0].outcome.is_err());
});

//! Acceptable? Who vouched for the launch, by the ID block that the security processor checked:
//! its ids and security version, and the digests of the keys that signed.

use std::fmt;

use serde::{Deserialize, Deserializer};

use crate::hash::{FamilyId, ImageId, Sha384Hash};
use crate::identity::Identity;
use crate::report::Report;

use super::expect::{self, Expect};
use super::verdict::{CheckName, Recorder};

/// What a fact of the ID block must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdRule<T> {
    /// What the manifest of the release states. Of a release that names no keys no block is
    /// accepted: anyone can sign one.
    OfManifest,
    /// This, whatever the manifest states.
    Is(Expect<T>),
}

impl<T: fmt::Display> fmt::Display for IdRule<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfManifest => f.write_str("the manifest's"),
            Self::Is(expected) => expected.fmt(f),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for IdRule<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = expect::unless_manifest(deserializer)?;
        Ok(expected.map_or(Self::OfManifest, Self::Is))
    }
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for IdRule<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("IdRule_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        expect::or_manifest_schema::<T>(generator)
    }
}

/// What a verifier accepts of ID blocks. A digest of zeros stands for "no key".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlockPolicy {
    /// `FAMILY_ID`.
    pub family_id: IdRule<FamilyId>,
    /// `IMAGE_ID`.
    pub image_id: IdRule<ImageId>,
    /// Least `GUEST_SVN`, where the manifest does not state a higher one.
    pub least_guest_svn: u32,
    /// Digest of the key that signed the block.
    pub id_key: IdRule<Sha384Hash>,
    /// Digest of the key that signed that key.
    pub author_key: IdRule<Sha384Hash>,
}

impl IdBlockPolicy {
    /// What the manifest states, and nothing else.
    pub const OF_MANIFEST: Self = Self {
        family_id: IdRule::OfManifest,
        image_id: IdRule::OfManifest,
        least_guest_svn: 0,
        id_key: IdRule::OfManifest,
        author_key: IdRule::OfManifest,
    };
}

/// Judges, recording both checks.
pub(super) fn judge(
    identity: Option<&Identity>,
    policy: &IdBlockPolicy,
    report: &Report,
    recorder: &mut Recorder<'_>,
) {
    let none = Identity::default();
    let identity = identity.unwrap_or(&none);
    judge_keys(identity, policy, report, recorder);
    // Without a block the security processor reports zeros, whatever the manifest states. That
    // no block is missing is the other check's matter.
    let without = report.id_key_digest() == Sha384Hash::ZERO && !identity.requires_block();
    let stated = if without { &none } else { identity };
    let family = expectation(&policy.family_id, || Expect::Exactly(stated.family_id));
    let image = expectation(&policy.image_id, || Expect::Exactly(stated.image_id));
    let least = policy.least_guest_svn.max(stated.guest_svn);
    let accepted = [
        family.accepts(&report.family_id()),
        image.accepts(&report.image_id()),
        Some(report.guest_svn() >= least),
    ];
    let expected = format!("family {family}, image {image}, SVN at least {least}");
    let (family, image, svn) = (report.family_id(), report.image_id(), report.guest_svn());
    let found = format!("family {family}, image {image}, SVN {svn}");
    if accepted[..2] == [None, None] && least == 0 {
        recorder.skip(CheckName::IdBlock, &expected, &not_judged(&found));
        return;
    }
    let passed = accepted.iter().all(|accepted| accepted.unwrap_or(true));
    recorder.record(CheckName::IdBlock, passed, &expected, &found);
}

fn judge_keys(
    identity: &Identity,
    policy: &IdBlockPolicy,
    report: &Report,
    recorder: &mut Recorder<'_>,
) {
    let (id_key, author_key) = (report.id_key_digest(), report.author_key_digest());
    let expected_author = expectation(&policy.author_key, || named(&identity.author_keys));
    let expected_id = expectation(&policy.id_key, || {
        // An author that is named vouches for whatever ID key it signed.
        let vouched = identity.id_keys.is_empty() && !identity.author_keys.is_empty();
        if vouched { Expect::Any } else { named(&identity.id_keys) }
    });
    let found = format!("ID key {}, author key {}", Key(id_key), Key(author_key));
    let shown = |expected: &Expect<Sha384Hash>| match expected {
        Expect::Exactly(key) => Expect::Exactly(Key(*key)).to_string(),
        Expect::OneOf(keys) => Expect::OneOf(keys.iter().copied().map(Key).collect()).to_string(),
        Expect::Any => "any".to_owned(),
    };
    let expected =
        format!("ID key {}, author key {}", shown(&expected_id), shown(&expected_author));
    if report.has_author_key() != (author_key != Sha384Hash::ZERO) {
        let found = format!("{found}, which contradicts the report's flag for author keys");
        recorder.record(CheckName::IdKeys, false, &expected, &found);
        return;
    }
    match (expected_id.accepts(&id_key), expected_author.accepts(&author_key)) {
        (None, None) => recorder.skip(CheckName::IdKeys, &expected, &not_judged(&found)),
        (id, author) => {
            let passed = id.unwrap_or(true) && author.unwrap_or(true);
            recorder.record(CheckName::IdKeys, passed, &expected, &found);
        }
    }
}

fn not_judged(found: &str) -> String {
    format!("{}: {found}", super::verdict::ANY)
}

fn expectation<T: Clone>(rule: &IdRule<T>, of_manifest: impl FnOnce() -> Expect<T>) -> Expect<T> {
    match rule {
        IdRule::OfManifest => of_manifest(),
        IdRule::Is(expected) => expected.clone(),
    }
}

/// One of the keys of a list, and no key where it is empty.
fn named(keys: &[Sha384Hash]) -> Expect<Sha384Hash> {
    match keys {
        [] => Expect::Exactly(Sha384Hash::ZERO),
        [key] => Expect::Exactly(*key),
        keys => Expect::OneOf(keys.to_vec()),
    }
}

/// A digest of a key, or that there is none.
struct Key(Sha384Hash);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Sha384Hash::ZERO { f.write_str("none") } else { write!(f, "{}", self.0) }
    }
}

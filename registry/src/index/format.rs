//! The signed document.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use casemate_measurements::appraisal::MinimumVersion;
use casemate_measurements::canonical::{self, CanonicalError};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use serde::{Deserialize, Serialize};

/// Most entries, revocations, and minimum versions.
const MAX_ENTRIES: usize = 10_000;
/// The greatest version: every reader of JSON holds it exactly.
const MAX_VERSION: u64 = (1 << 53) - 1;

/// Why an index is refused, whoever signed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// It is of another version of the format.
    #[error("the index has schema {found}, expected {}", Index::SCHEMA)]
    Schema {
        /// The version found.
        found: u32,
    },
    /// A value is not what it should be.
    #[error("{what} of the index is {found:?}: expected {expected}")]
    Value {
        /// Which.
        what: &'static str,
        /// What it is, shortened.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// There are too many.
    #[error("the index has {found} {what}, expected at most {MAX_ENTRIES}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
    },
    /// Something is there twice or in disorder.
    #[error("{what} of the index are not sorted, each once: {at}")]
    Order {
        /// Of what.
        what: &'static str,
        /// Where.
        at: String,
    },
    /// It ends before it begins.
    #[error("the index expires {expires}, before it was issued, {issued}")]
    Times {
        /// When it was issued.
        issued: Time,
        /// Until when it holds.
        expires: Time,
    },
}

/// A time: seconds since 1970, written as `2026-11-25T21:49:02Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        casemate_measurements::chain::UnixTime(self.0).fmt(f)
    }
}

impl FromStr for Time {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let wrong = || FormatError::Value {
            what: "a time",
            found: text.chars().take(40).collect(),
            expected: "a time such as 2026-11-25T21:49:02Z",
        };
        let date: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let time = Self(u64::try_from(date.as_second()).map_err(|_| wrong())?);
        // One time, one spelling.
        if time.to_string() == text { Ok(time) } else { Err(wrong()) }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Time {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$";
        schemars::json_schema!({ "type": "string", "pattern": pattern })
    }
}

impl TryFrom<String> for Time {
    type Error = FormatError;

    fn try_from(text: String) -> Result<Self, FormatError> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the image.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The platform that it is built for.
    pub platform: Platform,
    /// SHA-256 of its manifest.json.
    pub manifest_sha256: Sha256Hash,
    /// Digest of its OCI manifest, by which every store has it: without it no channel leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_sha256: Option<Sha256Hash>,
    /// The channels that it is the current release of, sorted.
    pub channels: BTreeSet<String>,
}

impl Entry {
    /// What no two entries have in common.
    fn key(&self) -> (&str, &str, Platform) {
        (&self.name, &self.version, self.platform)
    }
}

/// A release that nobody may use any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// SHA-256 of its manifest.json.
    pub manifest_sha256: Sha256Hash,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Time,
}

/// The index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Version of this format: [`Index::SCHEMA`].
    pub schema: u32,
    /// What the index is called: readers remember by it what they saw.
    pub name: String,
    /// Counts up with every change.
    pub version: u64,
    /// When it was signed first.
    pub issued: Time,
    /// Until when it holds: who sees no newer one by then is being kept from it.
    pub expires: Time,
    /// The least version of an image that may be used.
    pub minimum: BTreeMap<String, String>,
    /// The releases, sorted by name, version and platform.
    pub releases: Vec<Entry>,
    /// The revoked ones, sorted by hash.
    pub revoked: Vec<Revocation>,
}

impl Index {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;

    /// Its canonical bytes.
    ///
    /// # Errors
    /// Never for values of this type; the writer's error is passed on.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CanonicalError> {
        canonical::to_vec(self)
    }

    /// Holds the index to itself.
    ///
    /// # Errors
    /// When a value is out of bounds, or something is there twice or in disorder.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.schema != Self::SCHEMA {
            return Err(FormatError::Schema { found: self.schema });
        }
        check_word("name", &self.name)?;
        if self.version == 0 || self.version > MAX_VERSION {
            let expected = "a whole number from 1 to 2^53 - 1";
            return Err(value("version", &self.version.to_string(), expected));
        }
        if self.expires <= self.issued {
            return Err(FormatError::Times { issued: self.issued, expires: self.expires });
        }
        for (what, found) in [
            ("releases", self.releases.len()),
            ("revocations", self.revoked.len()),
            ("minimum versions", self.minimum.len()),
        ] {
            if found > MAX_ENTRIES {
                return Err(FormatError::TooMany { what, found });
            }
        }
        for (image, version) in &self.minimum {
            check_word("an image", image)?;
            if version.parse::<MinimumVersion>().is_err() {
                return Err(value("a minimum version", version, "MAJOR.MINOR.PATCH"));
            }
        }
        self.check_releases()?;
        let mut pairs = self.revoked.windows(2);
        if let Some(pair) = pairs.find(|pair| pair[0].manifest_sha256 >= pair[1].manifest_sha256) {
            let at = pair[1].manifest_sha256.to_string();
            return Err(FormatError::Order { what: "revocations", at });
        }
        for Revocation { reason, .. } in &self.revoked {
            let plain = !reason.is_empty() && !reason.chars().any(char::is_control);
            if !plain || reason.len() > 500 {
                return Err(value("a reason", reason, "1 to 500 characters on one line"));
            }
        }
        Ok(())
    }

    fn check_releases(&self) -> Result<(), FormatError> {
        let mut current = BTreeSet::new();
        for entry in &self.releases {
            check_word("an image", &entry.name)?;
            check_word("a version", &entry.version)?;
            for channel in &entry.channels {
                check_word("a channel", channel)?;
                if !current.insert((&entry.name, entry.platform, channel)) {
                    let at = format!("{} has two current releases in {channel}", entry.name);
                    return Err(FormatError::Order { what: "channels", at });
                }
            }
        }
        let mut pairs = self.releases.windows(2);
        match pairs.find(|pair| pair[0].key() >= pair[1].key()) {
            None => Ok(()),
            Some(pair) => {
                let at = format!("{} {}", pair[1].name, pair[1].version);
                Err(FormatError::Order { what: "releases", at })
            }
        }
    }

    /// Why a release may not be used, if it may not.
    #[must_use]
    pub fn objection(&self, name: &str, version: &str, manifest: &Sha256Hash) -> Option<String> {
        let revoked = |revoked: &&Revocation| revoked.manifest_sha256 == *manifest;
        if let Some(revocation) = self.revoked.iter().find(revoked) {
            return Some(format!("revoked since {}: {}", revocation.since, revocation.reason));
        }
        if let Some(minimum) = self.minimum.get(name)
            && !minimum.parse::<MinimumVersion>().is_ok_and(|minimum| minimum.accepts(version))
        {
            return Some(format!("below the minimum version {minimum}"));
        }
        let listed = |entry: &Entry| {
            (entry.name.as_str(), entry.version.as_str()) == (name, version)
                && entry.manifest_sha256 == *manifest
        };
        if self.releases.iter().any(listed) {
            return None;
        }
        Some("not in the index".to_owned())
    }
}

fn value(what: &'static str, found: &str, expected: &'static str) -> FormatError {
    FormatError::Value { what, found: found.chars().take(80).collect(), expected }
}

/// Whether it is a name as indexes have them: safe in a path and in a reference.
pub(crate) fn is_word(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && text.len() <= 64 && text.bytes().all(inner)
}

fn check_word(what: &'static str, text: &str) -> Result<(), FormatError> {
    if is_word(text) {
        return Ok(());
    }
    let expected = "1 to 64 of a-z, A-Z, 0-9, '.', '+', '-', '_' and a letter or digit first";
    Err(value(what, text, expected))
}

//! Which releases a policy accepts and which it refuses.

#[cfg(feature = "schema")]
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use super::expect::Expect;
use super::rules::{Expiry, RuleError, deserialize_text, shorten};
use crate::hash::Sha256Hash;
use crate::manifest::Release;

deserialize_text!(MinimumVersion);

/// The least version, in the order of precedence of `SemVer` 2.0.0: a pre-release comes before
/// its release, what follows a '+' does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinimumVersion(semver::Version);

impl MinimumVersion {
    /// Whether `version` is at least this; false when it has no order.
    #[must_use]
    pub fn accepts(&self, version: &str) -> bool {
        semver::Version::parse(version).is_ok_and(|found| found.cmp_precedence(&self.0).is_ge())
    }
}

impl FromStr for MinimumVersion {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let version = semver::Version::parse(text);
        version.map(Self).map_err(|_| RuleError::Version(shorten(text)))
    }
}

impl fmt::Display for MinimumVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at least {}", self.0)
    }
}

/// A release that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRelease")]
pub struct ReleaseRule {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Expect<String>,
    /// The least version; `None` accepts every one that `version` does.
    pub minimum: Option<MinimumVersion>,
    /// SHA-256 of its manifest.
    pub manifest_sha256: Expect<Sha256Hash>,
    /// Until when it is accepted.
    pub expires: Expiry,
}

impl ReleaseRule {
    /// Whether the name and the version are the ones that this is about.
    #[must_use]
    pub fn names(&self, release: &Release) -> bool {
        let minimum = self.minimum.as_ref();
        self.name == release.name
            && self.version.accepts(&release.version).unwrap_or(true)
            && minimum.is_none_or(|minimum| minimum.accepts(&release.version))
    }
}

impl fmt::Display for ReleaseRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, version, minimum, .. } = self;
        match (version, minimum) {
            (Expect::Any, Some(minimum)) => write!(f, "{name} {minimum}"),
            (version, Some(minimum)) => write!(f, "{name} {version}, {minimum}"),
            (version, None) => write!(f, "{name} {version}"),
        }
    }
}

/// `[[release]]` of a policy file.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawRelease {
    /// Name of the release.
    name: String,
    /// Versions; may be left out where `minimum` is stated.
    version: Option<Expect<String>>,
    /// The least version, by the precedence of `SemVer` 2.0.0.
    minimum: Option<MinimumVersion>,
    /// SHA-256 of manifest.json; any when left out.
    manifest_sha256: Option<Expect<Sha256Hash>>,
    /// The first day on which it is refused; never when left out.
    expires: Option<Expiry>,
}

impl TryFrom<RawRelease> for ReleaseRule {
    type Error = RuleError;

    fn try_from(raw: RawRelease) -> Result<Self, RuleError> {
        let RawRelease { name, version, minimum, manifest_sha256, expires } = raw;
        let version = match (version, &minimum) {
            (Some(version), _) => version,
            (None, Some(_)) => Expect::Any,
            (None, None) => return Err(RuleError::NoVersion(shorten(&name))),
        };
        let manifest_sha256 = manifest_sha256.unwrap_or(Expect::Any);
        let expires = expires.unwrap_or(Expiry::Never);
        Ok(Self { name, version, minimum, manifest_sha256, expires })
    }
}

/// Releases that are refused, whatever else accepts them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRevoked")]
pub struct Revoked {
    what: RevokedWhat,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RevokedWhat {
    Versions(String, Vec<String>),
    Below(String, MinimumVersion),
    Manifest(Sha256Hash),
}

impl Revoked {
    /// Revokes the release with this manifest.
    #[must_use]
    pub const fn manifest(sha256: Sha256Hash, reason: String) -> Self {
        Self { what: RevokedWhat::Manifest(sha256), reason }
    }

    /// Whether this release is refused. Below a version is also what cannot be compared with it.
    #[must_use]
    pub fn covers(&self, release: &Release, manifest: &Sha256Hash) -> bool {
        match &self.what {
            RevokedWhat::Versions(name, versions) => {
                *name == release.name && versions.contains(&release.version)
            }
            RevokedWhat::Below(name, least) => {
                *name == release.name && !least.accepts(&release.version)
            }
            RevokedWhat::Manifest(sha256) => sha256 == manifest,
        }
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            RevokedWhat::Versions(name, versions) => write!(f, "{name} {}", versions.join(", "))?,
            RevokedWhat::Below(name, MinimumVersion(least)) => write!(f, "{name} below {least}")?,
            RevokedWhat::Manifest(sha256) => write!(f, "manifest {sha256}")?,
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// `[[revoked]]` of a policy file.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct RawRevoked {
    /// Name of the release.
    name: Option<String>,
    /// The versions that are revoked.
    versions: Option<Vec<String>>,
    /// Every version below this one is revoked, by the precedence of `SemVer` 2.0.0.
    below: Option<MinimumVersion>,
    /// SHA-256 of the manifest that is revoked.
    manifest_sha256: Option<Sha256Hash>,
    /// Why, for the verdict.
    #[serde(default)]
    reason: String,
}

impl TryFrom<RawRevoked> for Revoked {
    type Error = RuleError;

    fn try_from(raw: RawRevoked) -> Result<Self, RuleError> {
        let RawRevoked { name, versions, below, manifest_sha256, reason } = raw;
        let what = match (name, versions, below, manifest_sha256) {
            (Some(name), Some(versions), None, None) if !versions.is_empty() => {
                RevokedWhat::Versions(name, versions)
            }
            (Some(name), None, Some(below), None) => RevokedWhat::Below(name, below),
            (None, None, None, Some(sha256)) => RevokedWhat::Manifest(sha256),
            _ => return Err(RuleError::Revoked),
        };
        Ok(Self { what, reason })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for MinimumVersion {
    fn schema_name() -> Cow<'static, str> {
        "MinimumVersion".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9]+\\.[0-9]+\\.[0-9]+" })
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ReleaseRule {
    fn schema_name() -> Cow<'static, str> {
        "ReleaseRule".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RawRelease::json_schema(generator)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Revoked {
    fn schema_name() -> Cow<'static, str> {
        "Revoked".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        RawRevoked::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let least: MinimumVersion = "1.2.0".parse().unwrap();
        for version in ["1.2.0", "1.2.0+build", "1.10.0", "2.0.0-rc.1"] {
            assert!(least.accepts(version), "{version}");
        }
        for version in ["1.2.0-rc.1", "1.1.9", "1.2", "2", "v2.0.0", "", "01.3.0"] {
            assert!(!least.accepts(version), "{version}");
        }
        assert!("1.2".parse::<MinimumVersion>().is_err());
    }
}

//! The words a recipe and a lock are made of: package, suite, archive and version names, key
//! fingerprints, package requests.
//!
//! Each is checked once, where it is read; past that a name cannot hold a path, an option, a
//! line break or a blank.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// Why a text is not one of this module's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {expected}")]
pub struct WordError {
    /// The refused text, shortened to 140 characters.
    text: String,
    /// What was expected, in the words of the field.
    what: &'static str,
    /// The rule that was broken.
    expected: &'static str,
}

impl WordError {
    pub(crate) fn new(text: &str, what: &'static str, expected: &'static str) -> Self {
        Self { text: text.chars().take(140).collect(), what, expected }
    }
}

/// Reads a value from the text that a file holds for it. Parsing happens inside the visitor, so
/// that an error carries the place of this value, not of the array around it.
pub(crate) fn from_text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err = WordError>,
{
    struct Text<T>(std::marker::PhantomData<T>);

    impl<T: FromStr<Err = WordError>> serde::de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    from.deserialize_str(Text(std::marker::PhantomData))
}

macro_rules! word {
    ($(#[$attribute:meta])* $name:ident, $what:literal, $expected:literal, $valid:expr) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, ::serde::Serialize)]
        #[serde(into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::recipe::WordError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    return Ok(Self(text.to_owned()));
                }
                Err($crate::recipe::WordError::new(text, $what, $expected))
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                $crate::recipe::from_text(from)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}
pub(crate) use word;

/// Does `text` start with an ASCII lower-case letter or digit and go on with these and `more`?
pub(super) fn plain(text: &str, more: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c))
}

word!(
    /// The name of an image, also the stem of its files.
    ImageName, "an image name", "lower-case letters, digits and '-'",
    |text| plain(text, "-")
);
word!(
    /// The version of a release of an image.
    ImageVersion, "an image version", "digits and lower-case letters with '.', '-', '+', '~'",
    |text| plain(text, ".-+~")
);
word!(
    /// The name of a Debian binary package (Debian policy 5.6.1).
    PackageName, "a package name", "two or more of a-z, 0-9, '+', '-', '.', a letter or digit first",
    |text| text.len() >= 2 && plain(text, "+-.")
);
word!(
    /// The version of a Debian package, epoch included (Debian policy 5.6.12).
    Version, "a package version", "a digit first, then letters, digits and . + - ~ :",
    |text| text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:".contains(c))
);
word!(
    /// An architecture of Debian packages: `amd64` or `all`.
    Architecture, "a supported architecture", "\"amd64\" or \"all\"",
    |text| matches!(text, "amd64" | "all")
);
word!(
    /// A suite of an archive, by its code name: `trixie`, `trixie-updates`.
    Suite, "a suite name", "lower-case letters, digits, '-', '.' and '_'",
    |text| plain(text, "-._")
);
word!(
    /// A component of a suite: `main`.
    Component, "a component", "lower-case letters, digits and '-'",
    |text| plain(text, "-")
);
word!(
    /// What a recipe calls an archive; a machine's settings map it to mirrors: `debian`.
    ArchiveName, "an archive name", "lower-case letters, digits and '-'",
    |text| plain(text, "-")
);
word!(
    /// The full fingerprint of an `OpenPGP` primary key, in upper-case hex as gpg prints it.
    Fingerprint, "a key fingerprint", "40 or 64 upper-case hex digits without blanks",
    |text| matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'))
);
word!(
    /// The name of a kernel module, as modprobe takes it.
    ModuleName, "a kernel module name", "letters, digits, '-' and '_'",
    |text| !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
);
word!(
    /// A user or group of the guest.
    AccountName, "a user or group name", "a-z or '_' first, then a-z, 0-9, '-' and '_', at most 31",
    |text| text.len() <= 31
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
);
word!(
    /// A systemd unit, with its type: `ssh.service`, `getty@.service`.
    UnitName, "a systemd unit name", "letters, digits, and : _ . \\ - @ with a type after the last dot",
    |text| text.len() <= 255
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ":_.\\-@".contains(c))
        && text.rsplit_once('.').is_some_and(|(stem, kind)| {
            !stem.is_empty()
                && matches!(
                    kind,
                    "service" | "socket" | "target" | "timer" | "path" | "mount" | "automount"
                        | "swap" | "slice" | "scope" | "device"
                )
        })
);
word!(
    /// A Cargo package or one of its binaries.
    CrateName, "a crate or binary name", "letters, digits, '-' and '_'",
    |text| !text.is_empty()
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
);

/// A request for a package: `name`, `name/suite` or `name=version`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct PackageSpec {
    name: PackageName,
    suite: Option<Suite>,
    version: Option<Version>,
}

impl PackageSpec {
    /// The package's name.
    #[must_use]
    pub const fn name(&self) -> &PackageName {
        &self.name
    }

    /// The suite that it must come from, if the request says so.
    #[must_use]
    pub const fn suite(&self) -> Option<&Suite> {
        self.suite.as_ref()
    }

    /// The version that it must have, if the request says so.
    #[must_use]
    pub const fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }
}

impl fmt::Display for PackageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(suite) = &self.suite {
            write!(f, "/{suite}")?;
        }
        if let Some(version) = &self.version {
            write!(f, "={version}")?;
        }
        Ok(())
    }
}

impl FromStr for PackageSpec {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if let Some((name, suite)) = text.split_once('/') {
            return Ok(Self { name: name.parse()?, suite: Some(suite.parse()?), version: None });
        }
        if let Some((name, version)) = text.split_once('=') {
            return Ok(Self { name: name.parse()?, suite: None, version: Some(version.parse()?) });
        }
        Ok(Self { name: text.parse()?, suite: None, version: None })
    }
}

impl<'de> serde::Deserialize<'de> for PackageSpec {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}

impl From<PackageSpec> for String {
    fn from(value: PackageSpec) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_name_suite_or_version() {
        for text in ["bash", "rustc/trixie-backports", "libstdc++6=14.2.0-19", "g++=4:14.2.0-1"] {
            assert_eq!(text.parse::<PackageSpec>().unwrap().to_string(), text);
        }
        for text in ["", "a", "Bash", "bash/", "bash=", "-y", "bash/a b", "bash/x=1", "ba\nsh"] {
            assert!(text.parse::<PackageSpec>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn words_refuse_what_could_be_something_else() {
        assert!("4CB50190207B4758A3F73A796ED0E7B82643E131".parse::<Fingerprint>().is_ok());
        assert!("6ED0E7B82643E131".parse::<Fingerprint>().is_err());
        assert!("4cb50190207b4758a3f73a796ed0e7b82643e131".parse::<Fingerprint>().is_err());
        assert!("getty@.service".parse::<UnitName>().is_ok());
        assert!("getty".parse::<UnitName>().is_err());
        assert!("../x.service".parse::<UnitName>().is_err());
        assert!("arm64".parse::<Architecture>().is_err());
        assert!("../x".parse::<Suite>().is_err());
        assert!("1.0 ".parse::<Version>().is_err());
    }
}

//! Paths inside the guest, patterns over them, modes and owners.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{AccountName, WordError, from_text, word};

/// Is `text` absolute, without `.`, `..`, empty parts, a final slash or a control character?
pub(super) fn is_guest_path(text: &str) -> bool {
    text.len() <= 4095
        && !text.chars().any(char::is_control)
        && text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/')
                .all(|part| !part.is_empty() && part.len() <= 255 && part != "." && part != "..")
        })
}

word!(
    /// An absolute path inside the guest: `/usr/bin/env`. Never `/` itself.
    GuestPath, "a path inside the guest",
    "absolute, without '.', '..', empty parts, a final slash or control characters",
    is_guest_path
);

impl GuestPath {
    /// The path without its leading slash, as an archive of the root file system has it.
    #[must_use]
    pub fn relative(&self) -> &Path {
        Path::new(&self.as_str()[1..])
    }
}

/// A shell-like pattern over guest paths: `*` and `?` stay within a part, `**` does not.
#[derive(Debug, Clone, Serialize)]
#[serde(into = "String")]
pub struct PathPattern {
    text: String,
    matcher: globset::GlobMatcher,
}

impl PathPattern {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Does it match `path` (absolute, as a [`GuestPath`] is written)?
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        self.matcher.is_match(path)
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for PathPattern {}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl FromStr for PathPattern {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let bad = || {
            WordError::new(
                text,
                "a pattern over guest paths",
                "a well-formed glob that starts with '/' and has no '.', '..' or empty part",
            )
        };
        if !is_guest_path(text) {
            return Err(bad());
        }
        let glob = globset::GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map_err(|_| bad())?;
        Ok(Self { text: text.to_owned(), matcher: glob.compile_matcher() })
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from)
    }
}

impl From<PathPattern> for String {
    fn from(value: PathPattern) -> Self {
        value.text
    }
}

/// Permission bits of a file, setuid, setgid and sticky included; written as four octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mode(u16);

impl Mode {
    /// The bits, at most 0o7777.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl FromStr for Mode {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        if text.len() == 4
            && text.bytes().all(|b| matches!(b, b'0'..=b'7'))
            && let Ok(bits) = u16::from_str_radix(text, 8)
        {
            return Ok(Self(bits));
        }
        Err(WordError::new(text, "a file mode", "four octal digits, such as \"0755\""))
    }
}

impl TryFrom<String> for Mode {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}

impl From<Mode> for String {
    fn from(value: Mode) -> Self {
        value.to_string()
    }
}

/// Owner of a file by name: `user:group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Owner {
    user: AccountName,
    group: AccountName,
}

impl Owner {
    /// The user's name.
    #[must_use]
    pub const fn user(&self) -> &AccountName {
        &self.user
    }

    /// The group's name.
    #[must_use]
    pub const fn group(&self) -> &AccountName {
        &self.group
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.user, self.group)
    }
}

impl TryFrom<String> for Owner {
    type Error = WordError;

    fn try_from(text: String) -> Result<Self, WordError> {
        let (user, group) = text
            .split_once(':')
            .ok_or_else(|| WordError::new(&text, "an owner", "\"user:group\", both by name"))?;
        Ok(Self { user: user.parse()?, group: group.parse()? })
    }
}

impl From<Owner> for String {
    fn from(value: Owner) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_paths_have_one_spelling() {
        assert!("/usr/bin/[".parse::<GuestPath>().is_ok());
        for text in ["", "/", "usr", "/usr/", "/usr//bin", "/../etc", "/./x", "/a\nb", "/a\0"] {
            assert!(text.parse::<GuestPath>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_star_stays_within_one_part() {
        let pattern: PathPattern = "/usr/share/*/x.?".parse().unwrap();
        assert!(pattern.matches("/usr/share/doc/x.c"));
        assert!(!pattern.matches("/usr/share/doc/y/x.c"));
        let deep: PathPattern = "/usr/share/doc/**".parse().unwrap();
        assert!(deep.matches("/usr/share/doc/a/b"));
        assert!(!deep.matches("/usr/share/docs"));
        assert!("/usr/[".parse::<PathPattern>().is_err());
        assert!("usr/**".parse::<PathPattern>().is_err());
    }

    #[test]
    fn modes_are_four_octal_digits() {
        assert_eq!("4754".parse::<Mode>().unwrap().bits(), 0o4754);
        for text in ["755", "00755", "0855", "+755", ""] {
            assert!(text.parse::<Mode>().is_err(), "{text:?}");
        }
    }
}

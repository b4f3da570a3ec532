//! The parts of a policy that are more than a value: dates, ranges, keys, levels, times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer};
use x509_cert::der::DateTime;

use crate::chain::UnixTime;
use crate::hash::Sha256Hash;
use crate::launch::VcpuCount;
use crate::ssh_key::{KeyError, key_line};

/// Why a part of a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a date.
    #[error("{0:?} is no date: expected a day as \"2027-01-31\", or \"never\"")]
    Date(String),
    /// Not a version that has an order.
    #[error("{0:?} is no version that can be compared: expected MAJOR.MINOR.PATCH (SemVer 2.0.0)")]
    Version(String),
    /// Not a range of vCPUs.
    #[error("{0:?} is no range of vCPUs: expected one as \"1..=64\", from 1 to 512")]
    Vcpus(String),
    /// Not a key.
    #[error("{0:?} is no SSH public key: {1}")]
    Key(String, KeyError),
    /// Not a privilege level.
    #[error("VMPL {0}: expected 0 to 3")]
    Vmpl(u64),
    /// Not a time to wait.
    #[error("{0:?} is no time to wait: expected a number of seconds, or \"any\"")]
    Seconds(String),
    /// A release without a version.
    #[error("release {0:?} has neither `version` nor `minimum`: state one, or `version = \"any\"`")]
    NoVersion(String),
    /// A revocation of nothing, or of too much.
    #[error(
        "expected what is revoked: `name` with either `versions` or `below`, or else \
         `manifest_sha256`"
    )]
    Revoked,
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Reads text by [`FromStr`].
macro_rules! deserialize_text {
    ($($name:ty),*) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        })*
    };
}

deserialize_text!(Expiry, SshKey);
pub(super) use deserialize_text;

/// Until when something is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It does not expire.
    Never,
    /// Not from this moment on: the start of a day, UTC.
    From(UnixTime),
}

impl Expiry {
    /// Whether `now` is before it; `None` where it never is.
    #[must_use]
    pub fn holds_at(&self, now: UnixTime) -> Option<bool> {
        match self {
            Self::Never => None,
            Self::From(from) => Some(now.0 < from.0),
        }
    }
}

impl FromStr for Expiry {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let refused = || RuleError::Date(shorten(text));
        let digit = |(at, byte): (usize, u8)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        if text.len() != 10 || !text.bytes().enumerate().all(digit) {
            return Err(refused());
        }
        let (year, month, day) = (text[..4].parse(), text[5..7].parse(), text[8..].parse());
        let (Ok(year), Ok(month), Ok(day)) = (year, month, day) else { return Err(refused()) };
        let date = DateTime::new(year, month, day, 0, 0, 0).map_err(|_| refused())?;
        Ok(Self::From(UnixTime(date.unix_duration().as_secs())))
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::From(from) => write!(f, "before {from}"),
        }
    }
}

/// How many vCPUs, both ends included. In a policy file a number or `"1..=64"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawVcpus")]
pub struct VcpuRange {
    from: VcpuCount,
    to: VcpuCount,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum RawVcpus {
    /// This many.
    Count(u64),
    /// From and to, as `1..=64`.
    Range(String),
}

impl VcpuRange {
    /// Whether `count` is in it.
    #[must_use]
    pub fn contains(&self, count: VcpuCount) -> bool {
        (self.from..=self.to).contains(&count)
    }
}

impl TryFrom<RawVcpus> for VcpuRange {
    type Error = RuleError;

    fn try_from(raw: RawVcpus) -> Result<Self, RuleError> {
        let (text, ends) = match raw {
            RawVcpus::Count(count) => (count.to_string(), Some((count, count))),
            RawVcpus::Range(text) => {
                let ends = text.split_once("..=");
                let ends = ends.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                (text, ends)
            }
        };
        ends.and_then(|(from, to)| Some((VcpuCount::new(from).ok()?, VcpuCount::new(to).ok()?)))
            .filter(|(from, to)| from <= to)
            .map(|(from, to)| Self { from, to })
            .ok_or_else(|| RuleError::Vcpus(shorten(&text)))
    }
}

impl fmt::Display for VcpuRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { from, to } if from == to => write!(f, "{from}"),
            Self { from, to } => write!(f, "{from}..={to}"),
        }
    }
}

/// A public key of SSH, without its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey(String);

impl FromStr for SshKey {
    type Err = RuleError;

    /// Reads a line `TYPE BASE64 [COMMENT]`.
    fn from_str(line: &str) -> Result<Self, RuleError> {
        let whole = key_line(line).map_err(|error| RuleError::Key(shorten(line.trim()), error))?;
        Ok(Self(whole.split(' ').take(2).collect::<Vec<_>>().join(" ")))
    }
}

impl SshKey {
    /// Its SHA-256 as `ssh-keygen -l` prints it: `SHA256:` and base64 without padding. `None`
    /// where the key is no base64.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        let (_, key) = self.0.split_once(' ')?;
        let hash = Sha256Hash::of(&STANDARD.decode(key).ok()?);
        Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(hash.as_bytes())))
    }
}

impl fmt::Display for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A privilege level: 0 to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u64")]
pub struct Vmpl(u8);

impl Vmpl {
    /// The most privileged level.
    pub const MOST: Self = Self(0);

    /// The number, as a report has it.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.into()
    }
}

impl TryFrom<u64> for Vmpl {
    type Error = RuleError;

    fn try_from(level: u64) -> Result<Self, RuleError> {
        match u8::try_from(level) {
            Ok(level @ 0..=3) => Ok(Self(level)),
            _ => Err(RuleError::Vmpl(level)),
        }
    }
}

impl fmt::Display for Vmpl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How long evidence may have taken, from the sending of a fresh nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSeconds")]
pub enum AnswerTime {
    /// At most so long.
    AtMost(Duration),
    /// However long.
    Any,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(super) enum RawSeconds {
    /// At most so many seconds.
    Seconds(u32),
    /// `any`
    Any(String),
}

impl TryFrom<RawSeconds> for AnswerTime {
    type Error = RuleError;

    fn try_from(raw: RawSeconds) -> Result<Self, RuleError> {
        match raw {
            RawSeconds::Seconds(seconds) => Ok(Self::AtMost(Duration::from_secs(seconds.into()))),
            RawSeconds::Any(text) if text == "any" => Ok(Self::Any),
            RawSeconds::Any(text) => Err(RuleError::Seconds(shorten(&text))),
        }
    }
}

impl fmt::Display for AnswerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "at most {} s", most.as_secs()),
            Self::Any => f.write_str("any"),
        }
    }
}

/// JSON schemas of what is read from text or from more than one type.
#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    macro_rules! schema {
        ($($name:ident => $schema:tt;)*) => {
            $(impl JsonSchema for super::$name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            })*
        };
    }

    schema! {
        Expiry => { "type": "string", "pattern": "^(never|[0-9]{4}-[0-9]{2}-[0-9]{2})$" };
        SshKey => { "type": "string", "pattern": "^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]{16,4096}" };
        Vmpl => { "type": "integer", "minimum": 0, "maximum": 3 };
        AnswerTime => { "anyOf": [{ "type": "integer", "minimum": 0 }, { "const": "any" }] };
        VcpuRange => { "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 512 },
            { "type": "string", "pattern": "^[0-9]+\\.\\.=[0-9]+$" }
        ] };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_start_in_utc_and_do_not_exist_in_february() {
        let day: Expiry = "2027-01-01".parse().unwrap();
        assert_eq!(day, Expiry::From(UnixTime(1_798_761_600)));
        assert_eq!(day.holds_at(UnixTime(1_798_761_599)), Some(true));
        assert_eq!(day.holds_at(UnixTime(1_798_761_600)), Some(false));
        assert_eq!("never".parse::<Expiry>().unwrap().holds_at(UnixTime(0)), None);
        for text in [
            "",
            "2027-1-1",
            "2027-02-29",
            "2027-13-01",
            "2027-01-01T00:00",
            "27-01-01",
            "2027-01-01-01",
            "+027-01-01",
            "1969-01-01",
        ] {
            assert!(matches!(text.parse::<Expiry>(), Err(RuleError::Date(_))), "{text}");
        }
    }

    #[test]
    fn ranges_have_two_ends() {
        let range = |text: &str| VcpuRange::try_from(RawVcpus::Range(text.into()));
        let some = range("2..=4").unwrap();
        let contains = |count| some.contains(VcpuCount::new(count).unwrap());
        assert!(contains(2) && contains(4) && !contains(1) && !contains(5));
        for wrong in ["", "4..=2", "0..=4", "1..=513", "1..4", "1", "a..=b"] {
            assert!(matches!(range(wrong), Err(RuleError::Vcpus(_))), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_compared_without_its_comment() {
        const KEY: &str =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";
        let key = |line: &str| line.parse::<SshKey>();
        let one = key(&format!("{KEY} me")).unwrap();
        assert_eq!(one, key(&format!("{KEY} you")).unwrap());
        assert_eq!(one, key(&format!(" {}", KEY.replace(' ', "\t"))).unwrap());
        let fingerprint = "SHA256:IaYV2O9v7eHGTL6O2wcPPfRGr6IIHdAbVU7SKQ/G8oQ";
        assert_eq!(one.fingerprint().unwrap(), fingerprint);
        let error = key(&KEY[..60]).unwrap_err().to_string();
        assert!(error.contains("was it cut off when it was copied?"), "{error}");
        assert!(key(&format!("command=\"x\" {KEY}")).is_err());
    }
}

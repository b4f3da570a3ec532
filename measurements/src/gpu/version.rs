//! Versions of drivers: numbers with dots between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version: `550.90.07`. Compared number by number; what is missing at the end is less.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    numbers: Vec<u32>,
    text: String,
}

/// Why a text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version: expected numbers with dots between them, like \"580.65.06\"")]
pub struct VersionError(String);

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let refused = || VersionError(text.chars().take(40).collect());
        let number = |part: &str| {
            let digits = (1..=9).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            if digits { part.parse().map_err(|_| refused()) } else { Err(refused()) }
        };
        if text.len() > 40 {
            return Err(refused());
        }
        let numbers = text.split('.').map(number).collect::<Result<_, _>>()?;
        Ok(Self { numbers, text: text.to_owned() })
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.text
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("580.65.06") > version("580.9.200"));
        assert!(version("580.65.06") > version("580.65"));
        assert!(version("1000.1") > version("595.45.04"));
        assert_eq!(version("550.90.07").to_string(), "550.90.07");
        for bad in ["", ".", "1.", "1..2", "1.a", "-1", "+1", "1.9999999999", &"1".repeat(50)] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}

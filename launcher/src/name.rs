//! The name of a VM.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::state::StateError;

/// The name of a VM: a host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VmName(String);

impl VmName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = StateError;

    fn from_str(name: &str) -> Result<Self, StateError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ends = name.starts_with('-') || name.ends_with('-');
        if (1..=63).contains(&name.len()) && name.bytes().all(inner) && !ends {
            return Ok(Self(name.to_owned()));
        }
        Err(StateError::Name { name: name.chars().take(80).collect() })
    }
}

impl TryFrom<String> for VmName {
    type Error = StateError;

    fn try_from(name: String) -> Result<Self, StateError> {
        name.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl std::fmt::Display for VmName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

//! Where object stores are and who asks them, as the environment says it.

use std::ffi::OsString;
use std::fmt;

/// What variables about object stores begin with.
const PREFIXES: [&str; 2] = ["AWS_", "AZURE_"];

/// What the environment says about object stores: variables that begin with `AWS_` or `AZURE_`.
#[derive(Clone, Default)]
pub struct ObjectSettings(Vec<(String, String)>);

impl ObjectSettings {
    /// Takes those of `variables` that are about object stores and are not empty.
    #[must_use]
    pub fn from_environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let about = |(name, value): &(String, String)| {
            PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !value.is_empty()
        };
        Self(variables.filter_map(text).filter(about).collect())
    }

    /// The variables that begin with `prefix`, and their values.
    #[cfg(feature = "objects")]
    pub(super) fn of(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(move |(name, _)| name.starts_with(prefix))
    }
}

impl fmt::Debug for ObjectSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret.
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

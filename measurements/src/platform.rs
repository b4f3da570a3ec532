//! Which security processor signs: the real one, or the simulated one that is worth nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The platform that a release is built for and that evidence claims.
///
/// It is in the measured command line (`casemate.platform=`), so a guest built for one platform
/// can never be talked into the other, and it is refused by every verifier that was not told by
/// hand to trust a simulated root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// AMD SEV-SNP.
    Snp,
    /// A software security processor on the host. It proves nothing.
    Simulated,
}

impl Platform {
    /// The key of the command-line token that names the platform.
    pub const CMDLINE_KEY: &'static str = "casemate.platform";

    /// The lower-case name, as in JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Simulated => "simulated",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Snp, Self::Simulated].into_iter().find(|platform| platform.name() == name)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

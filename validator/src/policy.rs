//! Reads policy files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::appraisal::policy_file::{self, PolicyFile, PolicyFileError};
use casemate_measurements::appraisal::{Expect, Origin, Policy};
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is refused.
    #[error("the policy {} is refused", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PolicyFileError,
    },
}

/// Reads the policy in `path`. Where it does not state the platform, it is for the one that
/// `roots` were named for.
///
/// # Errors
/// When the file cannot be read or is refused.
pub fn read(path: &Path, roots: &Roots) -> Result<Policy, PolicyError> {
    let mut text = String::new();
    let most = policy_file::MAX_LEN as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(most).read_to_string(&mut text))
        .map_err(|source| PolicyError::Read { path: path.into(), source })?;
    let mut policy = PolicyFile::parse(&text)
        .map_err(|source| PolicyError::Refused { path: path.into(), source })?;
    if roots.trusts_simulated() && !policy.states("platform") {
        policy.platform = Expect::Exactly(Platform::Simulated);
        policy.state("platform", Origin::Option);
    }
    Ok(policy)
}

//! Whom a verifier believes: AMD's pinned roots, and a simulated root only where its file was
//! named by hand. Then the simulated platform is wanted and the real one is refused, so that
//! nobody leaves the simulation's root in a command line and thinks nothing of it.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::appraisal::Policy;
use casemate_measurements::chain::ChainError;
use casemate_measurements::roots::Roots;

use crate::files::{self, FileError};

/// Most bytes of a certificate's file.
const MAX_LEN: u64 = 64 * 1024;

/// Why it is not settled whom to believe.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The roots that this program carries are damaged.
    #[error("the roots of AMD in this program are damaged: install it again")]
    Amd(#[source] ChainError),
    /// The file cannot be read.
    #[error("cannot read the simulated root {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The manifests for GPUs cannot be used.
    #[error(transparent)]
    GpuManifests(#[from] FileError),
    /// The file holds something else.
    #[error(
        "{} is no simulated root: expected the certificate that the launcher of the SIMULATED \
         VM keeps as ark.pem",
        path.display()
    )]
    Simulated {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ChainError,
    },
}

/// AMD's roots, and the root in the file `simulated` where one is named.
///
/// # Errors
/// When the file cannot be read or holds no simulated root.
pub fn roots(simulated: Option<&Path>) -> Result<Roots, TrustError> {
    let roots = Roots::amd().map_err(TrustError::Amd)?;
    let Some(path) = simulated else { return Ok(roots) };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_LEN).read_to_end(&mut bytes))
        .map_err(|source| TrustError::Read { path: path.into(), source })?;
    roots
        .with_simulated(&bytes)
        .map_err(|source| TrustError::Simulated { path: path.into(), source })
}

/// As [`roots`]; GPUs are held to the reference integrity manifests in `gpu_manifests`.
///
/// # Errors
/// As [`roots`] and [`files::gpu_manifests`].
pub fn roots_with(
    simulated: Option<&Path>,
    gpu_manifests: Option<&Path>,
) -> Result<Roots, TrustError> {
    let roots = roots(simulated)?;
    match gpu_manifests {
        None => Ok(roots),
        Some(dir) => Ok(roots.with_gpu_manifests(files::gpu_manifests(dir)?)),
    }
}

/// `roots` with these manifests too; what is none of those that can be used stays out.
#[must_use]
pub fn with_manifests<'a>(roots: &'a Roots, manifests: &[Vec<u8>]) -> Cow<'a, Roots> {
    let mut more = Cow::Borrowed(roots);
    for manifest in manifests {
        if let Ok(with) = more.clone().into_owned().and_gpu_manifest(manifest) {
            more = Cow::Owned(with);
        }
    }
    more
}

/// The strict policy on the platform that `roots` were named for.
#[must_use]
pub fn policy(roots: &Roots) -> Policy {
    let policy = Policy::strict();
    if roots.trusts_simulated() { policy.simulated() } else { policy }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_simulated_or_refused_by_name() {
        assert!(!roots(None).unwrap().trusts_simulated());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ark.pem");
        let error = roots(Some(&path)).unwrap_err();
        assert!(matches!(&error, TrustError::Read { .. }), "{error}");
        std::fs::write(&path, "no certificate").unwrap();
        let error = roots(Some(&path)).unwrap_err();
        assert!(matches!(&error, TrustError::Simulated { .. }), "{error}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

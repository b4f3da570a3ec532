//! Whether the descriptor of a release says what its manifest says.
//!
//! A store writes the descriptor, signers sign the manifest. So what is shown, compared and
//! remembered of a release that was found is what both say.

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{FILE_NAME, MAX_LEN, Manifest, ManifestError};
use casemate_measurements::platform::Platform;

use super::files;
use super::pull::{PullError, Resolved};
use crate::store::Store;

/// How a descriptor and a manifest differ.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{store}: the descriptor of sha256:{digest} has the {what} {described}, its manifest.json \
     {found}: whoever published it made the descriptor wrongly, or the store lies"
)]
pub struct Contradiction {
    /// The store.
    pub store: String,
    /// The manifest of the artifact.
    pub digest: Sha256Hash,
    /// What differs.
    pub what: &'static str,
    /// The descriptor's word.
    pub described: String,
    /// The manifest's.
    pub found: String,
}

/// Why the manifest of a release that was found cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{store}: manifest.json of sha256:{digest} is refused")]
pub struct Unreadable {
    /// The store.
    pub store: String,
    /// The manifest of the artifact.
    pub digest: Sha256Hash,
    /// Why.
    pub source: ManifestError,
}

/// Reads the manifest of a release that was found, and holds name, version and platform of the
/// descriptor to it.
///
/// # Errors
/// When the store fails or lies, the manifest is refused, or the descriptor says something else.
pub fn hold(store: &dyn Store, release: &Resolved) -> Result<Manifest, PullError> {
    let (descriptor, digest) = (&release.descriptor, *release.manifest.sha256());
    let bytes = files::read(store, descriptor, FILE_NAME, MAX_LEN as u64)?.unwrap_or_default();
    let manifest = Manifest::from_bytes(&bytes).map_err(|source| {
        let unreadable = Unreadable { store: store.name(), digest, source };
        PullError::Unreadable(Box::new(unreadable))
    })?;
    let named = &manifest.release;
    let platform = |platform: Option<Platform>| platform.map_or("none", Platform::name);
    for (what, described, found) in [
        ("name", descriptor.name(), named.name.as_str()),
        ("version", descriptor.version(), &named.version),
        ("platform", platform(descriptor.platform()), platform(Some(named.platform))),
    ] {
        if described != found {
            let (described, found) = (described.to_owned(), found.to_owned());
            let store = store.name();
            let contradiction = Contradiction { store, digest, what, described, found };
            return Err(PullError::Contradiction(Box::new(contradiction)));
        }
    }
    Ok(manifest)
}

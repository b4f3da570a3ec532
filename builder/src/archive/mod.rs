//! Package archives: where they are served, what their signatures vouch for, what they offer.
//!
//! For the lock. The chain is: a fingerprint in the recipe, the signature on the Release file,
//! the hash of an index in it, the hash of a package in that. Each link is checked here.

mod apt_sources;
mod index;
mod keyring;
mod mirrors;
mod release;
mod suites;
mod version;

pub(crate) use index::{Candidate, Index, VerifiedSuite};
pub use keyring::{Keyring, SignatureError};
pub use mirrors::{MirrorError, MirrorSettings, Mirrors, NoMirror, VARIABLE, below};
pub use release::ReleaseError;
pub use suites::ArchiveError;
pub(crate) use suites::{Access, Asked};
pub use version::compare as compare_versions;

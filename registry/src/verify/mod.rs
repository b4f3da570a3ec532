//! Whose signatures stand under a statement, and whether they are enough: k distinct signers of a
//! policy must have signed the same thing.
//!
//! Verified: each signature, certificate and log entry, its time, the statement's version, kind,
//! subjects and predicate. Nothing is fetched, and the names of files say nothing.

mod glob;
mod judge;
mod manifest;
mod matching;
mod policy;
mod summary;

pub use glob::{Pattern, PatternError};
pub use judge::{Expected, Identity, Judged, Judgement, Predicate, Proof, Refusal, judge};
pub use manifest::{judge_manifest, subjects, unjudged};
#[cfg(feature = "schema")]
pub(crate) use policy::RawPolicy;
pub use policy::{Log, Policy, PolicyError, PolicySource, Provenance, TrustedSigner};
pub use summary::BundleSummary;

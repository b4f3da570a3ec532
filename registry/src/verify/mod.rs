//! Whose signatures stand under a statement, and whether they are enough: k distinct signers of a
//! policy must have signed the same thing.
//!
//! Verified: each signature, certificate and log entry, its time, the statement's version, kind,
//! subjects and predicate. Nothing is fetched, and the names of files say nothing.

mod glob;
mod judge;
mod matching;
mod policy;

pub use glob::{Pattern, PatternError};
pub use judge::{Expected, Identity, Judged, Judgement, Predicate, Proof, Refusal, judge};
#[cfg(feature = "schema")]
pub(crate) use policy::RawPolicy;
pub use policy::{Log, Policy, PolicyError, Provenance, TrustedSigner};

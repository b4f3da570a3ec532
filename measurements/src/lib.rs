//! What decides a launch digest, and what is said about one: digests, manifests, reports,
//! evidence and verdicts.
//!
//! Everything here is a pure function of its arguments: no file, process, clock or network.
//! Builder, launcher, guest and validator all depend on this crate and never on each other, so
//! a fact that two of them must agree on stands here once.

#[cfg(feature = "appraisal")]
pub mod appraisal;
pub mod binding;
pub mod canonical;
#[cfg(feature = "appraisal")]
mod certificate;
pub mod certificates;
#[cfg(feature = "appraisal")]
pub mod chain;
pub mod cmdline;
pub mod digest;
pub mod evidence;
pub mod firmware;
pub mod hash;
pub mod kernel_hashes;
pub mod launch;
pub mod launch_config;
pub mod law;
pub mod manifest;
mod number;
pub mod platform;
pub mod policy;
pub mod report;
#[cfg(feature = "appraisal")]
pub mod roots;
pub mod simulated;
pub mod stage;
pub mod tcb;
pub mod verity;
mod vmsa;

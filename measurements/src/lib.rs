//! What decides a launch digest, and what is said about one: digests, manifests, reports,
//! evidence and verdicts.
//!
//! Everything here is a pure function of its arguments: no file, process, clock or network.
//! Builder, launcher, guest and validator all depend on this crate and never on each other, so
//! a fact that two of them must agree on stands here once.

#[cfg(feature = "appraisal")]
pub mod appraisal;
pub mod binding;
#[cfg(feature = "appraisal")]
pub mod bounded;
pub mod canonical;
pub mod causes;
#[cfg(feature = "appraisal")]
mod certificate;
#[cfg(feature = "appraisal")]
pub mod certificate_files;
pub mod certificates;
#[cfg(feature = "appraisal")]
pub mod chain;
#[cfg(feature = "appraisal")]
pub mod chain_cache;
pub mod cmdline;
mod cpu;
pub mod digest;
pub mod evidence;
#[cfg(feature = "appraisal")]
pub mod explain;
#[cfg(feature = "export")]
pub mod export;
pub mod firmware;
#[cfg(feature = "appraisal")]
pub mod gpu;
pub mod gpu_evidence;
pub mod hash;
#[cfg(feature = "appraisal")]
pub mod id_block;
pub mod identity;
pub mod kernel_hashes;
#[cfg(feature = "appraisal")]
mod lanes;
pub mod launch;
pub mod launch_config;
pub mod law;
pub mod manifest;
mod number;
pub mod platform;
pub mod policy;
pub mod report;
#[cfg(feature = "appraisal")]
pub mod revocation;
#[cfg(feature = "appraisal")]
pub mod roots;
#[cfg(all(feature = "appraisal", feature = "schema"))]
pub mod schema;
pub mod silicon;
pub mod simulated;
pub mod ssh_key;
pub mod stage;
pub mod tcb;
pub mod verity;
mod vmsa;

//! The owner of the machine attacks: each attack must be refused, or change the digest.
//!
//! Real QEMU, real firmware, the shared release of images/cpu-sandbox on the simulated platform,
//! under TCG so that every machine runs the same thing.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests panic and report")]

mod boot;
mod deaf;
mod genuine;
mod gpu;
mod id_block;
mod owner;
mod stop;

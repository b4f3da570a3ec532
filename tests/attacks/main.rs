//! The owner of the machine attacks: each attack must be refused, or change the digest.
//!
//! Real QEMU, real firmware, the shared release of images/cpu-sandbox on the simulated platform,
//! under TCG so that every machine runs the same thing.

mod boot;
mod genuine;

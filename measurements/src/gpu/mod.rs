//! Judges evidence of NVIDIA GPUs and switches: certificates up to NVIDIA's root, the signed SPDM
//! report, the versions and measurements that it states, and the mesh of a Hopper machine.
//!
//! Written from the structure of NVIDIA's published verifiers and held to their sample evidence;
//! nobody has run it on evidence of hardware at hand.

pub mod certificate;
pub mod device;
mod dice;
pub mod opaque;
pub mod rim;
mod roots;
pub mod spdm;
pub mod topology;
pub mod version;
mod xml;

pub(crate) use roots::GpuRoots;

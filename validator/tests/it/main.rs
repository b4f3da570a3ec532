//! The validator against real servers, good and bad, on loopback.

/// The maker of processors, the release and the firmware of the tests of `measurements`.
#[cfg(test)]
#[path = "../../../measurements/tests/amd/mod.rs"]
#[expect(dead_code, reason = "its attacks on chains are mounted where chains are judged")]
mod amd;
#[cfg(test)]
mod example;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod gpu_manifests;
#[cfg(test)]
mod hostile_servers;
#[cfg(test)]
mod key_service;
#[cfg(test)]
#[path = "../../../measurements/tests/nvidia/mod.rs"]
#[expect(dead_code, reason = "its attacks on devices are mounted where they are judged")]
mod nvidia;
#[cfg(test)]
#[path = "../../../measurements/tests/ovmf/mod.rs"]
mod ovmf;
#[cfg(test)]
#[path = "../../../measurements/tests/release/mod.rs"]
mod release;
#[cfg(test)]
mod signed;
#[cfg(test)]
mod ssh;
#[cfg(test)]
mod sshd;
#[cfg(test)]
mod support;
#[cfg(test)]
mod vm;

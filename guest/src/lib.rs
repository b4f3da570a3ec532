//! What runs inside the VM: `casemate-init`, which comes up from the initrd and mounts the root
//! file system under dm-verity, and `casemate-agent`, which makes the keys of a boot and serves
//! evidence about them. In images with a driver `casemate-gpu` comes between the two.
//!
//! The bytes of all are measured, the host is the adversary, and nobody reads a log: each
//! failure ends the VM with a stage code. Both may depend on [`casemate_measurements`] and on as
//! little else as will do.

pub mod agent;
pub mod gpu;
pub mod init;
pub mod stage_port;
pub mod sysfs;

//! The first root file system: an uncompressed cpio archive of our init and the kernel modules
//! that it needs.

pub mod cpio;
pub mod modules;

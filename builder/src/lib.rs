//! Recipe and lock in, bit-identical release directory out.

pub mod archive;
pub mod build;
pub mod deb;
pub mod diff;
pub mod erofs;
pub mod fetch;
pub mod initrd;
pub mod lock;
pub mod manifest;
pub mod merge;
pub mod namespace;
pub mod plan;
pub mod process;
pub mod programs;
pub mod progress;
pub mod recipe;
pub mod sbom;
pub mod stages;
pub mod steps;
pub mod verity;

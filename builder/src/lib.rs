//! Recipe and lock in, bit-identical release directory out.

pub mod archive;
pub mod deb;
pub mod fetch;
pub mod initrd;
pub mod lock;
pub mod merge;
pub mod namespace;
pub mod process;
pub mod progress;
pub mod recipe;
pub mod steps;
pub mod verity;

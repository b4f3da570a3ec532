//! Recipe and lock in, bit-identical release directory out.

pub mod deb;
pub mod fetch;
pub mod lock;
pub mod process;
pub mod progress;
pub mod recipe;

//! Recipe and lock in, bit-identical release directory out.

pub mod fetch;
pub mod lock;
pub mod progress;
pub mod recipe;

//! Getting what a lock names, by hash, from wherever it can be had.

mod cache;

pub use cache::{Cache, CacheError};

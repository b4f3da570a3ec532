//! Package archives: where they are served, and what their signatures vouch for.

mod apt_sources;
mod mirrors;

pub use mirrors::{MirrorError, MirrorSettings, Mirrors, VARIABLE, below};

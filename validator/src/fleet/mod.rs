//! Verifies many VMs over and over, so that none of them can keep the others waiting.
//!
//! [`targets`] reads who is watched, [`pace`] says when each is asked again, [`watch`] asks, and
//! [`metrics`] counts what came of it. A fetch is bounded in time and bytes; what hangs or lies
//! uses at most half of the places, so that there is always one for a VM that answered last time.

pub mod metrics;
pub mod pace;
pub mod serve;
pub mod signals;
pub mod targets;
pub mod watch;

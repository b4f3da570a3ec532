//! Verifies many VMs over and over, so that none of them can keep the others waiting.
//!
//! [`targets`] reads who is watched, [`pace`] says when each is asked again, [`places`] who is asked
//! first, [`watch`] asks, and [`metrics`] counts what came of it. A fetch is bounded in time and
//! bytes; what is slow, hangs or was never asked uses at most half of the places, so that there is
//! always one for a VM that answers promptly.

pub mod metrics;
pub mod pace;
pub mod places;
pub mod serve;
pub mod signals;
pub mod targets;
pub mod watch;

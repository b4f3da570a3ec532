//! The signals that a watch listens to: SIGINT and SIGTERM end it, SIGHUP makes it read its
//! targets again.

use std::io;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::watch::Flags;

/// Sets the flags when signals arrive. A second SIGINT or SIGTERM ends the program at once.
///
/// # Errors
/// When the operating system does not take a handler.
pub fn register(flags: &Flags) -> io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // First what ends the program once the flag is set, then what sets it.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&flags.stop))?;
        signal_hook::flag::register(signal, Arc::clone(&flags.stop))?;
    }
    signal_hook::flag::register(SIGHUP, Arc::clone(&flags.reload))?;
    Ok(())
}

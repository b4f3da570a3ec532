//! Processes that must not outlive who watches over them, and ids that cannot be mistaken.
#![expect(unsafe_code, reason = "setsid and the death signal are set between fork and exec")]

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process id and when the process started, so that a later process of the same id is told
/// apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// The process id.
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since the host booted.
    pub start: u64,
}

impl ProcessId {
    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid, start: start_of(pid).unwrap_or(0) }
    }

    /// A process that was just started and is not yet reaped.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid, start: start_of(pid).unwrap_or(0) }
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        start_of(self.pid) == Some(self.start)
    }

    /// Kills it, if it still is the same process.
    pub(crate) fn kill(self) {
        let pid = i32::try_from(self.pid).unwrap_or(0);
        if pid > 1 && self.is_alive() {
            // A process that ended in between is what was asked for.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// When a process started; `None` for one that is gone or only waits to be reaped.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    parse_stat(&stat)
}

fn parse_stat(line: &str) -> Option<u64> {
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let is_gone = matches!(fields.next()?, "Z" | "X");
    let start = fields.nth(18)?.parse().ok()?;
    (!is_gone).then_some(start)
}

/// Makes `command` start a session of its own, away from the terminal's signals.
pub(crate) fn in_own_session(command: &mut Command) {
    let hook = || nix::unistd::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: setsid is async-signal-safe and the hook neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
}

/// Makes `command` start a session of its own and die, by SIGKILL, with the *thread* that starts
/// it: call it, and spawn, from a thread that lives as long as the watch.
pub(crate) fn tied_to_this_thread(command: &mut Command) {
    let parent = Pid::this();
    let hook = move || {
        nix::unistd::setsid().map_err(io::Error::from)?;
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)?;
        // The parent may have died before the line above took effect.
        if nix::unistd::getppid() != parent {
            return Err(io::Error::from(io::ErrorKind::BrokenPipe));
        }
        Ok(())
    };
    // SAFETY: setsid, prctl and getppid are async-signal-safe and the hook neither allocates
    // nor locks.
    unsafe { command.pre_exec(hook) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("7 (a) Z 1 (b)) {rest}")), Some(4711));
        assert_eq!(parse_stat(&format!("7 (a) {}", rest.replacen('S', "Z", 1))), None);
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn a_process_of_the_same_id_is_not_the_same_process() {
        let own = ProcessId::own();
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.is_alive());
    }

    #[test]
    fn a_tied_process_dies_with_the_thread() {
        let child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60").stdin(Stdio::null());
            tied_to_this_thread(&mut command);
            command.spawn().unwrap()
        });
        let mut child = child.join().unwrap();
        let start = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(5), "the child outlived its thread");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

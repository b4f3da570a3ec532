//! What a service manager and the daemon tell each other: that it is ready, that it lives, that
//! it goes, and which socket it was given.

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

/// The first descriptor that a service manager hands over.
const FIRST: i32 = 3;

/// The service manager, where there is one.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// Who the environment names.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let name = env::var_os("NOTIFY_SOCKET");
        let for_us = |name: &str| {
            let pid = env::var(name).ok();
            pid.is_none_or(|pid| pid == std::process::id().to_string())
        };
        let micros = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = micros.filter(|_| for_us("WATCHDOG_PID")).map(Duration::from_micros);
        match name {
            Some(name) => Self::at(&name.into_vec(), watchdog),
            None => Ok(Self { socket: None, watchdog: None }),
        }
    }

    fn at(name: &[u8], watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = Some((UnixDatagram::unbound()?, address(name)?));
        Ok(Self { socket, watchdog })
    }

    /// How often it must hear that the daemon lives: twice in the time that it waits.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|time| time / 2)
    }

    /// Evidence that can be asked for: the daemon does its work.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// It is alive.
    pub(crate) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// It goes; the VMs stay.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket {
            // A service manager that does not listen notices by itself.
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }
}

/// An address as systemd spells it: a path, or `@` and an abstract name.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name))),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "NOTIFY_SOCKET is neither a path nor an abstract name",
        )),
    }
}

/// The listening socket that the service manager made, if it made one.
pub(crate) fn inherited() -> io::Result<Option<UnixListener>> {
    let own = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count: u32 = env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    if !own || count == 0 {
        return Ok(None);
    }
    if count > 1 {
        let text = format!("LISTEN_FDS is {count}, expected 1: the API's socket alone");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    #[expect(unsafe_code, reason = "a descriptor that was handed over has no owner yet")]
    // SAFETY: nothing is done with it but to ask what it is.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    let listening = nix::sys::socket::getsockopt(&borrowed, nix::sys::socket::sockopt::AcceptConn);
    if !listening.unwrap_or(false) {
        let text = "descriptor 3 of LISTEN_FDS is no listening socket";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    #[expect(unsafe_code, reason = "a descriptor that was handed over has no owner yet")]
    // SAFETY: LISTEN_PID names this process, so descriptor 3 was opened for it, and this runs once
    // before anything else could own it.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST) };
    // Supervisors must not inherit it.
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(Some(UnixListener::from(fd)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("@casemate-serve-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&address(hidden.as_bytes()).unwrap()).unwrap();
        for (name, socket) in [(path.as_os_str().as_bytes(), by_path), (hidden.as_bytes(), by_name)]
        {
            let manager = Manager::at(name, Some(Duration::from_secs(3))).unwrap();
            assert_eq!(manager.watchdog_interval(), Some(Duration::from_millis(1500)));
            let heard = || {
                let mut bytes = [0; 64];
                let len = socket.recv(&mut bytes).unwrap();
                String::from_utf8(bytes[..len].to_vec()).unwrap()
            };
            manager.ready("20 VMs\nX=1");
            assert_eq!(heard(), "READY=1\nSTATUS=20 VMs X=1");
            manager.alive();
            assert_eq!(heard(), "WATCHDOG=1");
            manager.stopping();
            assert_eq!(heard(), "STOPPING=1");
        }
        assert!(address(b"relative").is_err());
    }
}

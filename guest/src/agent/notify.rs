//! Tells the service manager that the keys exist and evidence is served.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

/// Sends `READY=1` to the socket that the service manager named, if it named one.
pub(super) fn ready() -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(name) => send(&address(&name.into_vec())?),
        None => Ok(()),
    }
}

/// An address as systemd spells it: a path, or `@` and an abstract name.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(name))),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn send(address: &SocketAddr) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", address).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let hidden = format!("@casemate-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name = UnixDatagram::bind_addr(&address(hidden.as_bytes()).unwrap()).unwrap();
        for (name, socket) in [(path.as_os_str().as_bytes(), by_path), (hidden.as_bytes(), by_name)]
        {
            send(&address(name).unwrap()).unwrap();
            let mut bytes = [0; 16];
            let len = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..len], b"READY=1");
        }
        assert!(address(b"relative").is_err());
        assert!(address(b"").is_err());
    }
}

//! The sockets of a supervisor: what it listens on, and the threads that read from them. Threads
//! only read; what they read passes through a bounded channel, so that a guest that floods its
//! ports stalls itself.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use crate::qmp::{self, Message, QmpError};
use crate::supervise::SuperviseError;

/// What the reading threads say.
#[derive(Debug)]
pub(crate) enum Signal {
    /// A byte of the stage port.
    Stage(u8),
    /// A message of QEMU's monitor.
    Qmp(Message),
    /// The monitor cannot be read any more.
    QmpFailed(QmpError),
    /// One of the threads has read all there was.
    Closed,
}

/// Listens on a socket that only this user can reach.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, SuperviseError> {
    let fail = |source| SuperviseError::Listen { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    Ok(listener)
}

/// A socket that QEMU connects to once.
#[derive(Debug)]
pub(crate) struct Channel(Option<UnixListener>);

impl Channel {
    /// A channel that nothing connects to.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Listens for the one connection.
    pub(crate) fn new(path: &Path) -> Result<Self, SuperviseError> {
        Ok(Self(Some(listen(path)?)))
    }

    /// The connection, once; nobody else can connect after it.
    pub(crate) fn accept(&mut self, path: &Path) -> Option<UnixStream> {
        let (stream, _) = self.0.as_ref()?.accept().ok()?;
        self.0 = None;
        let _ = fs::remove_file(path);
        stream.set_nonblocking(false).ok()?;
        Some(stream)
    }
}

/// Hands on each byte of the stage port.
pub(crate) fn read_stages(mut stream: UnixStream, sender: &SyncSender<Signal>) {
    let mut buffer = [0; 16];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        for code in &buffer[..len] {
            if sender.send(Signal::Stage(*code)).is_err() {
                return;
            }
        }
    }
    let _ = sender.send(Signal::Closed);
}

/// Hands on each message of the monitor.
pub(crate) fn read_qmp(reader: &mut UnixStream, sender: &SyncSender<Signal>) {
    let result = qmp::read_all(reader, |message| drop(sender.send(Signal::Qmp(message))));
    if let Err(error) = result {
        let _ = sender.send(Signal::QmpFailed(error));
    }
    let _ = sender.send(Signal::Closed);
}

/// Reads an order: how many milliseconds the guest gets to power off.
pub(crate) fn read_order(stream: &UnixStream) -> Option<Duration> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(64)).read_line(&mut line).ok()?;
    let millis = line.trim().strip_prefix("stop ")?.parse().ok()?;
    Some(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn orders() {
        let order = |text: &str| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            read_order(&theirs)
        };
        assert_eq!(order("stop 1500\n"), Some(Duration::from_millis(1500)));
        for text in ["", "stop\n", "stop x\n", "quit\n", "stop -1\n"] {
            assert_eq!(order(text), None, "{text}");
        }
    }
}

//! A TCP stream that cannot cost more than it was allowed: one deadline for everything that
//! happens on it, and a cap on the bytes that arrive.
//!
//! A read timeout alone would be restarted by every byte of a server that drips.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What a [`BoundedStream`] ran into, carried inside an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bound {
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// More bytes arrived than any answer needs.
    #[error("more bytes arrived than any answer needs")]
    Flood,
}

impl Bound {
    /// The bound inside `error`, if it was one.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()).copied()
    }
}

impl From<Bound> for io::Error {
    fn from(bound: Bound) -> Self {
        let kind = match bound {
            Bound::Deadline => io::ErrorKind::TimedOut,
            Bound::Flood => io::ErrorKind::QuotaExceeded,
        };
        Self::new(kind, bound)
    }
}

/// The time that is left until `deadline`; never zero, which the operating system would take for
/// "forever".
pub(crate) fn remaining(deadline: Instant) -> Result<Duration, Bound> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if left >= Duration::from_millis(1) => Ok(left),
        _ => Err(Bound::Deadline),
    }
}

/// A TCP stream with a deadline and a cap on what it receives.
#[derive(Debug)]
pub(crate) struct BoundedStream {
    tcp: TcpStream,
    deadline: Instant,
    receivable: usize,
}

impl BoundedStream {
    /// Bounds `tcp` by `deadline` and by `receivable` bytes.
    pub(crate) fn new(tcp: TcpStream, deadline: Instant, receivable: usize) -> Self {
        Self { tcp, deadline, receivable }
    }
}

/// A socket timeout has two spellings; both mean that the deadline passed.
fn name_timeout(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Bound::Deadline.into(),
        _ => error,
    }
}

impl Read for BoundedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(remaining(self.deadline)?))?;
        if self.receivable == 0 {
            return Err(Bound::Flood.into());
        }
        let len = buffer.len().min(self.receivable);
        let count = self.tcp.read(&mut buffer[..len]).map_err(name_timeout)?;
        self.receivable -= count;
        Ok(count)
    }
}

impl Write for BoundedStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(remaining(self.deadline)?))?;
        self.tcp.write(buffer).map_err(name_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

//! A connection that ends at a given moment, however slowly the other side reads or writes.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A TCP connection whose every read and write ends at one moment.
///
/// A time-out per read would let a client that sends a byte now and then stay for ever.
#[derive(Debug)]
pub(super) struct Deadline {
    stream: TcpStream,
    end: Instant,
}

impl Deadline {
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, end: Instant::now() + patience }
    }

    /// Starts a new phase, which may take `patience` from now.
    pub(super) fn extend(&mut self, patience: Duration) {
        self.end = Instant::now() + patience;
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Deadline {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

//! Reports from the simulated security processor, over its virtio-serial port.
//!
//! The port is opened for each request and nothing on it is waited for without an end: the host
//! may be slow, silent, or gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use casemate_measurements::hash::ReportData;
use casemate_measurements::simulated::{
    MAX_RESPONSE_LEN, PORT, Response, decode_response, encode_request,
};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Quote, ReportError, ReportSource};
use crate::sysfs::SysRoot;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a port that is not there or not connected is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// The port of the simulated security processor.
#[derive(Debug)]
pub(super) struct Port {
    root: SysRoot,
}

impl Port {
    pub(super) const fn new(root: SysRoot) -> Self {
        Self { root }
    }

    /// Opens the port, which the host may announce a moment after the boot.
    fn open(&self, end: Instant) -> Result<File, ReportError> {
        let path = loop {
            match self.root.port(PORT) {
                Some(path) => break path,
                None if Instant::now() >= end => return Err(ReportError::NoPort { name: PORT }),
                None => sleep(PAUSE),
            }
        };
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(&path)
            .map_err(|source| ReportError::Io { action: "open", path, source })
    }
}

impl ReportSource for Port {
    fn report(&mut self, data: &ReportData) -> Result<Quote, ReportError> {
        let end = Instant::now() + PATIENCE;
        let mut port = self.open(end)?;
        match exchange(&mut port, data, end)? {
            Response::Report { report, certificates } => Quote::new(&report, certificates),
            Response::Refused(text) => Err(ReportError::Refused(text)),
        }
    }
}

/// Sends the request and reads the response from a port that never blocks.
fn exchange<P: Read + Write + AsFd>(
    port: &mut P,
    data: &ReportData,
    end: Instant,
) -> Result<Response, ReportError> {
    drain(port)?;
    let request = encode_request(data);
    let mut rest = &request[..];
    while !rest.is_empty() {
        match port.write(rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) => retry(error)?,
        }
        if !rest.is_empty() {
            wait(port, PollFlags::POLLOUT, end)?;
        }
    }
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match port.read(&mut chunk) {
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) => retry(error)?,
        }
        if let Some((response, _)) = decode_response(&bytes)? {
            return Ok(response);
        }
        if bytes.len() > MAX_RESPONSE_LEN {
            return Err(ReportError::Length { found: bytes.len() });
        }
        wait(port, PollFlags::POLLIN, end)?;
    }
}

/// Throws away what is left of an earlier answer.
fn drain(port: &mut impl Read) -> Result<(), ReportError> {
    let mut chunk = [0; 4096];
    for _ in 0..=MAX_RESPONSE_LEN / chunk.len() {
        match port.read(&mut chunk) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => retry(error)?,
        }
    }
    Ok(())
}

/// Lets errors pass after which the port is simply tried again.
fn retry(source: io::Error) -> Result<(), ReportError> {
    match source.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(ReportError::Io { action: "use the port", path: PORT.into(), source }),
    }
}

/// Waits until the port is ready, or the time is over.
fn wait(port: &impl AsFd, flags: PollFlags, end: Instant) -> Result<(), ReportError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ReportError::TimedOut);
    }
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(port.as_fd(), flags)];
    let polled = poll(&mut fds, timeout);
    // A port whose other end is gone is ready at once, and for nothing.
    if polled.is_err() || fds[0].revents().is_none_or(|found| !found.intersects(flags)) {
        sleep(PAUSE.min(left));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use casemate_measurements::evidence::REPORT_LEN;
    use casemate_measurements::simulated::{REQUEST_LEN, decode_request, encode_response};

    use super::*;

    const DATA: ReportData = ReportData::from_bytes([6; 64]);

    /// Lets a host say `answer` (after `stale` bytes that were there before) and asks it.
    fn ask(stale: &[u8], answer: Vec<u8>, patience: Duration) -> Result<Response, ReportError> {
        let (mut port, mut host) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        host.write_all(stale).unwrap();
        let host = thread::spawn(move || {
            let mut request = [0; REQUEST_LEN];
            host.read_exact(&mut request).unwrap();
            assert_eq!(decode_request(&request), Ok(DATA));
            for piece in answer.chunks(1000) {
                host.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            host
        });
        let outcome = exchange(&mut port, &DATA, Instant::now() + patience);
        drop(host.join().unwrap());
        outcome
    }

    #[test]
    fn a_response_in_pieces_is_read_after_stale_bytes_are_dropped() {
        let response =
            Response::Report { report: vec![1; REPORT_LEN], certificates: vec![2; 5000] };
        let answer = encode_response(&response).unwrap();
        assert_eq!(ask(b"left over", answer, PATIENCE).unwrap(), response);
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        let refusal = encode_response(&Response::Refused("no".into())).unwrap();
        assert_eq!(ask(b"", refusal, PATIENCE).unwrap(), Response::Refused("no".into()));
        let error = ask(b"", b"HTTP/1.1 200".to_vec(), PATIENCE).unwrap_err();
        assert!(matches!(error, ReportError::Wire(_)), "{error}");
    }

    #[test]
    fn silence_times_out() {
        let start = Instant::now();
        let error = ask(b"", b"CMPSP1RS".to_vec(), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, ReportError::TimedOut), "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

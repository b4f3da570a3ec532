//! Writes stage codes to the host, and hears the one request that a host can make.
//!
//! The port is a courtesy to the machine's owner: without it the guest boots all the same, so
//! no error here is an error of the boot. Codes that cannot be written yet, because the port is
//! not announced or nobody listens, are kept in order and tried again with the next one. What the
//! host writes is a [`Request`] or is dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use casemate_measurements::stage::{PORT, Request, Stage};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sysfs::SysRoot;

/// How long [`StagePort::settle`] waits for a port that could still come.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the host has to take the last byte before the VM ends.
const LINGER: Duration = Duration::from_millis(200);

/// The virtio-serial port for stage codes.
#[derive(Debug)]
pub struct StagePort {
    root: SysRoot,
    port: Option<File>,
    pending: Vec<u8>,
}

impl StagePort {
    /// Uses the port below `root`, once it is there.
    #[must_use]
    pub fn new(root: SysRoot) -> Self {
        Self { root, port: None, pending: Vec::new() }
    }

    /// Reports a stage, without ever blocking.
    pub fn report(&mut self, stage: Stage) {
        if self.pending.len() < Stage::ALL.len() {
            self.pending.push(stage.code());
        }
        self.flush();
    }

    /// Waits, bounded, until all codes are written, if there is a device that could take them.
    pub fn settle(&mut self) {
        let end = Instant::now() + SETTLE;
        while !self.pending.is_empty() && self.root.has_virtio_console() && Instant::now() < end {
            sleep(Duration::from_millis(10));
            self.flush();
        }
    }

    /// Reports the stage that the guest ends with, and gives the host the time to take it.
    pub fn report_last(&mut self, stage: Stage) {
        self.report(stage);
        self.settle();
        if self.port.is_some() {
            sleep(LINGER);
        }
    }

    /// Waits up to `patience` for a request of the host. What else the host writes is dropped.
    pub fn request(&mut self, patience: Duration) -> Option<Request> {
        self.flush();
        self.hear(patience).unwrap_or_else(|_| {
            // Without another end there is nothing to wait for, and the kernel says so at once.
            sleep(patience);
            None
        })
    }

    /// The request in what arrives within `patience`; an error where nothing can arrive.
    fn hear(&mut self, patience: Duration) -> io::Result<Option<Request>> {
        let port = self.port.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(port.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; 64];
        match port.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => Ok(bytes[..len].iter().find_map(|byte| Request::from_code(*byte))),
        }
    }

    fn flush(&mut self) {
        if self.port.is_none() {
            self.port = self.open().ok();
        }
        let Some(port) = &mut self.port else { return };
        while !self.pending.is_empty() {
            match port.write(&self.pending) {
                Ok(0) => return,
                Ok(written) => drop(self.pending.drain(..written.min(self.pending.len()))),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.port = None;
                    return;
                }
            }
        }
    }

    fn open(&self) -> io::Result<File> {
        let path = self.root.port(PORT).ok_or(io::ErrorKind::NotFound)?;
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use nix::pty::openpty;
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    use nix::unistd::ttyname;

    use super::*;

    fn announce(root: &Path) {
        fs::create_dir_all(root.join("sys/class/virtio-ports/vport0p1")).unwrap();
        fs::write(root.join("sys/class/virtio-ports/vport0p1/name"), PORT).unwrap();
    }

    #[test]
    fn codes_wait_for_the_port_and_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut stages = StagePort::new(SysRoot::new(dir.path()));
        stages.report(Stage::InitStarted);
        stages.report(Stage::ModulesLoaded);
        announce(dir.path());
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        let node = dir.path().join("dev/vport0p1");
        fs::write(&node, b"").unwrap();
        stages.report_last(Stage::RootDiskMissing);
        assert_eq!(fs::read(node).unwrap(), [0x01, 0x02, 0x83]);
    }

    #[test]
    fn one_byte_asks_for_the_end_and_no_other_does() {
        let dir = tempfile::tempdir().unwrap();
        announce(dir.path());
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        let pty = openpty(None, None).unwrap();
        let mut raw = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        symlink(ttyname(&pty.slave).unwrap(), dir.path().join("dev/vport0p1")).unwrap();
        let mut host = File::from(pty.master);

        let mut stages = StagePort::new(SysRoot::new(dir.path()));
        let moment = Duration::from_millis(20);
        assert_eq!(stages.request(moment), None, "a host that says nothing asks for nothing");
        let asks = Request::PowerOff.code();
        let others: Vec<u8> = (0..=u8::MAX).filter(|byte| *byte != asks).collect();
        for bytes in [&others[..], b"{\"execute\":\"quit\"}\n"] {
            host.write_all(bytes).unwrap();
            for _ in 0..8 {
                assert_eq!(stages.request(moment), None, "{bytes:?}");
            }
        }
        host.write_all(&[0, asks, 0]).unwrap();
        assert_eq!(stages.request(Duration::from_secs(30)), Some(Request::PowerOff));
        stages.report(Stage::ShuttingDown);
        let mut code = [0];
        host.read_exact(&mut code).unwrap();
        assert_eq!(code, [Stage::ShuttingDown.code()]);
    }

    #[test]
    fn a_host_that_went_away_is_waited_for_without_a_spin() {
        let dir = tempfile::tempdir().unwrap();
        let mut stages = StagePort::new(SysRoot::new(dir.path()));
        let patience = Duration::from_millis(30);
        let start = Instant::now();
        assert_eq!(stages.request(patience), None);
        announce(dir.path());
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        fs::write(dir.path().join("dev/vport0p1"), b"").unwrap();
        // At its end at once, as a port that nobody is connected to.
        assert_eq!(stages.request(patience), None);
        assert!(start.elapsed() >= patience * 2);
    }

    #[test]
    fn without_a_device_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let mut stages = StagePort::new(SysRoot::new(dir.path()));
        let start = Instant::now();
        for _ in 0..1000 {
            stages.report(Stage::InitStarted);
        }
        stages.report_last(Stage::VerityFailed);
        assert!(start.elapsed() < SETTLE);
        assert_eq!(stages.pending.len(), Stage::ALL.len());
    }
}

//! How a boot goes, told by the supervisor to who started it: typed events, a line of JSON each.

use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::Accel;
use crate::state::{StageCode, VmState};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// SIMULATED: this user's root is made; takes seconds, once.
    MakingSimulatedRoot,
    /// GPUs and switches are taken, bound and looked at.
    TakingDevices {
        /// How many.
        count: usize,
    },
    /// QEMU was started.
    QemuStarted {
        /// With which accelerator.
        accel: Accel,
    },
    /// The VM could not run on KVM; the next accelerator is tried.
    KvmBroken {
        /// How that showed.
        reason: String,
    },
    /// The guest reached a stage.
    Stage {
        /// Which.
        stage: StageCode,
    },
    /// The VM is up.
    Ready {
        /// Its state.
        state: Box<VmState>,
    },
    /// The VM did not come up.
    Failed {
        /// Why: each error and below it its cause.
        messages: Vec<String>,
        /// What a person can do about it.
        hint: Option<String>,
    },
}

/// When what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds since QEMU's start.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Who started the VM and waits for it to come up.
#[derive(Debug)]
pub(crate) struct Starter(Option<UnixStream>);

impl Starter {
    /// Nobody waits when there is no connection.
    pub(crate) fn new(stream: Option<UnixStream>) -> Self {
        Self(stream)
    }

    /// Tells what happened.
    pub(crate) fn send(&mut self, at: Duration, event: Event) {
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let Ok(mut line) = serde_json::to_vec(&Progress { at_ms, event }) else { return };
        line.push(b'\n');
        if let Some(stream) = &mut self.0 {
            // Who is gone is noticed by `is_gone`.
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(&line);
        }
    }

    /// Tells why it did not come up.
    pub(crate) fn failed(&mut self, error: &dyn Error, hint: Option<&'static str>) {
        let mut messages = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            messages.push(error.to_string());
            next = error.source();
        }
        let hint = hint.map(str::to_owned);
        self.send(Duration::ZERO, Event::Failed { messages, hint });
    }

    /// Tells that the VM is up, and lets go.
    pub(crate) fn ready(&mut self, at: Duration, state: VmState) {
        self.send(at, Event::Ready { state: Box::new(state) });
        self.0 = None;
    }

    /// Whether somebody waited and went away.
    pub(crate) fn is_gone(&mut self) -> bool {
        let Some(stream) = &mut self.0 else { return false };
        if stream.set_nonblocking(true).is_err() {
            return true;
        }
        match stream.read(&mut [0; 16]) {
            Ok(len) => len == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    #[test]
    fn what_is_told_is_heard() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut starter = Starter::new(Some(ours));
        let json = serde_json::json!({
            "schema": 1, "name": "vm-1", "release": "r 1", "platform": "simulated",
            "phase": {"phase": "running"}, "stage": 19, "accel": "tcg",
            "forwards": [{"host": 1, "guest": 22}], "digest": "00".repeat(48),
            "host_data": "00".repeat(32), "supervisor": {"pid": 1, "start": 2}, "qemu": null,
            "started": 3, "reached_ms": [[1, 4000], [19, 5000]],
        });
        let state: VmState = serde_json::from_value(json).unwrap();
        assert!(!starter.is_gone());
        starter.send(Duration::from_millis(7), Event::QemuStarted { accel: Accel::Kvm });
        starter.ready(Duration::from_secs(1), state.clone());
        let lines = BufReader::new(theirs).lines().map(|line| line.unwrap());
        let heard: Vec<Progress> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
        let state = Box::new(state);
        assert_eq!(
            heard,
            [
                Progress { at_ms: 7, event: Event::QemuStarted { accel: Accel::Kvm } },
                Progress { at_ms: 1000, event: Event::Ready { state } },
            ]
        );
    }

    #[test]
    fn who_went_away_is_missed_and_nobody_is_not() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut starter = Starter::new(Some(ours));
        drop(theirs);
        assert!(starter.is_gone());
        starter.send(Duration::ZERO, Event::MakingSimulatedRoot);
        assert!(!Starter::new(None).is_gone());
    }
}

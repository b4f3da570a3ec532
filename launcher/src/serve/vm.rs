//! One VM as the daemon knows it, and what each observation makes of it: pure, so that every way
//! in which a VM, its supervisor, the daemon or the host can end is a test.

use std::path::PathBuf;
use std::time::Duration;

use casemate_measurements::stage::Stage;
use serde::{Deserialize, Serialize};

use super::restart::{Next, Restart};
use crate::plan::LaunchPlan;
use crate::state::{EndedBy, Phase, VmName, VmState};

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// Its supervisor is being started.
    Starting,
    /// It boots.
    Booting,
    /// It serves evidence.
    Running,
    /// It was told to stop.
    Stopping,
    /// It waits to be started again.
    Waiting,
    /// It was told to stop and did.
    Stopped,
    /// It ended by itself and stays so.
    Ended,
    /// It ended too often, or does not end: it is left alone until a person starts it.
    Quarantined,
}

impl Doing {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Booting,
        Self::Running,
        Self::Stopping,
        Self::Waiting,
        Self::Stopped,
        Self::Ended,
        Self::Quarantined,
    ];

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether it has a supervisor, or is about to have one.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Booting | Self::Running | Self::Stopping)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|doing| doing.name() == name)
    }
}

/// Who wants a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A request over the socket.
    Request,
    /// A file of the directory of wanted VMs.
    File,
    /// Nobody asked the daemon: it was found running.
    Found,
}

impl Source {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::File => "file",
            Self::Found => "found",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Request, Self::File, Self::Found].into_iter().find(|source| source.name() == name)
    }
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The daemon began its work.
    ServeStarted,
    /// The daemon was told to end; VMs stay.
    ServeStopping,
    /// A VM was asked for and is recorded: from here on nothing of it is lost.
    Accepted,
    /// A VM that runs already was found.
    Adopted,
    /// QEMU was started.
    QemuStarted,
    /// The guest reached a stage.
    Stage,
    /// It serves evidence.
    Running,
    /// It was told to stop.
    Stopping,
    /// It was told to stop and did.
    Stopped,
    /// It ended by itself, as it may.
    Ended,
    /// It failed.
    Failed,
    /// It is started again later.
    Waiting,
    /// It is left alone.
    Quarantined,
    /// A file of the directory of wanted VMs is refused.
    Refused,
    /// It is no longer known.
    Forgotten,
}

impl EventKind {
    pub(crate) fn name(self) -> String {
        let json = serde_json::to_value(self).unwrap_or_default();
        json.as_str().unwrap_or_default().to_owned()
    }
}

/// Something that happened, before it has a number and a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewEvent {
    pub(crate) kind: EventKind,
    pub(crate) text: String,
    pub(crate) stage: Option<u8>,
}

impl NewEvent {
    pub(crate) fn new(kind: EventKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), stage: None }
    }
}

/// A VM as it is recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vm {
    pub(crate) name: VmName,
    pub(crate) release: PathBuf,
    pub(crate) plan: LaunchPlan,
    pub(crate) restart: Restart,
    pub(crate) source: Source,
    /// Which bytes of its file it was planned from.
    pub(crate) source_sha256: Option<String>,
    /// Whether it is to run.
    pub(crate) wanted: bool,
    pub(crate) doing: Doing,
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
    /// Ends in a row.
    pub(crate) row: u32,
    /// How often it was started again, ever.
    pub(crate) restarts: u32,
    /// When it is started again, in milliseconds since 1970.
    pub(crate) next_at_ms: Option<u64>,
    /// Since when it does what it does.
    pub(crate) since_ms: u64,
    /// What its supervisor last said.
    pub(crate) state: Option<VmState>,
}

/// What was seen of a VM's supervisor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// It lives, and says this.
    Alive(Option<VmState>),
    /// It is gone.
    Gone {
        /// What it said last.
        state: Option<VmState>,
        /// For how long it served evidence, where that was measured by a clock that never steps.
        ran: Option<Duration>,
    },
}

impl Vm {
    fn turn(&mut self, doing: Doing, now_ms: u64) {
        if self.doing != doing {
            self.doing = doing;
            self.since_ms = now_ms;
        }
        if doing != Doing::Waiting {
            self.next_at_ms = None;
        }
    }

    /// It is asked for, anew or again.
    pub(crate) fn accept(&mut self, now_ms: u64) -> NewEvent {
        self.turn(Doing::Starting, now_ms);
        (self.wanted, self.row, self.reason, self.hint) = (true, 0, None, None);
        self.state = None;
        NewEvent::new(EventKind::Accepted, format!("{}: {}", self.plan.release, self.plan.digest))
    }

    /// Its time to start again has come.
    pub(crate) fn again(&mut self, now_ms: u64) {
        self.turn(Doing::Starting, now_ms);
        self.restarts = self.restarts.saturating_add(1);
        self.state = None;
    }

    /// How long it still waits to be started again. The time that is recorded is the wall clock's,
    /// which may have stepped since: nothing waits longer than its policy lets it wait at all.
    pub(crate) fn left(&self, now_ms: u64) -> Duration {
        let left = self.next_at_ms.map_or(0, |at| at.saturating_sub(now_ms));
        Duration::from_millis(left).min(self.restart.longest())
    }

    /// Its supervisor cannot be started.
    pub(crate) fn failed_to_start(&mut self, reason: &str, now_ms: u64) -> Vec<NewEvent> {
        self.end(reason.to_owned(), EndedBy::Failure, None, None, now_ms)
    }

    /// It is told to stop.
    pub(crate) fn stopping(&mut self, now_ms: u64) -> NewEvent {
        self.wanted = false;
        self.turn(Doing::Stopping, now_ms);
        NewEvent::new(EventKind::Stopping, "it was told to stop")
    }

    /// It stopped as it was told, or never ran.
    pub(crate) fn stopped(&mut self, how: &str, now_ms: u64) -> NewEvent {
        self.wanted = false;
        self.turn(Doing::Stopped, now_ms);
        (self.reason, self.hint, self.row) = (Some(how.to_owned()), None, 0);
        self.forget_processes();
        NewEvent::new(EventKind::Stopped, how)
    }

    /// It is left alone.
    pub(crate) fn quarantine(&mut self, reason: &str, now_ms: u64) -> NewEvent {
        self.turn(Doing::Quarantined, now_ms);
        self.reason = Some(reason.to_owned());
        self.forget_processes();
        NewEvent::new(EventKind::Quarantined, reason)
    }

    fn forget_processes(&mut self) {
        if let Some(state) = &mut self.state {
            state.qemu = None;
        }
    }

    /// What is seen, noted. Events say what is new in it.
    pub(crate) fn observe(&mut self, seen: Seen, now_ms: u64) -> Vec<NewEvent> {
        match seen {
            Seen::Alive(None) => Vec::new(),
            Seen::Alive(Some(state)) => self.observe_alive(state, now_ms),
            Seen::Gone { state, ran } => self.observe_end(state, ran, now_ms),
        }
    }

    fn observe_alive(&mut self, state: VmState, now_ms: u64) -> Vec<NewEvent> {
        if self.state.as_ref() == Some(&state) {
            return Vec::new();
        }
        let mut events = Vec::new();
        let before = self.state.as_ref().filter(|old| old.supervisor == state.supervisor);
        if state.qemu.is_some() && before.and_then(|old| old.qemu) != state.qemu {
            let text = format!("QEMU started with {}", state.accel);
            events.push(NewEvent::new(EventKind::QemuStarted, text));
        }
        let known = before.filter(|old| old.qemu == state.qemu).map(|old| old.reached_ms.clone());
        let known = known.unwrap_or_default();
        let mut reached: Vec<_> =
            state.reached_ms.iter().filter(|(code, _)| !known.contains_key(code)).collect();
        reached.sort_by_key(|(code, at)| (**at, **code));
        for (code, ms) in reached {
            let reached = Stage::from_code(*code);
            let text = reached.map_or("unknown", Stage::text);
            let text = format!("{text}, {:.2} s after QEMU's start", seconds(*ms));
            events.push(NewEvent { kind: EventKind::Stage, text, stage: Some(*code) });
        }
        if self.doing != Doing::Stopping {
            let doing = match state.phase {
                Phase::Running => Doing::Running,
                Phase::Booting | Phase::Ended { .. } => Doing::Booting,
            };
            // One that ended is taken note of when its supervisor is gone.
            if doing == Doing::Running && self.doing != Doing::Running {
                events.push(NewEvent::new(EventKind::Running, "it serves evidence"));
            }
            if !matches!(state.phase, Phase::Ended { .. }) {
                self.turn(doing, now_ms);
                (self.reason, self.hint) = (None, None);
            }
        }
        self.state = Some(state);
        events
    }

    fn observe_end(
        &mut self,
        state: Option<VmState>,
        ran: Option<Duration>,
        now_ms: u64,
    ) -> Vec<NewEvent> {
        let ended = state.as_ref().and_then(|state| match &state.phase {
            Phase::Ended { reason, by, hint } => Some((reason.clone(), *by, hint.clone())),
            Phase::Booting | Phase::Running => None,
        });
        let died = || "its supervisor was killed, and QEMU with it".to_owned();
        let (reason, by, hint) = ended.unwrap_or_else(|| (died(), EndedBy::Failure, None));
        if state.is_some() {
            self.state = state;
        }
        self.forget_processes();
        self.end(reason, by, hint, ran, now_ms)
    }

    /// It is not running: what becomes of it?
    fn end(
        &mut self,
        reason: String,
        by: EndedBy,
        hint: Option<String>,
        ran: Option<Duration>,
        now_ms: u64,
    ) -> Vec<NewEvent> {
        if !self.wanted || by == EndedBy::Order {
            return vec![self.stopped(&reason, now_ms)];
        }
        let failed = by == EndedBy::Failure;
        let by_wall_clock = || Duration::from_millis(now_ms.saturating_sub(self.since_ms));
        let ran = match self.doing {
            Doing::Running => ran.unwrap_or_else(by_wall_clock),
            _ => Duration::ZERO,
        };
        self.row = self.restart.row(self.row, ran);
        let kind = if failed { EventKind::Failed } else { EventKind::Ended };
        let mut events = vec![NewEvent::new(kind, reason.clone())];
        match self.restart.next(failed, self.row) {
            Next::Rest => {
                self.wanted = false;
                self.turn(Doing::Ended, now_ms);
            }
            Next::Again(delay) => {
                self.turn(Doing::Waiting, now_ms);
                let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                self.next_at_ms = Some(now_ms.saturating_add(millis));
                let (row, limit) = (self.row, self.restart.limit);
                let text = format!("started again in {} s (end {row} of {limit})", delay.as_secs());
                events.push(NewEvent::new(EventKind::Waiting, text));
            }
            Next::Quarantine => {
                let text = format!("it ended {} times in a row, the last time: {reason}", self.row);
                events.push(self.quarantine(&text, now_ms));
                self.hint = hint;
                return events;
            }
        }
        (self.reason, self.hint) = (Some(reason), hint);
        events
    }
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

//! One run of QEMU, from its start to its end: a loop over what QEMU, the guest, who started the
//! VM and who wants to stop it have to say.
//!
//! Every decision is made in the loop; threads only read, see [`crate::channel`].

use std::fs;
use std::io::Write as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::platform::Platform;
use casemate_measurements::stage::{Request, Stage};

use crate::channel::{self, Channel, Signal};
use crate::confine::{Confined, Confinement};
use crate::host::Kvm;
use crate::machine::Accel;
use crate::network;
use crate::patience;
use crate::plan::{LaunchPlan, Timeouts};
use crate::process::{self, ProcessId};
use crate::progress::{Event, Starter};
use crate::psp::Processor;
use crate::qmp::{self, Message, QmpError};
use crate::state::{EndedBy, Phase, StageCode, VmState};
use crate::stopping::{Next, POWERED_OFF, Stopping};
use crate::supervise::{SuperviseError, keep_kvm};
use crate::words::Words;

const TICK: Duration = Duration::from_millis(50);
/// How often QEMU is asked whether the VM still runs.
const ASK_BOOTING: Duration = Duration::from_millis(250);
const ASK_RUNNING: Duration = Duration::from_secs(5);
/// How long QEMU gets to end by itself after a guest gave up or QEMU was told to quit.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How long what is left to read of a QEMU that has ended may take: a process that it left behind
/// could keep a connection open for ever.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a run ended that was no failure of the release or the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The VM came up, and later ended.
    Ended {
        /// How.
        reason: String,
        /// By whose doing.
        by: EndedBy,
    },
    /// KVM did not run it; no outcome of an SNP guest, which runs on nothing else.
    KvmFailed {
        /// How that showed.
        reason: String,
        /// Whether it may pass: another program has KVM, or memory is short.
        passing: bool,
    },
}

/// One run of QEMU.
pub(crate) struct Watch<'a> {
    plan: &'a LaunchPlan,
    state: &'a mut VmState,
    starter: &'a mut Starter,
    control: &'a UnixListener,
    accel: Accel,
    timeouts: Timeouts,
    grace: Duration,
    child: Child,
    /// What QEMU ran in goes when it has gone.
    _confined: Confined,
    started: Instant,
    phase_started: Instant,
    words: Words,
    signals: Receiver<Signal>,
    sender: SyncSender<Signal>,
    /// How many threads still read.
    readers: usize,
    stage_channel: Channel,
    qmp_channel: Channel,
    psp_channel: Channel,
    processor: Option<Processor>,
    qmp: Option<UnixStream>,
    /// The stage port, for what is asked of the guest.
    stage: Option<UnixStream>,
    asked: Instant,
    shutdown: Option<String>,
    /// What an SNP guest gave as its reason when it asked to be ended: set and code.
    terminated: Option<(u64, u64)>,
    /// How this VM failed on KVM before; if it runs now, that was KVM's doing.
    suspicion: Option<String>,
    gave_up: Option<(Stage, Instant)>,
    stopping: Option<Stopping>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for path in [
            self.plan.paths.stage_socket(),
            self.plan.paths.psp_socket(),
            self.plan.paths.qmp_socket(),
        ] {
            let _ = fs::remove_file(path);
        }
    }
}

impl<'a> Watch<'a> {
    /// Starts QEMU. QEMU dies with this thread.
    pub(crate) fn start(
        plan: &'a LaunchPlan,
        state: &'a mut VmState,
        starter: &'a mut Starter,
        control: &'a UnixListener,
        processor: Option<Processor>,
        accel: Accel,
        confinement: &Confinement,
    ) -> Result<Self, SuperviseError> {
        let paths = &plan.paths;
        let stage_channel = Channel::new(&paths.stage_socket())?;
        let qmp_channel = Channel::new(&paths.qmp_socket())?;
        let psp_channel = match processor {
            Some(_) => Channel::new(&paths.psp_socket())?,
            None => Channel::none(),
        };
        let path = &plan.qemu.path;
        let mut command = Command::new(path);
        command.args(plan.arguments(accel).as_slice()).env_clear();
        command.current_dir("/").stdin(network::standard_input(&plan.machine.network)?);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let confined = Confined::new(plan, confinement)?;
        confined.apply(&mut command)?;
        // Last: another user's process is no longer tied to anything.
        process::tied_to_this_thread(&mut command);
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .map_err(|source| SuperviseError::Spawn { path: path.clone(), source })?;
        let (sender, signals) = sync_channel(64);
        let (words, mut readers) = (Words::default(), 0);
        if let Some(stderr) = child.stderr.take() {
            words.listen(stderr, sender.clone());
            readers += 1;
        }
        state.qemu = Some(ProcessId::of(child.id()));
        state.stage = None;
        state.reached_ms.clear();
        starter.send(Duration::ZERO, Event::QemuStarted { accel });
        let (platform, memory) = (plan.machine.backing.platform(), plan.machine.memory);
        let watch = Self {
            plan,
            state,
            starter,
            control,
            accel,
            timeouts: plan.timeouts.unwrap_or_else(|| patience::boot(platform, memory, accel)),
            grace: patience::release(memory, GRACE),
            child,
            _confined: confined,
            started: begun,
            phase_started: begun,
            words,
            signals,
            sender,
            readers,
            stage_channel,
            qmp_channel,
            psp_channel,
            processor,
            qmp: None,
            stage: None,
            asked: begun,
            shutdown: None,
            terminated: None,
            suspicion: None,
            gave_up: None,
            stopping: None,
        };
        watch.plan.paths.write_state(watch.state)?;
        Ok(watch)
    }

    /// Watches a VM that failed on KVM before, in this way.
    pub(crate) fn suspecting(mut self, suspicion: Option<String>) -> Self {
        self.suspicion = suspicion;
        self
    }

    /// Watches until QEMU has ended.
    pub(crate) fn until_the_end(mut self) -> Result<Outcome, SuperviseError> {
        loop {
            self.accept();
            match self.signals.recv_timeout(TICK) {
                Ok(signal) => {
                    if let Some(outcome) = self.take(signal)? {
                        return Ok(outcome);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            self.ask()?;
            self.order();
            if let Ok(Some(status)) = self.child.try_wait() {
                return self.ended(status);
            }
            self.carry_on_stopping();
            self.check_time()?;
        }
    }

    fn is_up(&self) -> bool {
        self.state.phase == Phase::Running
    }

    fn last_stage(&self) -> Option<Stage> {
        self.state.stage.map(|stage| stage.0)
    }

    /// Takes the connections that QEMU makes when it starts.
    fn accept(&mut self) {
        let paths = &self.plan.paths;
        if let Some(stream) = self.stage_channel.accept(&paths.stage_socket()) {
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            self.stage = stream.try_clone().ok();
            let sender = self.sender.clone();
            thread::spawn(move || channel::read_stages(stream, &sender));
            self.readers += 1;
        }
        if let Some(mut stream) = self.psp_channel.accept(&paths.psp_socket())
            && let Some(processor) = self.processor.take()
        {
            // A guest that breaks the protocol gets no further report; its agent says so.
            thread::spawn(move || processor.serve(&mut stream));
        }
        if let Some(stream) = self.qmp_channel.accept(&paths.qmp_socket()) {
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            if let Ok(mut reader) = stream.try_clone() {
                let sender = self.sender.clone();
                thread::spawn(move || channel::read_qmp(&mut reader, &sender));
                self.readers += 1;
            }
            self.qmp = Some(stream);
        }
    }

    fn take(&mut self, signal: Signal) -> Result<Option<Outcome>, SuperviseError> {
        match signal {
            Signal::Stage(code) => {
                // A byte that is no stage code carries nothing and is dropped.
                if let Some(stage) = Stage::from_code(code) {
                    self.reach(stage)?;
                }
            }
            Signal::Qmp(Message::Greeting) => self.tell("qmp_capabilities"),
            Signal::Qmp(Message::Shutdown { guest, reason }) => {
                let whose = if guest { "guest" } else { "host" };
                self.shutdown = Some(format!("{whose}: {reason}"));
            }
            Signal::Qmp(Message::Terminated { set, code }) => self.terminated = Some((set, code)),
            Signal::Qmp(Message::Status(status)) => return self.check_status(status),
            Signal::Qmp(Message::Done | Message::Failed(_) | Message::Event) => {}
            Signal::QmpFailed(error) if self.is_up() => self.qmp_lost(&error),
            Signal::QmpFailed(error) => return Err(error.into()),
            Signal::Closed => self.readers = self.readers.saturating_sub(1),
        }
        Ok(None)
    }

    /// A running VM outlives its monitor; only stopping it becomes rougher.
    fn qmp_lost(&mut self, _error: &QmpError) {
        self.qmp = None;
    }

    /// The guest says that it reached a stage.
    fn reach(&mut self, stage: Stage) -> Result<(), SuperviseError> {
        let at = self.started.elapsed();
        let before = self.last_stage();
        if before == Some(stage) {
            return Ok(());
        }
        if before.is_none() && self.accel == Accel::Kvm {
            keep_kvm(self.plan, Kvm::Works)?;
        } else if let Some(reason) = self.suspicion.take() {
            let platform = Some(self.platform());
            keep_kvm(self.plan, Kvm::Broken { reason, platform })?;
        }
        if self.timeouts.after(before) != self.timeouts.after(Some(stage)) {
            self.phase_started = Instant::now();
        }
        if stage == Stage::ShuttingDown
            && let Some(stopping) = &mut self.stopping
        {
            stopping.shuts_down();
        }
        self.state.stage = Some(StageCode(stage));
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.state.reached_ms.entry(stage.code()).or_insert(at_ms);
        if stage == Stage::Ready && !self.is_up() {
            self.state.phase = Phase::Running;
        }
        let written = self.plan.paths.write_state(self.state);
        if self.is_up() && stage != Stage::Ready {
            return Ok(());
        }
        written?;
        self.starter.send(at, Event::Stage { stage: StageCode(stage) });
        if stage.is_failure() {
            self.gave_up.get_or_insert((stage, Instant::now()));
        }
        if self.is_up() {
            self.starter.ready(at, self.state.clone());
            self.words.tail().close();
        }
        Ok(())
    }

    fn check_status(&mut self, status: String) -> Result<Option<Outcome>, SuperviseError> {
        if !matches!(status.as_str(), "internal-error" | "io-error" | "guest-panicked") {
            return Ok(None);
        }
        let stage = self.last_stage();
        if let Some(ended) = self.termination() {
            return ended.map(Some);
        }
        if self.may_blame_kvm() && status == "internal-error" {
            let reason = "KVM could not execute an instruction of the firmware or kernel \
                          (QEMU: internal-error)";
            return Ok(Some(Outcome::KvmFailed { reason: reason.to_owned(), passing: false }));
        }
        if self.is_up() {
            let reason = format!("QEMU stopped it: {status}");
            return Ok(Some(Outcome::Ended { reason, by: EndedBy::Failure }));
        }
        let complaint = self.words.tail().complaint();
        Err(SuperviseError::Stopped { status, stage, complaint })
    }

    fn platform(&self) -> Platform {
        self.plan.machine.backing.platform()
    }

    /// Whether a failure now may be KVM's, so that another accelerator is worth a try.
    fn may_blame_kvm(&self) -> bool {
        self.accel == Accel::Kvm
            && self.last_stage().is_none()
            && self.platform() == Platform::Simulated
    }

    /// How a VM ended whose guest said why it asks to be ended; `None` where it did not.
    fn termination(&self) -> Option<Result<Outcome, SuperviseError>> {
        let (set, code) = self.terminated?;
        let error = SuperviseError::Terminated { set, code, stage: self.last_stage() };
        if !self.is_up() {
            return Some(Err(error));
        }
        Some(Ok(Outcome::Ended { reason: error.to_string(), by: EndedBy::Failure }))
    }

    fn tell(&mut self, command: &'static str) {
        let sent = self.qmp.as_ref().map(|qmp| qmp::send(qmp, command));
        if let Some(Err(error)) = sent {
            self.qmp_lost(&error);
        }
    }

    fn ask(&mut self) -> Result<(), SuperviseError> {
        let every = if self.is_up() { ASK_RUNNING } else { ASK_BOOTING };
        if self.asked.elapsed() >= every {
            self.asked = Instant::now();
            self.tell("query-status");
            if !self.is_up() && self.starter.is_gone() {
                return Err(SuperviseError::Abandoned { stage: self.last_stage() });
            }
        }
        Ok(())
    }

    /// Takes an order to stop.
    fn order(&mut self) {
        let Ok((stream, _)) = self.control.accept() else { return };
        let Some(time) = channel::read_order(&stream) else { return };
        if let Some(stopping) = &mut self.stopping {
            return stopping.join(stream, time);
        }
        let ask = |port: &mut UnixStream| port.write_all(&[Request::PowerOff.code()]).is_ok();
        let asked = self.is_up() && !time.is_zero() && self.stage.as_mut().is_some_and(ask);
        if !asked {
            self.tell("quit");
        }
        self.stopping = Some(Stopping::new(stream, asked.then_some(time), self.grace));
    }

    fn carry_on_stopping(&mut self) {
        match self.stopping.as_mut().and_then(|stopping| stopping.next(self.grace)) {
            Some(Next::Quit) => self.tell("quit"),
            Some(Next::Kill) => {
                let _ = self.child.kill();
            }
            None => {}
        }
    }

    fn check_time(&mut self) -> Result<(), SuperviseError> {
        if self.is_up() || self.stopping.is_some() {
            return Ok(());
        }
        if let Some((stage, since)) = self.gave_up {
            if since.elapsed() >= GRACE {
                return Err(SuperviseError::Guest { stage });
            }
            return Ok(());
        }
        let (stage, waited) = (self.last_stage(), self.phase_started.elapsed());
        if waited < self.timeouts.after(stage) {
            return Ok(());
        }
        Err(SuperviseError::Timeout { stage, waited, accel: self.accel })
    }

    /// QEMU has ended: why?
    fn ended(mut self, status: ExitStatus) -> Result<Outcome, SuperviseError> {
        let heard = self.last_words();
        let how = describe(status);
        let stage = self.last_stage();
        if let Some(stopping) = self.stopping.take() {
            let stopped = stopping.end(self.shutdown.take(), how);
            if self.is_up() {
                let reason = stopped.to_string();
                return Ok(Outcome::Ended { reason, by: EndedBy::Order });
            }
            return Err(SuperviseError::StoppedEarly { stage });
        }
        if let Some(outcome) = heard? {
            return Ok(outcome);
        }
        if let Some(ended) = self.termination() {
            return ended;
        }
        if self.is_up() {
            let reason = self.shutdown.take().unwrap_or(how);
            let by = if reason == POWERED_OFF { EndedBy::Guest } else { EndedBy::Failure };
            return Ok(Outcome::Ended { reason, by });
        }
        if let Some((stage, _)) = self.gave_up {
            return Err(SuperviseError::Guest { stage });
        }
        if let Some(reason) = self.shutdown.take() {
            return Err(SuperviseError::GuestEnded { reason, stage });
        }
        let (said, complaint, kvm, passing) = {
            let tail = self.words.tail();
            (tail.own_words(), tail.complaint(), tail.blames_kvm(), tail.may_pass())
        };
        if self.may_blame_kvm() && kvm {
            let reason = format!("QEMU ended at once ({how}){said}");
            return Ok(Outcome::KvmFailed { reason, passing });
        }
        Err(SuperviseError::QemuDied { status: how, stage, complaint, said })
    }

    /// What the guest and QEMU said last may still be on its way, in connections too that were not
    /// taken yet. Their other end is gone, so each is read to its end.
    fn last_words(&mut self) -> Result<Option<Outcome>, SuperviseError> {
        self.accept();
        let until = Instant::now() + LAST_WORDS;
        while self.readers > 0
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            match self.signals.recv_timeout(left) {
                // A monitor that is cut off is no other end than that of its process.
                Ok(Signal::QmpFailed(error)) => self.qmp_lost(&error),
                Ok(signal) => {
                    if let Some(outcome) = self.take(signal)? {
                        return Ok(Some(outcome));
                    }
                }
                Err(_) => break,
            }
        }
        Ok(None)
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}

//! Runs the VMs: one thread that decides and records, and threads of their own for what takes
//! long. Supervisors are other processes and outlive it; everything it must know when it is
//! started again is in the records and in the VMs' own directories.

use std::collections::BTreeMap;
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::causes::in_one_line;
use tokio::sync::{oneshot, watch};

use super::keep::{Entry, Trouble};
use super::records::{Event, Records, RecordsError, now_ms};
use super::request::Accepted;
use super::view::VmView;
use super::vm::{Doing, EventKind, NewEvent};
use super::wanted::Wanted;
use super::wire::{EventsRequest, MAX_EVENTS};
use crate::publish::document::Published;
use crate::start::{StartError, StopError, SupervisorCommand, hasten, start_detached};
use crate::state::{StateRoot, VmName};
use crate::stopping::{DEFAULT_TIME, StopStep, Stopped};

/// How often each VM is looked at.
const TICK: Duration = Duration::from_millis(200);

/// Why the daemon does not do what it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No such VM is known.
    Unknown(VmName),
    /// It is in a state that does not allow it.
    Conflict { message: String, hint: &'static str },
    /// It cannot be recorded.
    Records(String),
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refused>>;

/// What the manager is told: by clients, and by the threads that it started.
#[derive(Debug)]
pub(crate) enum Command {
    List(Reply<Vec<VmView>>),
    Status(VmName, Reply<VmView>),
    Run(Box<Accepted>, Reply<VmView>),
    Stop(VmName, Duration, Reply<VmView>),
    Start(VmName, Reply<VmView>),
    Forget(VmName, Reply<()>),
    Events(EventsRequest, Reply<Vec<Event>>),
    Publish(Reply<Vec<Published>>),
    /// What keeps the daemon from its work, if anything.
    Trouble(Reply<Option<Trouble>>),
    /// The supervisor was started, or not.
    Started(VmName, Result<Child, StartError>),
    /// An order to stop the VM is so far.
    Stopping(VmName, StopStep),
    /// The VM was stopped, or not.
    Stopped(VmName, Result<Stopped, StopError>),
    /// A file of the directory of wanted VMs was read.
    Planned(Box<(VmName, String, Result<Accepted, String>)>),
    /// Nothing more is to be done. VMs stay.
    End,
}

/// The manager.
#[derive(Debug)]
pub(crate) struct Manager {
    pub(super) root: StateRoot,
    pub(super) records: Records,
    pub(super) vms: BTreeMap<VmName, Entry>,
    supervisor: SupervisorCommand,
    pub(super) sender: Sender<Command>,
    pub(super) changed: watch::Sender<u64>,
    pub(super) wanted: Option<Wanted>,
    pub(super) children: Vec<Child>,
    pub(super) searched: Option<Instant>,
    /// Why records cannot be kept, as far as is known.
    pub(super) unrecorded: Option<Trouble>,
    public_host: String,
}

/// What a manager is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) root: StateRoot,
    pub(crate) records: Records,
    pub(crate) supervisor: SupervisorCommand,
    pub(crate) sender: Sender<Command>,
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) wanted: Option<Wanted>,
    pub(crate) public_host: String,
}

impl Manager {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            root: parts.root,
            records: parts.records,
            vms: BTreeMap::new(),
            supervisor: parts.supervisor,
            sender: parts.sender,
            changed: parts.changed,
            wanted: parts.wanted,
            children: Vec::new(),
            searched: None,
            unrecorded: None,
            public_host: parts.public_host,
        }
    }

    /// Works until told to end.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) -> Result<(), RecordsError> {
        self.resume()?;
        let mut ticked = Instant::now();
        loop {
            match commands.recv_timeout(TICK.saturating_sub(ticked.elapsed())) {
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.take(command),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
        }
        self.note(None, &NewEvent::new(EventKind::ServeStopping, "it was told to end; VMs stay"));
        Ok(())
    }

    /// Takes up what the records say.
    fn resume(&mut self) -> Result<(), RecordsError> {
        let boot = crate::host::boot_id(std::path::Path::new("/"));
        let rebooted = self.records.fact("boot_id")?.is_some_and(|known| known != boot);
        // A daemon that cannot record anything now still sees to its VMs.
        if let Err(error) = self.keep_boot() {
            self.unrecorded(&error);
        }
        let (vms, refused) = self.records.vms()?;
        for vm in vms {
            self.vms.insert(vm.name.clone(), Entry::new(vm));
        }
        for error in refused {
            self.note(None, &NewEvent::new(EventKind::Refused, in_one_line(&error)));
        }
        let live = self.vms.values().filter(|entry| entry.vm.doing.is_live()).count();
        let text = format!("{} VMs are known, {live} of them were up", self.vms.len());
        self.note(None, &NewEvent::new(EventKind::ServeStarted, text));
        let names: Vec<VmName> = self.vms.keys().cloned().collect();
        for name in names {
            self.resume_one(&name, rebooted);
        }
        self.tick();
        Ok(())
    }

    fn resume_one(&mut self, name: &VmName, rebooted: bool) {
        let Some(entry) = self.vms.get(name) else { return };
        let (doing, wanted) = (entry.vm.doing, entry.vm.wanted);
        let again = entry.vm.restart.when != super::restart::When::Never;
        if !doing.is_live() {
            return;
        }
        let alive = matches!(self.root.lock(name), Ok(None));
        if alive && !wanted {
            self.begin_stop(name, DEFAULT_TIME);
        } else if rebooted && !alive {
            let now = now_ms();
            self.change(name, |vm| {
                if wanted && again {
                    return vec![vm.accept(now)];
                }
                vec![vm.stopped("the host went down", now)]
            });
            self.begin_start(name);
        } else if !alive && doing == Doing::Starting && !self.has_state(name) {
            // The daemon was killed before it could start the supervisor.
            self.begin_start(name);
        }
    }

    fn has_state(&self, name: &VmName) -> bool {
        self.root.vm(name).is_ok_and(|paths| paths.state().exists())
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::List(reply) => {
                let views = self.vms.values().map(|entry| (&entry.vm).into()).collect();
                let _ = reply.send(Ok(views));
            }
            Command::Status(name, reply) => drop(reply.send(self.view(&name))),
            Command::Run(accepted, reply) => drop(reply.send(self.accept(*accepted))),
            Command::Stop(name, timeout, reply) => drop(reply.send(self.stop(&name, timeout))),
            Command::Start(name, reply) => drop(reply.send(self.start(&name))),
            Command::Forget(name, reply) => drop(reply.send(self.forget(&name))),
            Command::Events(request, reply) => drop(reply.send(self.events(&request))),
            Command::Publish(reply) => {
                let vms = self.vms.values().map(|entry| &entry.vm);
                let all = vms.map(|vm| Published::new(vm, &self.public_host)).collect();
                let _ = reply.send(Ok(all));
            }
            Command::Trouble(reply) => drop(reply.send(Ok(self.trouble()))),
            Command::Started(name, result) => self.started(&name, result),
            Command::Stopping(name, step) => {
                let event = NewEvent::new(EventKind::Stopping, step.to_string());
                self.change(&name, |_| vec![event]);
            }
            Command::Stopped(name, result) => self.stopped(&name, result),
            Command::Planned(planned) => {
                let (name, sha256, result) = *planned;
                self.planned(&name, &sha256, result);
            }
            Command::End => {}
        }
    }

    pub(super) fn view(&self, name: &VmName) -> Result<VmView, Refused> {
        let entry = self.vms.get(name).ok_or_else(|| Refused::Unknown(name.clone()))?;
        Ok((&entry.vm).into())
    }

    fn events(&self, request: &EventsRequest) -> Result<Vec<Event>, Refused> {
        let limit = request.limit.unwrap_or(MAX_EVENTS).min(MAX_EVENTS);
        let events = self.records.events(request.after, request.name.as_deref(), limit);
        events.map_err(|error| Refused::Records(in_one_line(&error)))
    }

    pub(super) fn accept(&mut self, accepted: Accepted) -> Result<VmView, Refused> {
        let name = accepted.plan.name.clone();
        let live = self.vms.get(&name).is_some_and(|entry| entry.vm.doing.is_live());
        if live || matches!(self.root.lock(&name), Ok(None)) {
            return Err(Refused::Conflict {
                message: format!("a VM named {name} runs already"),
                hint: "stop it or choose another name",
            });
        }
        let mut vm = accepted.into_vm(now_ms());
        if let Some(old) = self.vms.get(&name) {
            vm.restarts = old.vm.restarts;
        }
        let event = vm.accept(now_ms());
        let last = match self.records.save(&vm, &[event]) {
            Ok(last) => last,
            Err(error) => return Err(self.refused(&error)),
        };
        self.vms.insert(name.clone(), Entry::new(vm));
        self.recorded(last);
        self.begin_start(&name);
        self.view(&name)
    }

    fn start(&mut self, name: &VmName) -> Result<VmView, Refused> {
        let entry = self.vms.get(name).ok_or_else(|| Refused::Unknown(name.clone()))?;
        if entry.vm.doing.is_live() {
            let message = format!("{name} is {}", entry.vm.doing.name());
            return Err(Refused::Conflict { message, hint: "it need not be started" });
        }
        self.try_change(name, |vm| vec![vm.accept(now_ms())])?;
        if let Some(entry) = self.vms.get_mut(name) {
            // Both were of the run before.
            (entry.launched, entry.stop) = (false, None);
        }
        self.begin_start(name);
        self.view(name)
    }

    pub(super) fn stop(&mut self, name: &VmName, timeout: Duration) -> Result<VmView, Refused> {
        let entry = self.vms.get(name).ok_or_else(|| Refused::Unknown(name.clone()))?;
        if entry.vm.doing.is_live() {
            if entry.vm.doing != Doing::Stopping {
                self.try_change(name, |vm| vec![vm.stopping(now_ms())])?;
            }
            self.begin_stop(name, timeout);
        } else if entry.vm.wanted {
            self.try_change(name, |vm| vec![vm.stopped("it did not run", now_ms())])?;
        }
        self.view(name)
    }

    fn forget(&mut self, name: &VmName) -> Result<(), Refused> {
        let entry = self.vms.get(name).ok_or_else(|| Refused::Unknown(name.clone()))?;
        if entry.vm.doing.is_live() {
            let message = format!("{name} is {}", entry.vm.doing.name());
            return Err(Refused::Conflict { message, hint: "stop it first" });
        }
        let last = match self.records.remove(name) {
            Ok(last) => last,
            Err(error) => return Err(self.refused(&error)),
        };
        self.vms.remove(name);
        self.recorded(last);
        Ok(())
    }

    fn idle(&mut self, name: &VmName) {
        if let Some(entry) = self.vms.get_mut(name) {
            entry.busy = false;
        }
    }

    /// Does something that takes long in a thread of its own, which says when it is done.
    fn busy(&mut self, name: &VmName, work: impl FnOnce() -> Command + Send + 'static) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        entry.busy = true;
        let sender = self.sender.clone();
        // Nobody hears it when the daemon has ended: the records say where to go on.
        thread::spawn(move || drop(sender.send(work())));
    }

    pub(super) fn begin_start(&mut self, name: &VmName) {
        let Some(entry) = self.vms.get(name).filter(|entry| !entry.busy) else { return };
        if entry.vm.doing != Doing::Starting {
            return;
        }
        let (plan, supervisor) = (entry.vm.plan.clone(), self.supervisor.clone());
        let name = name.clone();
        self.busy(&name.clone(), move || {
            let started = start_detached(&plan, &supervisor);
            Command::Started(name, started)
        });
    }

    fn started(&mut self, name: &VmName, result: Result<Child, StartError>) {
        self.idle(name);
        match result {
            Ok(child) => {
                self.children.push(child);
                if let Some(entry) = self.vms.get_mut(name) {
                    entry.launched = true;
                }
            }
            // It runs already: it will be seen to.
            Err(StartError::NameTaken { .. }) => {}
            Err(error) => {
                let reason = in_one_line(&error);
                self.change(name, |vm| vm.failed_to_start(&reason, now_ms()));
            }
        }
        let Some(entry) = self.vms.get_mut(name) else { return };
        // What did not start need not be stopped.
        let stop = entry.stop.take().filter(|_| entry.vm.doing.is_live());
        if let Some(timeout) = stop {
            self.begin_stop(name, timeout);
        }
    }

    fn begin_stop(&mut self, name: &VmName, timeout: Duration) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        if entry.busy {
            entry.stop = Some(timeout);
            if let Ok(paths) = self.root.vm(name) {
                // A stop that is under way is hastened; a start finds the order when it is through.
                thread::spawn(move || hasten(&paths, timeout));
            }
            return;
        }
        let (root, name, steps) = (self.root.clone(), name.clone(), self.sender.clone());
        self.busy(&name.clone(), move || {
            let mut tell = |step| drop(steps.send(Command::Stopping(name.clone(), step)));
            let stopped = crate::start::stop(&root, &name, timeout, &mut tell);
            Command::Stopped(name, stopped)
        });
    }

    fn stopped(&mut self, name: &VmName, result: Result<Stopped, StopError>) {
        self.idle(name);
        if let Some(entry) = self.vms.get_mut(name) {
            // A second order has nothing left to stop.
            entry.stop = None;
        }
        let how = match result {
            Ok(how) => how,
            Err(StopError::NotRunning { .. }) => Stopped::HadEnded,
            Err(error) => {
                let problem = in_one_line(&error);
                self.change(name, |vm| vec![vm.quarantine(&problem, now_ms())]);
                return;
            }
        };
        self.change(name, |vm| vec![vm.stopped(&how.to_string(), now_ms())]);
    }
}

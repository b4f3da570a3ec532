//! What the manager keeps of its VMs, in memory and in the records.
//!
//! A request is recorded before it is carried out, or refused. What is seen is the case whether or
//! not it can be recorded: with a full disk VMs still end, are seen to and are started again, and
//! what happened meanwhile is recorded once there is room.

use std::path::Path;
use std::time::Instant;

use casemate_measurements::causes::in_one_line;

use super::manager::{Manager, Refused};
use super::records::{RecordsError, now_ms};
use super::vm::{Doing, NewEvent, Vm};
use crate::host::boot_id;
use crate::state::{VmName, VmPaths, VmState};

/// Most events of one VM that wait to be recorded; of more, the oldest are dropped.
const MOST_OWED: usize = 100;

/// What keeps the daemon from its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// For the host's owner: with paths.
    pub(crate) text: String,
    /// For anyone on the network.
    pub(crate) public: String,
}

impl Trouble {
    /// Something of which nobody else is told more than that it is so.
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        let public = "something on the host is out of order: see `casemate ps`".to_owned();
        Self { text: in_one_line(error), public }
    }
}

impl From<&RecordsError> for Trouble {
    fn from(error: &RecordsError) -> Self {
        let public = format!("the records cannot be kept: {}", error.without_path());
        Self { text: in_one_line(error), public }
    }
}

/// A VM, and what is being done to it in another thread.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) vm: Vm,
    pub(super) busy: bool,
    /// Whether this process started its supervisor.
    pub(super) launched: bool,
    /// The guest's time to power off, of an order that waits for the start to be through.
    pub(super) stop: Option<std::time::Duration>,
    /// When it is started again, by a clock that never steps.
    due: Option<Instant>,
    /// Since when it serves evidence, by that clock, where this process saw it begin.
    pub(super) up: Option<Instant>,
    /// What happened and is not recorded yet; none where the record is as the VM is.
    owed: Option<Vec<NewEvent>>,
    /// Why it could not be looked at the last time.
    pub(super) unseen: Option<Trouble>,
}

impl Entry {
    pub(super) const fn new(vm: Vm) -> Self {
        Self {
            vm,
            busy: false,
            launched: false,
            stop: None,
            due: None,
            up: None,
            owed: None,
            unseen: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.busy && !self.vm.doing.is_live()
    }

    /// Whether what runs in `paths` is the run that could not be stopped: it is not found anew.
    pub(super) fn is_left_alone(&self, paths: &VmPaths) -> bool {
        let supervisor = |state: &VmState| state.supervisor;
        let known = self.vm.state.as_ref().map(supervisor);
        let runs = paths.read_state().unwrap_or_default().as_ref().map(supervisor);
        self.vm.doing == Doing::Quarantined && known.is_some() && known == runs
    }

    /// Whether its time to start again has come.
    pub(super) fn is_due(&mut self) -> bool {
        let (left, now) = (self.vm.left(now_ms()), Instant::now());
        *self.due.get_or_insert_with(|| now.checked_add(left).unwrap_or(now)) <= now
    }

    /// Takes over what became of the VM.
    fn turn_into(&mut self, vm: Vm) {
        if vm.doing != Doing::Waiting {
            self.due = None;
        }
        if vm.doing != Doing::Running {
            self.up = None;
        } else if self.vm.doing != Doing::Running {
            self.up = Some(Instant::now());
        }
        self.vm = vm;
    }

    fn owe(&mut self, events: Vec<NewEvent>) {
        let owed = self.owed.get_or_insert_default();
        owed.extend(events);
        let excess = owed.len().saturating_sub(MOST_OWED);
        owed.drain(..excess);
    }
}

impl Manager {
    /// Changes a VM for who asked for it: recorded first, or refused.
    pub(super) fn try_change(
        &mut self,
        name: &VmName,
        change: impl FnOnce(&mut Vm) -> Vec<NewEvent>,
    ) -> Result<(), Refused> {
        let Some(entry) = self.vms.get_mut(name) else {
            return Err(Refused::Unknown(name.clone()));
        };
        let mut vm = entry.vm.clone();
        let events = change(&mut vm);
        if vm == entry.vm && events.is_empty() {
            return Ok(());
        }
        let all = [entry.owed.clone().unwrap_or_default(), events].concat();
        match self.records.save(&vm, &all) {
            Ok(last) => {
                entry.owed = None;
                entry.turn_into(vm);
                self.recorded(last);
                Ok(())
            }
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Changes a VM as it was seen to change, and records it at once or later.
    pub(super) fn change(&mut self, name: &VmName, change: impl FnOnce(&mut Vm) -> Vec<NewEvent>) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        let mut vm = entry.vm.clone();
        let events = change(&mut vm);
        if vm == entry.vm && events.is_empty() {
            return;
        }
        entry.turn_into(vm);
        entry.owe(events);
        self.settle(name);
    }

    /// Takes note of a VM that nobody asked for.
    pub(super) fn find(&mut self, vm: Vm, event: NewEvent) {
        let name = vm.name.clone();
        let mut entry = Entry::new(vm);
        entry.owe(vec![event]);
        self.vms.insert(name.clone(), entry);
        self.settle(&name);
    }

    /// Records what is owed of a VM.
    fn settle(&mut self, name: &VmName) {
        let Some(entry) = self.vms.get_mut(name) else { return };
        let Some(owed) = &entry.owed else { return };
        match self.records.save(&entry.vm, owed) {
            Ok(last) => {
                entry.owed = None;
                self.recorded(last);
            }
            Err(error) => self.unrecorded(&error),
        }
    }

    /// Records what is owed of every VM, and tries again whether records can be kept.
    pub(super) fn settle_all(&mut self) {
        let owing = self.vms.iter().filter(|(_, entry)| entry.owed.is_some());
        let names: Vec<VmName> = owing.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.settle(&name);
        }
        // What was refused leaves nothing to be recorded, so nothing else would tell.
        if self.unrecorded.is_some() && !self.owes() && self.keep_boot().is_ok() {
            self.unrecorded = None;
        }
    }

    /// Records which boot of the host this is.
    pub(super) fn keep_boot(&mut self) -> Result<(), RecordsError> {
        self.records.keep_fact("boot_id", &boot_id(Path::new("/")))
    }

    fn owes(&self) -> bool {
        self.vms.values().any(|entry| entry.owed.is_some())
    }

    /// Records what happened to no known VM.
    pub(super) fn note(&mut self, vm: Option<&VmName>, event: &NewEvent) {
        match self.records.note(vm, event) {
            Ok(last) => self.recorded(last),
            Err(error) => self.unrecorded(&error),
        }
    }

    /// Something was recorded; `last` is the number of the last event, 0 without one.
    pub(super) fn recorded(&mut self, last: u64) {
        if !self.owes() {
            self.unrecorded = None;
        }
        if last > 0 {
            self.changed.send_replace(last);
        }
    }

    /// A request that cannot be recorded.
    pub(super) fn refused(&mut self, error: &RecordsError) -> Refused {
        self.unrecorded(error);
        Refused::Records(in_one_line(error))
    }

    /// Keeps why records cannot be kept, to be told to who asks until they can.
    pub(super) fn unrecorded(&mut self, error: &RecordsError) {
        self.unrecorded.get_or_insert_with(|| Trouble::from(error));
    }

    /// What is wrong now. A disk without room is told before the first record fails on it.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let lacking = || self.records.lacks_room().as_ref().map(Trouble::from);
        let unseen = || self.vms.values().find_map(|entry| entry.unseen.clone());
        let unread = || self.wanted.as_ref().and_then(|wanted| wanted.unread.clone());
        self.unrecorded.clone().or_else(lacking).or_else(unseen).or_else(unread)
    }
}

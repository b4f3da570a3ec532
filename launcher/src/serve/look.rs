//! What the manager sees when it looks: which supervisors live and what they say, which VMs are
//! due, which were started by hand.

use std::time::{Duration, Instant};

use super::keep::{Entry, Trouble};
use super::manager::Manager;
use super::records::now_ms;
use super::request::Accepted;
use super::vm::{Doing, EventKind, NewEvent, Seen, Vm};
use crate::state::{VmName, VmState};

/// How often VMs are looked for that were started by hand.
const SEARCH: Duration = Duration::from_secs(1);

impl Manager {
    /// Looks at everything once.
    pub(super) fn tick(&mut self) {
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let names: Vec<VmName> = self.vms.keys().cloned().collect();
        for name in names {
            self.look(&name);
        }
        if self.searched.is_none_or(|at| at.elapsed() >= SEARCH) {
            self.searched = Some(Instant::now());
            self.settle_all();
            self.search();
            self.look_at_wanted();
        }
    }

    fn look(&mut self, name: &VmName) {
        let Some(entry) = self.vms.get_mut(name).filter(|entry| !entry.busy) else { return };
        entry.unseen = None;
        let (doing, launched) = (entry.vm.doing, entry.launched);
        if doing == Doing::Waiting {
            if self.vms.get_mut(name).is_some_and(Entry::is_due) {
                let again = |vm: &mut Vm| {
                    vm.again(now_ms());
                    Vec::new()
                };
                self.change(name, again);
                self.begin_start(name);
            }
            return;
        }
        if !doing.is_live() {
            return;
        }
        let Ok(paths) = self.root.vm(name) else { return };
        // A file that is malformed says nothing.
        match self.root.lock(name) {
            Ok(None) => {
                let state = paths.read_state().unwrap_or_default();
                self.change(name, |vm| vm.observe(Seen::Alive(state), now_ms()));
            }
            Ok(Some(lock)) => {
                let state: Option<VmState> = paths.read_state().unwrap_or_default();
                if doing == Doing::Starting && !launched && state.is_none() {
                    return self.begin_start(name);
                }
                let ran = entry.up.map(|since| since.elapsed());
                self.change(name, |vm| vm.observe(Seen::Gone { state, ran }, now_ms()));
                let _ = paths.remove();
                if let Some(entry) = self.vms.get_mut(name) {
                    entry.launched = false;
                }
                drop(lock);
            }
            Err(error) => {
                if let Some(entry) = self.vms.get_mut(name) {
                    entry.unseen = Some(Trouble::of(&error));
                }
            }
        }
    }

    /// Takes note of VMs that run and that nobody asked this daemon for.
    fn search(&mut self) {
        for name in self.root.names().unwrap_or_default() {
            if self.vms.get(&name).is_some_and(|entry| !entry.is_idle()) {
                continue;
            }
            if !matches!(self.root.lock(&name), Ok(None)) {
                continue;
            }
            let Ok(paths) = self.root.vm(&name) else { continue };
            if self.vms.get(&name).is_some_and(|entry| entry.is_left_alone(&paths)) {
                continue;
            }
            let Ok(Some(plan)) = paths.read_plan() else { continue };
            let mut vm = Accepted::found(plan).into_vm(now_ms());
            (vm.doing, vm.wanted) = (Doing::Booting, true);
            let event = NewEvent::new(EventKind::Adopted, "it runs and was not asked for here");
            self.find(vm, event);
        }
    }
}

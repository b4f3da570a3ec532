//! What the daemon tells of a VM and of itself.

use serde::{Deserialize, Serialize};

use super::restart::Restart;
use super::vm::{Doing, Source, Vm};
use crate::state::{VmName, VmState};
use casemate_measurements::hash::{HostData, LaunchDigest};
use casemate_measurements::platform::Platform;

/// A VM as the daemon tells of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmView {
    /// Its name.
    pub name: VmName,
    /// What it is doing.
    pub doing: Doing,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// Whether it is to run.
    pub wanted: bool,
    /// Why it does not, where there is a reason.
    pub reason: Option<String>,
    /// What a person can do about it.
    pub hint: Option<String>,
    /// Name and version of its release.
    pub release: String,
    /// Where its release lies.
    pub release_dir: String,
    /// Its platform.
    pub platform: Platform,
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its shape, in words.
    pub shape: String,
    /// The launch digest that its reports must carry.
    pub measurement: LaunchDigest,
    /// `HOST_DATA` that its reports must carry.
    pub host_data: HostData,
    /// What becomes of it when it ends.
    pub restart: Restart,
    /// Ends in a row.
    pub ends_in_a_row: u32,
    /// How often it was started again.
    pub restarts: u32,
    /// When it is started again, in milliseconds since 1970.
    pub next_at_ms: Option<u64>,
    /// Who wants it.
    pub source: Source,
    /// What its supervisor last said.
    pub state: Option<VmState>,
}

impl From<&Vm> for VmView {
    fn from(vm: &Vm) -> Self {
        let machine = &vm.plan.machine;
        Self {
            name: vm.name.clone(),
            doing: vm.doing,
            since_ms: vm.since_ms,
            wanted: vm.wanted,
            reason: vm.reason.clone(),
            hint: vm.hint.clone(),
            release: vm.plan.release.clone(),
            release_dir: vm.release.display().to_string(),
            platform: machine.backing.platform(),
            memory_mib: machine.memory.mib(),
            shape: machine.shape.to_string(),
            measurement: vm.plan.digest,
            host_data: machine.host_data,
            restart: vm.restart,
            ends_in_a_row: vm.row,
            restarts: vm.restarts,
            next_at_ms: vm.next_at_ms,
            source: vm.source,
            state: vm.state.clone(),
        }
    }
}

/// The daemon as it tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Version of the program.
    pub version: String,
    /// The directory below which its VMs have theirs.
    pub state_root: String,
    /// Where it publishes, if it does.
    pub published_at: Option<String>,
    /// The user that QEMU runs as; the daemon's own without.
    pub qemu_user: Option<String>,
    /// Whether VMs have control groups.
    pub cgroups: bool,
    /// What keeps it from its work, if anything.
    pub trouble: Option<String>,
    /// The number of the last event.
    pub last_event: u64,
}

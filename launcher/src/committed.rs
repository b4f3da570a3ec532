//! What VMs that run already have of a host, so that no plan counts on it again.

use std::fmt;
use std::path::Path;

use crate::machine::Memory;
use crate::state::{Phase, StateRoot};

/// Least memory that the host keeps beside VMs without GPUs.
const LEAST_KEPT: u64 = 2 << 30;
/// Most memory that the host keeps.
const MOST_KEPT: u64 = 64 << 30;

/// What VMs have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many VMs.
    pub vms: u32,
    /// Their vCPUs.
    pub vcpus: u32,
    /// Their bytes of memory.
    pub memory: u64,
}

impl Committed {
    /// What the VMs below `root` have whose supervisors live. A VM whose plan cannot be read is
    /// left out.
    #[must_use]
    pub fn below(root: &StateRoot) -> Self {
        let mut all = Self::default();
        for name in root.names().unwrap_or_default() {
            let Ok(paths) = root.vm(&name) else { continue };
            let Ok(Some(state)) = paths.read_state() else { continue };
            let over = matches!(state.phase, Phase::Ended { .. }) || !state.supervisor.is_alive();
            let (false, Ok(Some(plan))) = (over, paths.read_plan()) else { continue };
            all.vms += 1;
            all.vcpus = all.vcpus.saturating_add(plan.machine.shape.vcpus.get().into());
            all.memory = all.memory.saturating_add(plan.machine.memory.bytes());
        }
        all
    }

    /// Whether `found` beside these leaves the host `kept` of its `total` bytes.
    pub(crate) fn leave(self, found: Memory, total: u64, kept: u64) -> Result<(), TooLittleMemory> {
        if found.bytes().saturating_add(self.memory).saturating_add(kept) > total {
            return Err(TooLittleMemory { found, total, kept, others: self });
        }
        Ok(())
    }
}

/// Too little memory would be left for the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found} of the host's {} MiB leave too little, expected {} MiB for the host{others}",
    total >> 20,
    kept >> 20
)]
pub struct TooLittleMemory {
    /// What was asked for.
    found: Memory,
    /// The host's bytes.
    total: u64,
    /// How many it keeps.
    kept: u64,
    /// What its VMs have.
    others: Committed,
}

impl TooLittleMemory {
    /// What would fit.
    pub(crate) fn hint(&self) -> String {
        let free = self.total.saturating_sub(self.kept).saturating_sub(self.others.memory);
        format!("ask for at most {} MiB", free >> 20)
    }
}

/// The end of a sentence; nothing where no VM runs.
impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { vms: 0, .. } => Ok(()),
            Self { vms, vcpus, memory } => {
                write!(f, "; {vms} VMs have {vcpus} vCPUs and {} MiB", memory >> 20)
            }
        }
    }
}

/// The host's memory, in bytes; `None` where it does not say.
pub(crate) fn memory_of(sys: &Path) -> Option<u64> {
    Some(crate::inventory::memory(sys).total).filter(|total| *total > 0)
}

/// How much of `total` bytes the host keeps beside VMs without GPUs.
pub(crate) fn kept(total: u64) -> u64 {
    (total / 16).clamp(LEAST_KEPT, MOST_KEPT)
}

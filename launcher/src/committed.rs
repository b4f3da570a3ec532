//! What VMs that run already have of a host, so that no plan counts on it again.

use std::fmt;
use std::path::Path;

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

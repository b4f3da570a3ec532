//! What the daemon does to the devices of a VM around each of its runs. The daemon knows when;
//! what is done, and to which devices, is this trait's matter.

use std::fmt::Debug;

use crate::plan::LaunchPlan;

/// Devices of the host that are passed through to VMs. Calls come from threads of their own and
/// may take long; for one VM there is one at a time.
pub trait Devices: Debug + Send + Sync {
    /// Makes the devices of a plan ready, before each start.
    ///
    /// # Errors
    /// When one is unfit, in a sentence for a person: the VM is quarantined.
    fn prepare(&self, plan: &LaunchPlan) -> Result<(), String>;

    /// Takes the devices back and resets them, after each end.
    ///
    /// # Errors
    /// When one cannot be reset, in a sentence for a person: the VM is quarantined.
    fn release(&self, plan: &LaunchPlan) -> Result<(), String>;

    /// The VM of a plan was quarantined: its devices are given to nobody before a person looked.
    fn quarantine(&self, plan: &LaunchPlan, reason: &str);
}

/// A host that passes no devices through.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoDevices;

impl Devices for NoDevices {
    fn prepare(&self, _plan: &LaunchPlan) -> Result<(), String> {
        Ok(())
    }

    fn release(&self, _plan: &LaunchPlan) -> Result<(), String> {
        Ok(())
    }

    fn quarantine(&self, _plan: &LaunchPlan, _reason: &str) {}
}

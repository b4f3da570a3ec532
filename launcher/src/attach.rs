//! What a VM has of its host for as long as it runs: its devices and its network.

use std::time::Duration;

use crate::confine::Confinement;
use crate::devices::{self, Devices};
use crate::network::{self, Guard};
use crate::plan::LaunchPlan;
use crate::progress::{Event, Starter};
use crate::supervise::SuperviseError;

/// Given back when dropped, which must come after QEMU's end.
#[derive(Debug)]
pub(crate) struct Attached {
    _devices: Option<devices::Attached>,
    _network: network::Attached,
}

impl Attached {
    /// Takes what a plan names; nothing is left of it when something fails.
    pub(crate) fn new(plan: &LaunchPlan, starter: &mut Starter) -> Result<Self, SuperviseError> {
        let uid = Confinement::of(&plan.paths.root()?)?.uid();
        let guard = uid.map(|uid| Guard::new(uid, plan.paths.dir()));
        let network = network::Attached::new(&plan.machine.network, guard)?;
        let devices = match &plan.machine.passthrough {
            None => None,
            Some(planned) => {
                let count = planned.devices().count();
                starter.send(Duration::ZERO, Event::TakingDevices { count });
                Some(Devices::at(&planned.host)?.attach(planned, plan.name.as_str())?)
            }
        };
        Ok(Self { _devices: devices, _network: network })
    }
}

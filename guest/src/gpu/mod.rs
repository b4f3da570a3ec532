//! What happens to GPUs between the kernel's start and the first user: `casemate-gpu` resets
//! them, has the driver bind to them and makes their nodes; the agent holds them to the launch
//! config and collects their evidence.
//!
//! NVIDIA's library is never in these processes: a program of its own asks it, see
//! [`helper`]. Without a GPU all of it does nothing. Not yet seen on hardware.

pub mod cdi;
pub mod helper;
pub mod pci;
pub mod prepare;
mod run;

use std::process::ExitCode;

use crate::stage_port::StagePort;
use crate::sysfs::SysRoot;

/// Runs as the service `casemate-gpu`; a failure is the end of the VM.
#[must_use]
pub fn main() -> ExitCode {
    let root = SysRoot::default();
    let mut stages = StagePort::new(root.clone());
    let programs = prepare::Programs::default();
    match prepare::prepare(&root, &programs, prepare::Patience::default(), &mut stages) {
        Ok(_) => {
            stages.settle();
            ExitCode::SUCCESS
        }
        Err(error) => {
            stages.report_last(error.stage());
            ExitCode::FAILURE
        }
    }
}

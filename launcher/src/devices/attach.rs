//! The devices of one VM for as long as it runs.

use casemate_measurements::causes;

use crate::inventory::Address;
use crate::topology::Passthrough;

use super::prepare::mode_text;
use super::{DeviceError, Devices, sysfs};

/// Devices that this process holds for a VM. Dropped once QEMU is gone, they are reset and free;
/// one that cannot be reset is out of use.
#[derive(Debug)]
pub struct Attached {
    devices: Devices,
    held: Vec<Address>,
}

impl Devices {
    /// Takes the devices that a plan names for the VM `name`: held, reset where their last
    /// holder is gone, bound, and in the planned mode.
    ///
    /// # Errors
    /// When another has one, or one is not as planned; nothing is held then.
    pub fn attach(&self, planned: &Passthrough, name: &str) -> Result<Attached, DeviceError> {
        let all: Vec<Address> = planned.devices().collect();
        let hold = self.ledger.hold(&all, &format!("VM {name}"))?;
        // From here on every way out resets what is held.
        let attached = Attached { devices: self.clone(), held: all.clone() };
        for address in &hold.used {
            sysfs::reset(&self.sys, *address)?;
        }
        for address in all {
            sysfs::bind(&self.sys, address)?;
            let device = sysfs::started(&self.sys, address)?;
            if device.mode != Some(Ok(planned.mode)) {
                let (found, expected) = (mode_text(&device), planned.mode);
                return Err(DeviceError::OtherMode { address, found, expected });
            }
        }
        Ok(attached)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let Self { devices, held } = self;
        for address in held {
            // Where the ledger cannot be written, the device stays held by a process that is
            // about to be gone: whoever takes it next resets it.
            let _ = match sysfs::reset(&devices.sys, *address) {
                Ok(()) => devices.ledger.free(*address),
                Err(error) => devices.ledger.quarantine(*address, &causes::in_one_line(&error)),
            };
        }
    }
}

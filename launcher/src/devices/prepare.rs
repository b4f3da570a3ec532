//! Making devices ready for VMs, and giving them back to the host.

use crate::inventory::{Address, Device, GpuMode};

use super::ledger::Hold;
use super::{AdminTool, DeviceError, Devices, Standing, sysfs};

/// A device that is ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Prepared {
    /// Which.
    pub address: Address,
    /// Its mode; none of what has none.
    pub mode: Option<GpuMode>,
    /// Whether the mode was set just now.
    pub mode_was_set: bool,
    /// Whether it was bound just now.
    pub was_bound: bool,
}

/// A device that the host has again.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Released {
    /// Which.
    pub address: Address,
    /// The driver that has it now.
    pub driver: Option<String>,
}

/// The mode of a device, or why it has none.
pub(super) fn mode_text(device: &Device) -> String {
    match &device.mode {
        None => "none".to_owned(),
        Some(Ok(mode)) => mode.to_string(),
        Some(Err(reason)) => format!("unknown ({reason})"),
    }
}

impl Devices {
    /// Binds devices to vfio-pci and sets a mode where one is asked for. On failure what was
    /// bound here is given back to the driver that it had, and a device that failed in setting
    /// its mode is out of use. `tell` hears what is done.
    ///
    /// # Errors
    /// When a device is another's or out of use, cannot be bound, or does not get its mode.
    pub fn prepare(
        &self,
        devices: &[Address],
        mode: Option<GpuMode>,
        tool: Option<&AdminTool>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Vec<Prepared>, DeviceError> {
        if let Some(mode @ (GpuMode::Devtools | GpuMode::Invalid)) = mode {
            return Err(DeviceError::UnwantedMode { mode });
        }
        for address in devices {
            sysfs::functions(&self.sys, *address)?;
        }
        let mut hold = self.ledger.hold(devices, "a preparation")?;
        let mut bound = Vec::new();
        let mut work = || {
            let mut prepared = Vec::new();
            for address in devices {
                let failed = |error| (*address, error);
                let before = self.bind(*address, &mut bound, tell).map_err(failed)?;
                if hold.used.contains(address) {
                    tell(&format!("{address}: resetting, its last holder is gone"));
                    sysfs::reset(&self.sys, *address).map_err(failed)?;
                    hold.used.retain(|used| used != address);
                }
                let one = self.set_mode(*address, mode, tool, before, tell);
                prepared.push(one.map_err(failed)?);
            }
            Ok(prepared)
        };
        match work() {
            Ok(prepared) => {
                self.let_go(&hold, None)?;
                Ok(prepared)
            }
            Err((failed, error)) => {
                sysfs::give_back(&self.sys, &bound);
                self.let_go(&hold, Some((failed, &error)))?;
                Err(error)
            }
        }
    }

    /// Binds a device; whether it was not bound before.
    fn bind(
        &self,
        address: Address,
        bound: &mut Vec<sysfs::Before>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<bool, DeviceError> {
        tell(&format!("{address}: binding to {}", sysfs::VFIO));
        let before = sysfs::bind(&self.sys, address)?;
        let was_bound = !before.is_empty();
        bound.extend(before);
        Ok(was_bound)
    }

    /// Sets the mode of a device that is bound, where it is in another one.
    fn set_mode(
        &self,
        address: Address,
        mode: Option<GpuMode>,
        tool: Option<&AdminTool>,
        was_bound: bool,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Prepared, DeviceError> {
        let mut device = sysfs::started(&self.sys, address)?;
        let wanted = mode.filter(|_| device.mode.is_some());
        // A switch has one mode beside off.
        let wanted = wanted.map(|mode| match (mode, device.is_switch()) {
            (GpuMode::On, true) => GpuMode::Off,
            (mode, _) => mode,
        });
        let mut mode_was_set = false;
        if let Some(expected) = wanted.filter(|mode| device.mode != Some(Ok(*mode))) {
            let found = mode_text(&device);
            let tool = tool.ok_or(DeviceError::NoTool { address, found, expected })?;
            tell(&format!("{address}: setting mode {expected}"));
            tool.set(&device, expected, &self.ledger)?;
            device = sysfs::started(&self.sys, address)?;
            if device.mode != Some(Ok(expected)) {
                let found = mode_text(&device);
                return Err(DeviceError::ModeNotSet { address, found, expected });
            }
            mode_was_set = true;
        }
        let mode = device.mode.and_then(Result::ok);
        Ok(Prepared { address, mode, mode_was_set, was_bound })
    }

    /// Lets go of devices: free, but for the one that failed where that is the device's fault.
    /// One that was used and not reset stays used.
    fn let_go(
        &self,
        hold: &Hold,
        failed: Option<(Address, &DeviceError)>,
    ) -> Result<(), DeviceError> {
        for address in &hold.devices {
            match failed {
                Some((at, error)) if at == *address && error.is_the_device() => {
                    let reason = casemate_measurements::causes::in_one_line(error);
                    self.ledger.quarantine(*address, &reason)?;
                }
                Some(_) if hold.used.contains(address) => {
                    self.ledger.quarantine(*address, "it was used and not reset since")?;
                }
                _ => self.ledger.free(*address)?,
            }
        }
        Ok(())
    }

    /// Resets devices and gives them back to the host's drivers; those that were out of use too.
    /// What a driver of the host has already, and nobody had since, is left alone.
    ///
    /// # Errors
    /// When a VM has one, or one cannot be reset: it is out of use then.
    pub fn release(
        &self,
        devices: &[Address],
        mode: Option<GpuMode>,
        tool: Option<&AdminTool>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Vec<Released>, DeviceError> {
        for address in devices {
            sysfs::functions(&self.sys, *address)?;
        }
        let before = self.ledger.entries()?;
        let is_clean = |address: &Address| {
            before.get(address).is_none_or(|entry| entry.standing == Standing::Free)
        };
        let hold = self.ledger.hold_broken(devices, "a release")?;
        let mut released = Vec::new();
        for (index, address) in devices.iter().enumerate() {
            let driver = sysfs::driver(&self.sys, *address);
            let is_the_hosts = driver.as_deref().is_some_and(|driver| driver != sysfs::VFIO);
            let done = if is_clean(address) && is_the_hosts && mode.is_none() {
                Ok(Released { address: *address, driver })
            } else {
                self.release_one(*address, mode, tool, tell)
            };
            match done {
                Ok(one) => {
                    self.ledger.free(*address)?;
                    released.push(one);
                }
                Err(error) => {
                    let reason = casemate_measurements::causes::in_one_line(&error);
                    for (after, address) in hold.devices[index..].iter().enumerate() {
                        if (after == 0 && error.is_the_device()) || !is_clean(address) {
                            self.ledger.quarantine(*address, &reason)?;
                        } else {
                            self.ledger.free(*address)?;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(released)
    }

    fn release_one(
        &self,
        address: Address,
        mode: Option<GpuMode>,
        tool: Option<&AdminTool>,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Released, DeviceError> {
        tell(&format!("{address}: resetting"));
        // Whoever has it lets go first: a driver does not expect its device to be reset.
        sysfs::unbind_slot(&self.sys, address)?;
        sysfs::reset(&self.sys, address)?;
        if mode.is_some() {
            let was_bound = self.bind(address, &mut Vec::new(), tell)?;
            self.set_mode(address, mode, tool, was_bound, tell)?;
        }
        tell(&format!("{address}: giving it back to the host"));
        sysfs::release(&self.sys, address)?;
        Ok(Released { address, driver: sysfs::driver(&self.sys, address) })
    }
}

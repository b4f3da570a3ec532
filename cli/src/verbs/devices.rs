//! `host devices`, `prepare`, `release`: the GPUs of this machine in casemate's hands.

use std::path::Path;

use casemate_launcher::devices::{AdminTool, DeviceError, Devices, Entry, Standing};
use casemate_launcher::host::HostFacts;
use casemate_launcher::inventory::{Address, Device, GpuMode, Inventory};
use casemate_launcher::profile::Profiles;
use casemate_launcher::topology::GpuHost;
use serde::Serialize;

use crate::args::{DevicesArgs, Format, Mode, PrepareArgs};
use crate::outcome::{HintExt as _, Hinted, Outcome};
use crate::printer;

/// What this host has to give to a VM.
pub(super) fn offer(host: &HostFacts) -> anyhow::Result<GpuHost> {
    Devices::offer_of_this_machine(host).map_err(hinted)
}

/// An error with its hint.
fn hinted(error: DeviceError) -> anyhow::Error {
    let hint = error.hint();
    Hinted::new(error, hint).into()
}

/// A device, as this program prints it.
#[derive(Debug, Serialize)]
struct Row {
    address: Address,
    device: String,
    family: Option<String>,
    mode: Option<GpuMode>,
    mode_unknown: Option<String>,
    driver: Option<String>,
    numa_node: Option<u32>,
    state: &'static str,
    who: Option<String>,
    since: Option<u64>,
}

impl Row {
    fn new(device: &Device, entry: Option<&Entry>, root: &Path, profiles: &Profiles) -> Self {
        let (state, who) = match entry.map(|entry| (&entry.standing, entry.is_held(root))) {
            None | Some((Standing::Free, _)) => ("free", None),
            Some((Standing::Held { name, .. }, true)) => ("held", Some(name.clone())),
            Some((Standing::Held { name, .. }, false)) => ("used", Some(name.clone())),
            Some((Standing::Quarantined { reason }, _)) => ("out of use", Some(reason.clone())),
        };
        let known = |mode: &Result<GpuMode, String>| mode.as_ref().ok().copied();
        let unknown = |mode: &Result<GpuMode, String>| mode.as_ref().err().cloned();
        Self {
            address: device.address,
            device: format!("{:04x}:{:04x}", device.vendor, device.device),
            family: profiles.of(device).map(|family| family.name.clone()),
            mode: device.mode.as_ref().and_then(known),
            mode_unknown: device.mode.as_ref().and_then(unknown),
            driver: device.driver.clone(),
            numa_node: device.numa_node,
            state,
            who,
            since: entry.map(|entry| entry.since),
        }
    }

    fn cells(&self) -> Vec<String> {
        let dash = || "-".to_owned();
        let mode = self.mode.map(|mode| mode.to_string());
        vec![
            self.address.to_string(),
            self.family.clone().unwrap_or_else(|| self.device.clone()),
            mode.or_else(|| self.mode_unknown.as_ref().map(|_| "unknown".into()))
                .unwrap_or_else(dash),
            self.driver.clone().unwrap_or_else(dash),
            self.numa_node.map_or_else(dash, |node| node.to_string()),
            self.state.to_owned(),
            self.who.clone().unwrap_or_default(),
        ]
    }
}

/// Lists the devices and who has each.
pub(crate) fn list(args: &DevicesArgs) -> anyhow::Result<Outcome> {
    let profiles = Profiles::shipped()?;
    let listed = Devices::at(&args.root).and_then(|devices| devices.list()).map_err(hinted)?;
    let rows: Vec<Row> = listed
        .iter()
        .map(|(device, entry)| Row::new(device, entry.as_ref(), &args.root, &profiles))
        .collect();
    match args.output.format {
        Format::Json => printer::json(&rows)?,
        Format::Table if rows.is_empty() => printer::say("this host has no NVIDIA GPU"),
        Format::Table => {
            let headings = ["ADDRESS", "FAMILY", "MODE", "DRIVER", "NODE>", "STATE", "WHO OR WHY"];
            printer::line(&printer::table(&headings, rows.iter().map(Row::cells)))?;
        }
    }
    Ok(Outcome::Done)
}

/// The devices that were named, or all that VMs can have.
fn chosen(args: &PrepareArgs) -> anyhow::Result<Vec<Address>> {
    if !args.all {
        return Ok(args.devices.clone());
    }
    let profiles = Profiles::shipped()?;
    let found = Inventory::devices(&args.root);
    let wanted = found.iter().filter(|device| {
        profiles.of(device).is_some() || (device.is_switch() && device.mode.is_some())
    });
    let all: Vec<Address> = wanted.map(|device| device.address).collect();
    if all.is_empty() {
        let error = anyhow::anyhow!("this host has no GPU of a family that VMs can have");
        return Err(error).hint("`lspci -nn -d 10de:` shows NVIDIA's devices");
    }
    Ok(all)
}

fn mode(mode: Mode) -> GpuMode {
    match mode {
        Mode::Off => GpuMode::Off,
        Mode::On => GpuMode::On,
        Mode::Ppcie => GpuMode::Ppcie,
    }
}

/// Binds devices and sets their mode.
pub(crate) fn prepare(args: &PrepareArgs) -> anyhow::Result<Outcome> {
    let devices = Devices::at(&args.root).map_err(hinted)?;
    let tool = args.gpu_tool.as_deref().map(AdminTool::at);
    let (chosen, mode) = (chosen(args)?, args.mode.map(mode));
    let prepared =
        devices.prepare(&chosen, mode, tool.as_ref(), &mut printer::say).map_err(hinted)?;
    match args.output.format {
        Format::Json => printer::json(&prepared)?,
        Format::Table => {
            let rows = prepared.iter().map(|one| {
                let mode = one.mode.map_or_else(|| "-".into(), |mode| mode.to_string());
                let set = if one.mode_was_set { "set" } else { "as it was" };
                let bound = if one.was_bound { "bound" } else { "as it was" };
                vec![one.address.to_string(), mode, set.into(), bound.into()]
            });
            printer::line(&printer::table(&["ADDRESS", "MODE", "", "VFIO-PCI"], rows))?;
        }
    }
    Ok(Outcome::Done)
}

/// Resets devices and gives them back.
pub(crate) fn release(args: &PrepareArgs) -> anyhow::Result<Outcome> {
    let devices = Devices::at(&args.root).map_err(hinted)?;
    let tool = args.gpu_tool.as_deref().map(AdminTool::at);
    let (chosen, mode) = (chosen(args)?, args.mode.map(mode));
    let released =
        devices.release(&chosen, mode, tool.as_ref(), &mut printer::say).map_err(hinted)?;
    match args.output.format {
        Format::Json => printer::json(&released)?,
        Format::Table => {
            let rows = released.iter().map(|one| {
                let driver = one.driver.clone().unwrap_or_else(|| "-".into());
                vec![one.address.to_string(), driver]
            });
            printer::line(&printer::table(&["ADDRESS", "DRIVER"], rows))?;
        }
    }
    Ok(Outcome::Done)
}

//! GPUs and their fabric: can a VM be given them, in a mode that a validator accepts?

use casemate_measurements::manifest::{FIRMWARE_ADDRESS_BITS, MOST_FIRMWARE_ADDRESS_BITS};

use super::{Findings, Level, Texts, problem_unless, warning_unless};
use crate::inventory::{Device, FABRIC_MANAGER, GpuMode, Inventory, SUBNET_MANAGER, SubnetManager};
use crate::machine::Memory;
use crate::profile::{Family, Profiles};
use crate::topology::service_mend;
use crate::topology::space::{self, Limits};

const GIB: u64 = 1024 * 1024 * 1024;
/// Switches of an HGX Hopper board.
const HGX_SWITCHES: usize = 4;
/// GPUs of one.
const HGX_GPUS: usize = 8;
/// `FABRIC_MODE` of a host whose VMs share the switches of a board.
const SHARED: u8 = 1;
pub(super) const WHY_FABRIC_MODE: &str =
    "in another mode than 1 no partition is made for a VM, and CUDA fails in it with error 802";
pub(super) const MEND_FABRIC_MODE: &str = "set FABRIC_MODE=1 in fabricmanager.cfg, restart \
     nvidia-fabricmanager, then set the GPUs' mode again";

pub(super) fn examine(host: &Inventory, profiles: &Profiles, findings: &mut Findings) {
    let gpus: Vec<&Device> = host.devices.iter().filter(|device| device.is_gpu()).collect();
    for gpu in &gpus {
        let family = profiles.of(gpu);
        identity(gpu, family, findings);
        // Nothing is asked of, and nothing advised for, a GPU that no VM gets.
        let Some(family) = family else { continue };
        windows(gpu, family, findings);
        mode(gpu, family, findings);
        if host.memory.nodes.len() > 1 {
            findings.device(
                "gpu.numa",
                &gpu.address,
                warning_unless(gpu.numa_node.is_some()),
                gpu.numa_node.map_or("none".into(), |node| format!("node {node}")),
                Texts {
                    why: "a VM runs best on the memory next to its GPU",
                    mend: "the BIOS names no node for this slot: update it",
                },
            );
        }
    }
    let given = |device: &&Device| device.is_switch() || profiles.of(device).is_some();
    for device in host.devices.iter().filter(given) {
        passthrough(device, findings);
    }
    if !gpus.is_empty() {
        together(host, &gpus, findings);
    }
    fabric(host, profiles, findings);
}

fn identity(gpu: &Device, family: Option<&Family>, findings: &mut Findings) {
    let id = format!("{:04x}:{:04x}", gpu.vendor, gpu.device);
    findings.device(
        "gpu.family",
        &gpu.address,
        warning_unless(family.is_some()),
        family.map_or_else(|| id.clone(), |family| format!("{} ({id})", family.product)),
        Texts {
            why: "casemate knows modes, windows and drivers of the families in its profiles alone",
            mend: "this GPU is none of those that casemate gives to VMs; it stays on the host",
        },
    );
}

fn windows(gpu: &Device, family: &Family, findings: &mut Findings) {
    let largest = gpu.bar(2);
    let expected = family.bar2_gib * GIB;
    findings.device(
        "gpu.window",
        &gpu.address,
        if largest == 0 { Level::Problem } else { warning_unless(largest >= expected) },
        format!("window 2 has {} GiB", largest / GIB),
        Texts {
            why: "through this window the GPU's memory is reached; it is sized by the BIOS",
            mend: "in the BIOS enable \"above 4G decoding\" and large MMIO windows, and resizable \
                   windows where it offers them",
        },
    );
    if largest == 0 {
        return;
    }
    // As the planner does it, for the smallest VM with this GPU alone.
    let with = |firmware| {
        let limits = Limits { firmware, processor: u8::MAX };
        space::lay_out(Memory::LEAST, &[gpu.bars.as_slice()], 0, limits)
    };
    let found = match with(MOST_FIRMWARE_ADDRESS_BITS) {
        Ok(space) => format!(
            "a VM needs {} GiB for it, at {} GiB and above",
            space.window / GIB,
            space.base / GIB
        ),
        Err(error) => error.to_string(),
    };
    findings.device(
        "gpu.firmware-window",
        &gpu.address,
        warning_unless(with(FIRMWARE_ADDRESS_BITS).is_ok()),
        found,
        Texts {
            why: "stock AmdSev firmware reaches 1024 GiB of addresses, memory and what AMD \
                  reserves below that included",
            mend: "use a release whose firmware was built with 1-GiB page tables",
        },
    );
}

fn mode(gpu: &Device, family: &Family, findings: &mut Findings) {
    let Some(mode) = &gpu.mode else { return };
    let (level, found) = match mode {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(mode @ (GpuMode::Devtools | GpuMode::Invalid)) => (Level::Problem, mode.to_string()),
        Ok(mode) => (warning_unless(family.allows(*mode)), mode.to_string()),
    };
    let tool = "nvidia_gpu_tools.py";
    findings.device(
        "gpu.mode",
        &gpu.address,
        level,
        found,
        Texts {
            why: "in an SNP guest NVIDIA's driver refuses a GPU that is not in a confidential \
                  mode, and a validator refuses devtools",
            mend: &format!(
                "as root, with no driver holding it: {tool} --devices {} --set-cc-mode=on \
                 --reset-after-cc-mode-switch (a whole HGX Hopper board: --set-ppcie-mode=on on \
                 its GPUs and switches)",
                gpu.address
            ),
        },
    );
}

fn passthrough(device: &Device, findings: &mut Findings) {
    let driver = device.driver.as_deref();
    findings.device(
        "device.driver",
        &device.address,
        problem_unless(matches!(driver, None | Some("vfio-pci"))),
        driver.unwrap_or("none").into(),
        Texts {
            why: "a driver of the host that holds a device keeps it from VMs",
            mend: "blacklist nvidia and nouveau on the host, or unbind this device",
        },
    );
    if driver == Some("vfio-pci") {
        findings.device(
            "device.vfio-node",
            &device.address,
            problem_unless(device.vfio_cdev),
            if device.vfio_cdev { "present" } else { "absent" }.into(),
            Texts {
                why: "QEMU opens the device through its node in /dev/vfio/devices",
                mend: "use a kernel with CONFIG_VFIO_DEVICE_CDEV",
            },
        );
    }
    let alone = device.iommu_group.is_some() && device.group_mates.is_empty();
    let mates: Vec<String> = device.group_mates.iter().map(ToString::to_string).collect();
    findings.device(
        "device.iommu-group",
        &device.address,
        problem_unless(alone),
        match (device.iommu_group, mates.is_empty()) {
            (None, _) => "in no group".into(),
            (Some(group), true) => format!("alone in group {group}"),
            (Some(group), false) => format!("in group {group} with {}", mates.join(" ")),
        },
        Texts {
            why: "a group is given away whole: who shares one shares what the device may reach",
            mend: "enable ACS (it may sit under AER) and the IOMMU in the BIOS",
        },
    );
    findings.device(
        "device.reset",
        &device.address,
        problem_unless(device.can_be_reset()),
        if device.reset_methods.is_empty() {
            "no way to reset it".into()
        } else {
            device.reset_methods.join(" ")
        },
        Texts {
            why: "between tenants a device is reset, so that nothing of one stays for the next; \
                  in a confidential VM NVIDIA's driver refuses a GPU without function-level \
                  reset (flr)",
            mend: &format!(
                "write `default` into /sys/bus/pci/devices/{}/reset_method, if someone narrowed \
                 it; else update the board's firmware and the kernel",
                device.address
            ),
        },
    );
}

/// What all GPUs of a host must agree in.
fn together(host: &Inventory, gpus: &[&Device], findings: &mut Findings) {
    let mut modes: Vec<GpuMode> =
        gpus.iter().filter_map(|gpu| gpu.mode.as_ref()?.as_ref().ok().copied()).collect();
    let known = modes.len();
    modes.dedup();
    let text: Vec<String> = modes.iter().map(ToString::to_string).collect();
    findings.host(
        "gpus.mode",
        if known < gpus.len() { Level::Unknown } else { problem_unless(modes.len() == 1) },
        if text.is_empty() { "unknown".into() } else { text.join(", ") },
        Texts {
            why: "NVIDIA supports a host whose GPUs are all in one mode",
            mend: "set the same mode on every GPU",
        },
    );
    if modes != [GpuMode::Ppcie] {
        return;
    }
    let switches: Vec<&Device> = host.devices.iter().filter(|d| d.is_switch()).collect();
    let ready = switches.iter().filter(|switch| switch.mode == Some(Ok(GpuMode::Ppcie))).count();
    let whole = gpus.len() == HGX_GPUS && switches.len() == HGX_SWITCHES && ready == HGX_SWITCHES;
    findings.host(
        "gpus.board",
        problem_unless(whole),
        format!("{} GPUs, {} NVSwitches, {ready} of them in ppcie", gpus.len(), switches.len()),
        Texts {
            why: "ppcie holds for a whole board: 8 GPUs and 4 switches in one VM",
            mend: "set ppcie on all 8 GPUs and 4 switches, or `on` on the GPUs for one VM each",
        },
    );
}

/// What a fabric needs on the host.
fn fabric(host: &Inventory, profiles: &Profiles, findings: &mut Findings) {
    for bridge in host.devices.iter().filter(|device| device.manages_fabric) {
        let given = bridge.driver.as_deref() == Some("vfio-pci");
        findings.device(
            "fabric.bridge",
            &bridge.address,
            problem_unless(!given),
            bridge.driver.clone().unwrap_or_else(|| "no driver".into()),
            Texts {
                why: "through it the host manages the switches of the board; a VM must not have it",
                mend: "bind it to mlx5_core again",
            },
        );
    }
    let (needed, told) = (services(host, profiles), findings.has("fabric.mode"));
    for name in needed {
        let (level, found) = service(host, name);
        // What may well run is not to be disturbed.
        let mend = match level {
            Level::Unknown => {
                "look again: `casemate host inventory`, or the doctor on the host".into()
            }
            _ => format!("{}, then set the mode and reset the GPUs", service_mend(name)),
        };
        findings.host(
            "fabric.service",
            level,
            found,
            Texts {
                why: "it must run before the GPUs' mode is set, or they fail in the VM",
                mend: &mend,
            },
        );
    }
    if let Some(fabric) = host.fabric.as_ref().filter(|_| !needed.is_empty() && !told) {
        let (level, found) = match &fabric.mode {
            Ok(mode) => (problem_unless(*mode == SHARED), format!("FABRIC_MODE is {mode}")),
            Err(reason) => (Level::Unknown, reason.clone()),
        };
        findings.host(
            "fabric.mode",
            level,
            found,
            Texts { why: WHY_FABRIC_MODE, mend: MEND_FABRIC_MODE },
        );
    }
}

/// The services that the fabric of a host's GPUs needs.
fn services<'a>(host: &Inventory, profiles: &'a Profiles) -> &'a [String] {
    let gpus = host.devices.iter().filter(|device| device.is_gpu());
    let mut needed = gpus.filter_map(|gpu| Some(profiles.of(gpu)?.host_services.as_slice()));
    needed.find(|names| !names.is_empty()).unwrap_or_default()
}

/// Whether GPUs of a host have a fabric that the host manages.
pub(super) fn has_fabric(host: &Inventory, profiles: &Profiles) -> bool {
    !services(host, profiles).is_empty()
}

/// Whether a service of the fabric runs, and in which words.
fn service(host: &Inventory, name: &str) -> (Level, String) {
    let runs = |name: &str| host.services.get(name).copied().unwrap_or(false);
    let place = host.fabric.as_ref().map(|fabric| fabric.subnet_manager);
    match (runs(name), place) {
        (true, Some(SubnetManager::FabricManager)) if name == SUBNET_MANAGER => {
            (Level::Ok, format!("{name} runs in the control group of {FABRIC_MANAGER}"))
        }
        (true, _) => (Level::Ok, format!("{name} runs")),
        // An inventory that never looked where stock installs start it.
        (false, None) if name == SUBNET_MANAGER && runs(FABRIC_MANAGER) => (
            Level::Unknown,
            format!(
                "{name} has no unit of its own; this inventory does not say whether it runs in \
                 the control group of {FABRIC_MANAGER}, as it usually does"
            ),
        ),
        (false, _) => (Level::Problem, format!("{name} does not run")),
    }
}

//! GPUs and their fabric: can a VM be given them, in a mode that a validator accepts?

use casemate_measurements::manifest::{FIRMWARE_ADDRESS_BITS, MOST_FIRMWARE_ADDRESS_BITS};

use super::{Findings, Level, Texts, problem_unless, warning_unless};
use crate::inventory::{Device, GpuMode, Inventory};
use crate::machine::Memory;
use crate::profile::{Family, Profiles};
use crate::topology::space::{self, Limits};

const GIB: u64 = 1024 * 1024 * 1024;
/// Switches of an HGX Hopper board.
const HGX_SWITCHES: usize = 4;
/// GPUs of one.
const HGX_GPUS: usize = 8;

pub(super) fn examine(host: &Inventory, profiles: &Profiles, findings: &mut Findings) {
    let gpus: Vec<&Device> = host.devices.iter().filter(|device| device.is_gpu()).collect();
    for gpu in &gpus {
        let family = profiles.of(gpu);
        identity(gpu, family, findings);
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
    for device in host.devices.iter().filter(|device| device.is_gpu() || device.is_switch()) {
        passthrough(device, findings);
    }
    if !gpus.is_empty() {
        together(host, &gpus, findings);
    }
    fabric(host, &gpus, profiles, findings);
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

fn windows(gpu: &Device, family: Option<&Family>, findings: &mut Findings) {
    let largest = gpu.bar(2);
    let expected = family.map_or(0, |family| family.bar2_gib * GIB);
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

fn mode(gpu: &Device, family: Option<&Family>, findings: &mut Findings) {
    let Some(mode) = &gpu.mode else { return };
    let (level, found) = match mode {
        Err(reason) => (Level::Unknown, reason.clone()),
        Ok(mode @ (GpuMode::Devtools | GpuMode::Invalid)) => (Level::Problem, mode.to_string()),
        Ok(mode) => {
            let usable = family.is_some_and(|family| family.allows(*mode));
            (warning_unless(usable), mode.to_string())
        }
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
        problem_unless(!device.reset_methods.is_empty()),
        if device.reset_methods.is_empty() {
            "no way to reset it".into()
        } else {
            device.reset_methods.join(" ")
        },
        Texts {
            why: "between tenants a GPU is reset, so that nothing of one stays for the next",
            mend: "update the board's firmware and the kernel; without a reset it is not given away",
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
fn fabric(host: &Inventory, gpus: &[&Device], profiles: &Profiles, findings: &mut Findings) {
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
    let needed = gpus.iter().find_map(|gpu| {
        profiles.of(gpu).map(|family| &family.host_services).filter(|names| !names.is_empty())
    });
    for name in needed.into_iter().flatten() {
        let runs = host.services.get(name).copied().unwrap_or(false);
        findings.host(
            "fabric.service",
            problem_unless(runs),
            format!("{name} {}", if runs { "runs" } else { "does not run" }),
            Texts {
                why: "it must run before the GPUs' mode is set, or they fail in the VM",
                mend: "install and start it, of the very version of the guest's driver, then set \
                       the mode and reset the GPUs",
            },
        );
    }
}

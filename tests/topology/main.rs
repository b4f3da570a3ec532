//! The planned topologies under the firmware and the kernel of the GPU image: stand-ins for the
//! GPUs have windows of the same sizes, and the guest's kernel must have taken every one of them
//! where the firmware put it. The VM is launched, boots and attests as any other.
#![expect(clippy::unwrap_used, reason = "tests panic and report")]

#[path = "../../launcher/tests/it/hosts.rs"]
#[expect(dead_code, reason = "the launcher's own tests use all of it")]
mod hosts;
#[path = "../../launcher/tests/it/stand_ins.rs"]
mod stand_ins;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use casemate_launcher::committed::Committed;
use casemate_launcher::host::{Qemu, QemuVersion};
use casemate_launcher::inventory::Inventory;
use casemate_launcher::machine::{Accel, Memory};
use casemate_launcher::profile::Profiles;
use casemate_launcher::topology::{GpuChoice, GpuHost, GpuRequest, Needs, Passthrough};
use casemate_tests::{Host, Vm, expect_code, gpu_release, required};
use casemate_validator::release::read_manifest;

/// PCI numbers of a stand-in.
const STAND_IN: &str = "0x1b36 0x0005";
/// What Linux says of a window: it is of memory, it is prefetchable, it is 64 bits wide.
const MEMORY: u64 = 0x200;
const PREFETCHABLE: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;
/// What Linux says of a window that it found no place for.
const UNSET: u64 = 0x2000_0000;
/// Prints the numbers of every PCI device, and a line for each of its windows.
const LOOK: &str = "cd /sys/bus/pci/devices && for device in *; do \
    echo \"device $(cat $device/vendor) $(cat $device/device)\"; cat $device/resource; done";

/// What is planned for `count` GPUs of a host that casemate would take for the real one.
fn plan(host: &Inventory, count: u8, firmware_bits: u8) -> Passthrough {
    // The oldest QEMU that GPUs are planned for; the one that runs may be older.
    let version = QemuVersion { major: 10, minor: 1 };
    let qemu = Qemu { path: "/usr/bin/qemu-system-x86_64".into(), version, sandbox: true };
    let memory = Memory::from_mib(1024).unwrap();
    let needs =
        Needs { vcpus: 2, memory, others: Committed::default(), firmware_bits, qemu: &qemu };
    let request = GpuRequest { choice: GpuChoice::Any { family: None, count }, board: None };
    let offer = GpuHost { root: "/".into(), inventory: host.clone(), taken: BTreeMap::default() };
    Passthrough::new(&request, needs, &offer, &Profiles::shipped().unwrap()).unwrap()
}

/// Address and size of every wide window of the stand-ins, as the guest's kernel has them.
fn windows(seen: &str) -> Vec<(u64, u64)> {
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
    let mut found = Vec::new();
    let mut stand_in = false;
    for line in seen.lines() {
        if let Some(numbers) = line.strip_prefix("device ") {
            stand_in = numbers == STAND_IN;
            continue;
        }
        let [first, last, flags] = line.split(' ').map(number).collect::<Vec<_>>()[..] else {
            panic!("no window: {line:?}");
        };
        if stand_in && flags & MEMORY != 0 {
            assert_eq!(flags & UNSET, 0, "the kernel found no place for a window: {line}");
            assert_ne!(first, 0, "the kernel found no place for a window: {line}");
            if flags & WIDE != 0 && flags & PREFETCHABLE != 0 {
                found.push((first, last - first + 1));
            }
        }
    }
    found
}

fn launch(host: &Host, release: &Path, inventory: &Inventory, planned: &Passthrough) -> Vm {
    let mut plan = host.plan_of(release, &format!("gpus-{}", planned.gpus.len()));
    let mut machine = plan.machine.clone();
    machine.passthrough = Some(planned.clone());
    let arguments = machine.arguments(&plan.qemu, &plan.paths, Accel::Tcg);
    let mut text = String::new();
    for word in stand_ins::stand_ins(arguments.as_slice(), inventory) {
        assert!(!word.contains('\n'), "{word:?}");
        writeln!(text, "{word}").unwrap();
    }
    std::fs::write(host.dir().join("arguments"), text).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/topology/qemu-with-stand-ins");
    plan.qemu.path = host.dir().join("qemu");
    symlink(script, &plan.qemu.path).unwrap();
    host.launch(&plan).result.unwrap()
}

/// Launches what is planned and looks where the guest's kernel has the windows.
fn every_window_is_taken(inventory: &Inventory, count: u8) {
    let (host, release) = (Host::default(), gpu_release());
    let bits = read_manifest(release).unwrap().firmware_address_bits();
    let planned = plan(inventory, count, bits);
    let vm = launch(&host, release, inventory, &planned);
    let output = expect_code(0, &mut vm.ssh_of(&host, release, LOOK));
    let found = windows(&String::from_utf8(output.stdout).unwrap());

    let mut expected = Vec::new();
    for _ in 0..count {
        let gpu = inventory.devices.iter().find(|device| device.is_gpu()).unwrap();
        expected.extend(gpu.bars.iter().map(|bar| bar.size));
    }
    let mut sizes: Vec<u64> = found.iter().map(|(_, size)| *size).collect();
    expected.sort_unstable();
    sizes.sort_unstable();
    assert_eq!(sizes, expected, "{found:x?}");
    for (address, size) in found {
        let (first, end) = (planned.space.base, planned.space.end());
        assert!(
            (first..=end).contains(&address) && address + size <= end,
            "{size:#x} at {address:#x}, expected within {first:#x} to {end:#x}"
        );
        assert!(address.is_multiple_of(size), "{size:#x} at {address:#x}");
    }
}

/// The sizes of windows that GPUs have, alone and as many as a VM may have.
#[test]
fn the_gpu_image_s_kernel_takes_every_window() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    for (inventory, counts) in [
        (hosts::hgx_h100_singles(), &[1][..]),
        (hosts::hgx_h100(), &[8]),
        (hosts::b200(), &[1, 2, 4, 8]),
        (hosts::b300(), &[1, 2, 4, 8]),
    ] {
        for count in counts {
            let size = inventory.devices.iter().map(|device| device.bar(2)).max().unwrap();
            eprintln!("{count} of {} GiB", size >> 30);
            every_window_is_taken(&inventory, *count);
        }
    }
}

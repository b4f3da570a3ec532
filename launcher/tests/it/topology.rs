//! The planned topology in a real QEMU with a real firmware: every device is behind its own root
//! port, and the firmware puts its windows where the planner said.
//!
//! The firmware is Debian's OVMF (`/usr/share/ovmf/OVMF.fd`), which has 1-GiB page
//! tables, or for stock `AmdSev` the file that `CASEMATE_TEST_FIRMWARE` names. Without firmware
//! or QEMU each test says so and passes, unless `CASEMATE_REQUIRE` names `qemu`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use casemate_launcher::committed::Committed;
use casemate_launcher::host::Qemu;
use casemate_launcher::inventory::Inventory;
use casemate_launcher::machine::{Accel, Backing, HashesTable, Machine, Memory};
use casemate_launcher::network::Link;
use casemate_launcher::profile::Profiles;
use casemate_launcher::state::VmPaths;
use casemate_launcher::topology::{GpuChoice, GpuHost, GpuRequest, Needs, Passthrough};
use casemate_measurements::hash::HostData;
use casemate_measurements::launch::{GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::policy::GuestPolicy;
use serde_json::{Value, json};

use crate::fixture::snp_host;
use crate::hosts::{b200, b300, hgx_h100, rtx_pro_6000};
use crate::stand_ins::stand_ins;

/// Debian's OVMF, which uses all the bits that a processor has.
const WIDE: &str = "/usr/share/ovmf/OVMF.fd";
/// How long a firmware may take, on a machine that does other work too.
const PATIENCE: Duration = Duration::from_mins(3);

fn missing(reason: &str) {
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|what| what == "qemu"), "required: {reason}");
    eprintln!("skipped: {reason}");
}

/// QEMU, killed when dropped.
struct Vm {
    child: Child,
    reader: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Vm {
    /// Starts what was planned, with a stand-in for each device.
    fn start(qemu: &Qemu, firmware: &Path, planned: &Passthrough, host: &Inventory) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kernel", "initrd", "root", "launch.img"] {
            std::fs::write(dir.path().join(name), [0; 4096]).unwrap();
        }
        let machine = machine(dir.path(), firmware, planned);
        let paths = VmPaths::new(dir.path().to_owned()).unwrap();
        let listen = |name: &str| UnixListener::bind(dir.path().join(name)).unwrap();
        let (qmp, _stage, _psp) = (listen("qmp.sock"), listen("stage.sock"), listen("psp.sock"));
        let arguments = machine.arguments(qemu, &paths, Accel::Tcg);
        let mut child = Command::new(&qemu.path)
            .args(without_kernel(stand_ins(arguments.as_slice(), host)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        qmp.set_nonblocking(true).unwrap();
        let until = Instant::now() + PATIENCE;
        let stream = loop {
            if let Ok((stream, _)) = qmp.accept() {
                break stream;
            }
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                let errors = child.stderr.as_mut().unwrap();
                std::io::Read::read_to_string(errors, &mut said).unwrap();
                panic!("{status}: {said}");
            }
            assert!(Instant::now() < until, "QEMU does not come up");
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_nonblocking(false).unwrap();
        let mut vm = Self { child, reader: BufReader::new(stream), _dir: dir };
        vm.ask("qmp_capabilities");
        vm
    }

    fn ask(&mut self, command: &str) -> Value {
        writeln!(self.reader.get_mut(), "{}", json!({"execute": command})).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.reader.read_line(&mut line).unwrap() > 0, "QEMU has gone");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
            assert_eq!(answer.get("error"), None, "{command}: {answer}");
        }
    }

    /// The windows of the stand-ins by the bus of their root port, once there are so many.
    fn windows(&mut self, count: usize) -> BTreeMap<String, Vec<(u64, u64)>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let buses = self.ask("query-pci");
            let found = windows(&buses);
            if found.values().map(Vec::len).sum::<usize>() >= count {
                return found;
            }
            assert!(Instant::now() < until, "expected {count} windows, found {found:x?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Every 64-bit window of what is behind root ports: address and size.
fn windows(buses: &Value) -> BTreeMap<String, Vec<(u64, u64)>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for port in buses.as_array().unwrap().iter().flat_map(|bus| list(&bus["devices"])) {
        for device in list(&port["pci_bridge"]["devices"]) {
            let name = port["qdev_id"].as_str().unwrap_or_default().to_owned();
            for region in list(&device["regions"]) {
                let number = |key: &str| region[key].as_i64().and_then(|n| u64::try_from(n).ok());
                if let (Some(address), Some(size)) = (number("address"), number("size"))
                    && region["prefetch"] == true
                {
                    found.entry(name.clone()).or_default().push((address, size));
                }
            }
        }
    }
    found
}

fn machine(dir: &Path, firmware: &Path, planned: &Passthrough) -> Machine {
    Machine {
        name: "vm-1".into(),
        backing: Backing::Simulated(HashesTable { gpa: 0x81_0c00 }),
        shape: Shape {
            vmm: Vmm::Qemu,
            cpu_model: "EPYC-v4".parse().unwrap(),
            guest_features: GuestFeatures::SNP_ACTIVE,
            vcpus: VcpuCount::new(1).unwrap(),
        },
        memory: Memory::from_mib(1024).unwrap(),
        policy: GuestPolicy::default(),
        id_block: None,
        host_data: HostData::from_bytes([0; 32]),
        firmware: firmware.to_owned(),
        kernel: dir.join("kernel"),
        initrd: dir.join("initrd"),
        cmdline: String::new(),
        root_disk: dir.join("root"),
        network: Link::User,
        forwards: Vec::new(),
        passthrough: Some(planned.clone()),
        extra_disks: Vec::new(),
        consoles: Vec::new(),
    }
}

/// The arguments without a kernel: the firmware is to stop after it has placed the windows.
fn without_kernel(arguments: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = arguments.into_iter().peekable();
    while let Some(word) = words.next() {
        let value = words.peek().map_or("", String::as_str);
        let drops = ["-kernel", "-initrd", "-append"].contains(&word.as_str())
            || (word == "-fw_cfg" && value.contains("etc/boot/kernel"))
            || (word == "-device" && value.contains("\"loader\""));
        if drops {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept
}

fn plan(host: &Inventory, count: u8, firmware_bits: u8) -> Passthrough {
    let facts = snp_host();
    let needs = Needs {
        vcpus: 2,
        memory: Memory::from_mib(1024).unwrap(),
        others: Committed::default(),
        firmware_bits,
        qemu: &facts.qemu,
    };
    let choice = GpuChoice::Any { family: None, count };
    let request = GpuRequest { choice, board: None };
    let taken = BTreeMap::new();
    let offer = GpuHost { root: "/".into(), inventory: host.clone(), taken };
    Passthrough::new(&request, needs, &offer, &Profiles::shipped().unwrap()).unwrap()
}

/// Boots what was planned as far as the firmware goes, and looks where the windows are.
fn windows_are_where_they_were_planned(host: &Inventory, planned: &Passthrough, firmware: &Path) {
    let qemu = match Qemu::probe(None) {
        Ok(qemu) => qemu,
        Err(error) => return missing(&error.to_string()),
    };
    let gpus = planned.gpus.len();
    let mut vm = Vm::start(&qemu, firmware, planned, host);
    let found = vm.windows(gpus * 3);
    assert_eq!(found.len(), gpus, "{found:x?}");
    let largest = host.devices.iter().find(|device| device.is_gpu()).unwrap().bar(2);
    for (index, (port, windows)) in found.iter().enumerate() {
        assert_eq!(*port, format!("port{index}"));
        let sizes: Vec<u64> = windows.iter().map(|(_, size)| *size).collect();
        assert_eq!(sizes.iter().max(), Some(&largest), "{port}: {windows:x?}");
        for (address, size) in windows {
            let (first, end) = (planned.space.base, planned.space.end());
            assert!(
                (first..=end).contains(address) && address + size <= end,
                "{port}: {size:#x} at {address:#x}, expected within {first:#x} to {end:#x}"
            );
            assert!(address.is_multiple_of(*size), "{port}: {size:#x} at {address:#x}");
        }
    }
}

fn wide() -> Option<PathBuf> {
    if Path::new(WIDE).exists() {
        return Some(WIDE.into());
    }
    missing(&format!("{WIDE} is missing; install ovmf"));
    None
}

#[test]
fn one_gpu_of_128_gib() {
    let (Some(firmware), host) = (wide(), rtx_pro_6000()) else { return };
    windows_are_where_they_were_planned(&host, &plan(&host, 1, 40), &firmware);
}

#[test]
fn one_gpu_under_stock_firmware() {
    let Some(firmware) = std::env::var_os("CASEMATE_TEST_FIRMWARE") else {
        return missing("CASEMATE_TEST_FIRMWARE is not set");
    };
    let host = rtx_pro_6000();
    windows_are_where_they_were_planned(&host, &plan(&host, 1, 40), Path::new(&firmware));
}

#[test]
fn eight_gpus_and_four_switches() {
    let (Some(firmware), host) = (wide(), hgx_h100()) else { return };
    windows_are_where_they_were_planned(&host, &plan(&host, 8, 46), &firmware);
}

#[test]
fn two_and_eight_gpus_of_256_gib() {
    let (Some(firmware), host) = (wide(), b200()) else { return };
    windows_are_where_they_were_planned(&host, &plan(&host, 2, 46), &firmware);
    windows_are_where_they_were_planned(&host, &plan(&host, 8, 46), &firmware);
}

#[test]
fn eight_gpus_of_512_gib() {
    let (Some(firmware), host) = (wide(), b300()) else { return };
    windows_are_where_they_were_planned(&host, &plan(&host, 8, 46), &firmware);
}

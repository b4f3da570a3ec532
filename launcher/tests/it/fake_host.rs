//! A tree of files that stands for a host with GPUs, and a thread that does what its kernel would
//! do when somebody writes to them: bind, unbind, reset.
//!
//! What is an order to the kernel is a named pipe here, so none is lost and none is seen twice,
//! whichever process gives it.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use casemate_launcher::devices::Devices;
use casemate_launcher::inventory::{Address, Inventory};

/// Where an H100 keeps its mode, and whether it has started.
const MODE: u64 = 0x11_82cc;
const STARTED: u64 = 0x2_00bc;
/// Where a switch does.
const SWITCH_MODE: u64 = 0x2_8c50;
const SWITCH_STARTED: u64 = 0x6_60bc;

/// What this kernel does wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// It binds nothing to vfio-pci.
    pub(crate) refuses_vfio: bool,
    /// It makes no nodes.
    pub(crate) no_nodes: bool,
}

/// The host.
pub(crate) struct FakeHost {
    dir: tempfile::TempDir,
    resets: Arc<Mutex<Vec<String>>>,
    faults: Arc<Mutex<Faults>>,
    settled: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    kernel: Option<JoinHandle<()>>,
}

impl Drop for FakeHost {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            kernel.join().unwrap();
        }
    }
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn hear(path: &Path) -> File {
    // Open for writing too: nobody who writes has to wait, and it never ends.
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(0o4000).open(path).unwrap()
}

impl FakeHost {
    /// `gpus` H100 in mode on, each bound to `driver`, asleep; the first has a second function.
    /// With `switches` of them.
    pub(crate) fn new(gpus: u8, switches: u8, driver: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["sys/bus/pci/devices", "dev/vfio/devices", "run", "proc/sys/kernel/random"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(root.join("proc/sys/kernel/random/boot_id"), "boot-1\n").unwrap();
        fs::write(root.join("dev/iommu"), "").unwrap();
        let mut pipes = vec![root.join("sys/bus/pci/drivers_probe")];
        for name in ["vfio-pci", "nvidia", "snd_hda_intel"] {
            let folder = root.join("sys/bus/pci/drivers").join(name);
            fs::create_dir_all(&folder).unwrap();
            pipes.push(folder.join("unbind"));
        }
        for n in 0..gpus {
            let folder = device(root, &gpu(n), 0x2330, "0x030200", n, driver);
            registers(&folder, &[(0, 0x1800_00a1), (STARTED, 0xff), (MODE, 1)]);
            pipes.push(folder.join("reset"));
        }
        for n in 0..switches {
            let folder = device(root, &switch(n), 0x22a3, "0x068000", gpus + n, driver);
            registers(&folder, &[(0, 0x0700_00a1), (SWITCH_STARTED, 0xff), (SWITCH_MODE, 0)]);
            pipes.push(folder.join("reset"));
        }
        let sound = device(root, "0000:10:00.1", 0x22bb, "0x040300", 0, Some("snd_hda_intel"));
        pipes.push(sound.join("reset"));
        pipes.push(root.join("settle"));
        for path in &pipes {
            fifo(path);
        }
        let pipes = pipes.into_iter().map(|path| (hear(&path), path)).collect();
        let (resets, faults, settled) = (Arc::default(), Arc::default(), Arc::default());
        let stop = Arc::new(AtomicBool::new(false));
        let kernel = Kernel {
            root: root.to_owned(),
            native: driver.map(str::to_owned),
            resets: Arc::clone(&resets),
            faults: Arc::clone(&faults),
            settled: Arc::clone(&settled),
        };
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || kernel.run(pipes, &stop)
        });
        Self { dir, resets, faults, settled, stop, kernel: Some(thread) }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn devices(&self) -> Devices {
        Devices::at(self.root()).unwrap().with_patience(Duration::from_secs(3))
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let mut host = crate::hosts::epyc(25, 17);
        host.devices = Inventory::devices(self.root());
        host
    }

    pub(crate) fn fault(&self, faults: Faults) {
        *self.faults.lock().unwrap() = faults;
    }

    /// Waits until every order that was given is carried out. The second round starts after the
    /// first was answered, so the thread has looked at every pipe meanwhile.
    fn settle(&self) {
        for _ in 0..2 {
            let before = self.settled.load(Ordering::SeqCst);
            fs::write(self.root().join("settle"), "now\n").unwrap();
            let until = Instant::now() + Duration::from_mins(1);
            while self.settled.load(Ordering::SeqCst) == before {
                assert!(Instant::now() < until, "the kernel's thread has ended");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Which devices were reset, in order.
    pub(crate) fn resets(&self) -> Vec<String> {
        self.settle();
        self.resets.lock().unwrap().clone()
    }

    /// The driver that has a device.
    pub(crate) fn driver(&self, address: &str) -> Option<String> {
        self.settle();
        let link = fs::read_link(folder(self.root(), address).join("driver")).ok()?;
        Some(link.file_name().unwrap().to_str().unwrap().to_owned())
    }

    /// A device answers no more: its configuration reads as ones.
    pub(crate) fn dies(&self, address: &str) {
        let path = folder(self.root(), address).join("config");
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[0xff; 64], 0).unwrap();
    }

    /// Sets the mode of a GPU behind everyone's back.
    pub(crate) fn set_mode(&self, address: &str, word: u32) {
        registers(&folder(self.root(), address), &[(MODE, word)]);
    }
}

/// The address of a GPU.
pub(crate) fn gpu(n: u8) -> String {
    format!("0000:{:02x}:00.0", 0x10 + n)
}

/// The address of a switch.
pub(crate) fn switch(n: u8) -> String {
    format!("0000:{:02x}:00.0", 0x80 + n)
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn folder(root: &Path, address: &str) -> PathBuf {
    root.join("sys/bus/pci/devices").join(address)
}

fn device(
    root: &Path,
    address: &str,
    id: u16,
    class: &str,
    group: u8,
    driver: Option<&str>,
) -> PathBuf {
    let dir = folder(root, address);
    fs::create_dir_all(dir.join("power")).unwrap();
    let id_text = format!("{id:#06x}");
    for (name, text) in [
        ("vendor", "0x10de"),
        ("device", &id_text),
        ("class", class),
        ("numa_node", "0"),
        ("reset_method", "flr bus"),
        ("driver_override", "\n"),
        ("power/control", "auto\n"),
        ("power_state", "D0\n"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let window = |start: u64, size: u64| {
        format!("{start:#018x} {:#018x} 0x000000000014220c\n", start + size - 1)
    };
    let none = "0x0 0x0 0x0\n";
    let windows = [&window(1 << 40, 16 << 20), none, &window(1 << 41, 128 << 30), none].concat();
    fs::write(dir.join("resource"), windows).unwrap();
    // Command 0: it does not answer to memory reads, as one that no driver uses.
    let mut config = [0; 64];
    config[..2].copy_from_slice(&0x10de_u16.to_le_bytes());
    config[2..4].copy_from_slice(&id.to_le_bytes());
    fs::write(dir.join("config"), config).unwrap();
    let group_dir = root.join("sys/kernel/iommu_groups").join(group.to_string());
    fs::create_dir_all(group_dir.join("devices")).unwrap();
    symlink(&group_dir, dir.join("iommu_group")).unwrap();
    symlink(&dir, group_dir.join("devices").join(address)).unwrap();
    if let Some(driver) = driver {
        symlink(root.join("sys/bus/pci/drivers").join(driver), dir.join("driver")).unwrap();
    }
    dir
}

fn registers(dir: &Path, words: &[(u64, u32)]) {
    let path = dir.join("resource0");
    let options = || OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = options().unwrap();
    file.set_len(32 << 20).unwrap();
    for (offset, word) in words {
        file.write_all_at(&word.to_le_bytes(), *offset).unwrap();
    }
}

/// What the thread does.
struct Kernel {
    root: PathBuf,
    native: Option<String>,
    resets: Arc<Mutex<Vec<String>>>,
    faults: Arc<Mutex<Faults>>,
    settled: Arc<AtomicU64>,
}

impl Kernel {
    fn run(&self, mut pipes: Vec<(File, PathBuf)>, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let mut idle = true;
            for (pipe, path) in &mut pipes {
                let mut bytes = [0; 4096];
                let Ok(len) = pipe.read(&mut bytes) else { continue };
                idle = false;
                for line in String::from_utf8_lossy(&bytes[..len]).lines() {
                    self.order(path, line);
                }
            }
            if idle {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn order(&self, path: &Path, line: &str) {
        let faults = *self.faults.lock().unwrap();
        match path.file_name().and_then(|name| name.to_str()).unwrap() {
            "settle" => _ = self.settled.fetch_add(1, Ordering::SeqCst),
            "unbind" => self.unbind(line),
            "drivers_probe" => self.probe(line, faults),
            "reset" => {
                let dir = path.parent().unwrap();
                let address = dir.file_name().unwrap().to_str().unwrap().to_owned();
                self.resets.lock().unwrap().push(address);
            }
            other => panic!("{other}"),
        }
    }

    fn unbind(&self, address: &str) {
        let dir = folder(&self.root, address);
        let _ = fs::remove_dir_all(dir.join("vfio-dev"));
        let _ = fs::remove_file(self.root.join("dev/vfio/devices").join(node(address)));
        fs::remove_file(dir.join("driver")).unwrap();
    }

    fn probe(&self, address: &str, faults: Faults) {
        let dir = folder(&self.root, address);
        if dir.join("driver").exists() {
            return;
        }
        let wanted = fs::read_to_string(dir.join("driver_override")).unwrap();
        let wanted = wanted.lines().next().unwrap_or_default().to_owned();
        let native = if address.ends_with(".1") {
            Some("snd_hda_intel".into())
        } else {
            self.native.clone()
        };
        let driver = if wanted.is_empty() { native } else { Some(wanted) };
        let Some(driver) = driver else { return };
        if driver == "vfio-pci" {
            if faults.refuses_vfio {
                return;
            }
            if !faults.no_nodes {
                fs::write(self.root.join("dev/vfio/devices").join(node(address)), "").unwrap();
                fs::create_dir_all(dir.join("vfio-dev").join(node(address))).unwrap();
            }
        }
        symlink(self.root.join("sys/bus/pci/drivers").join(&driver), dir.join("driver")).unwrap();
    }
}

fn node(address: &str) -> String {
    format!("vfio{}", address.replace([':', '.'], ""))
}

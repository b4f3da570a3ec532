//! What the kernel is told of a device, through its files in `/sys`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::inventory::{Address, Device, Inventory};

use super::DeviceError;

/// The driver that gives devices to VMs.
pub(super) const VFIO: &str = "vfio-pci";
/// How long the kernel may take to bind or unbind. It waits for who uses the device.
const BINDING: Duration = Duration::from_secs(30);
/// How long it may take to reset one.
const RESETTING: Duration = Duration::from_mins(1);
/// How long a node may take to appear.
const APPEARING: Duration = Duration::from_secs(10);
/// How long a driver may take to take a device that is offered to it.
const SETTLING: Duration = Duration::from_secs(1);
/// How long a GPU may take to start after a reset.
const STARTING: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(5);
/// The register of a device's configuration that lets it answer to memory reads, and the bit.
const COMMAND: u64 = 4;
const MEMORY: u16 = 2;

/// The files of a host's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sys {
    /// What `/` is.
    pub(super) root: PathBuf,
    /// Most that anything may take, where that is less than usual.
    pub(super) patience: Duration,
}

impl Sys {
    fn limit(&self, usual: Duration) -> Duration {
        usual.min(self.patience)
    }
}

/// The folder of a device.
pub(super) fn dir(sys: &Sys, address: Address) -> PathBuf {
    sys.root.join("sys/bus/pci/devices").join(address.to_string())
}

/// Every function of a device's slot that is no bridge, in order.
pub(super) fn functions(sys: &Sys, address: Address) -> Result<Vec<Address>, DeviceError> {
    const PCI_BRIDGE: &str = "0x0604";
    let is_bridge = |address: Address| {
        let class = fs::read_to_string(dir(sys, address).join("class")).unwrap_or_default();
        class.starts_with(PCI_BRIDGE)
    };
    let found: Vec<Address> = address
        .slot()
        .filter(|function| dir(sys, *function).is_dir() && !is_bridge(*function))
        .collect();
    if found.contains(&address) { Ok(found) } else { Err(DeviceError::Absent { address }) }
}

/// The driver that has a device.
pub(super) fn driver(sys: &Sys, address: Address) -> Option<String> {
    let target = fs::read_link(dir(sys, address).join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Writes to a file of the kernel, from a thread of its own: a write that the kernel does not
/// finish cannot be taken back.
fn order(path: PathBuf, text: &str, limit: Duration) -> Result<(), DeviceError> {
    let (sender, receiver) = channel();
    let (bytes, file) = (format!("{text}\n"), path.clone());
    thread::spawn(move || {
        let written = OpenOptions::new()
            .write(true)
            .open(&file)
            .and_then(|mut file| file.write_all(bytes.as_bytes()));
        let _ = sender.send(written);
    });
    let text = text.to_owned();
    match receiver.recv_timeout(limit) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(DeviceError::Write { path, text, source }),
        Err(_) => Err(DeviceError::Hangs { path, text, waited: limit }),
    }
}

fn wait_until(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(TICK);
    }
}

/// What a function was bound to before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Before {
    address: Address,
    driver: Option<String>,
}

/// Binds every function of a device's slot to vfio-pci and waits for its node. On failure each
/// is given back to the driver that it had.
pub(super) fn bind(sys: &Sys, address: Address) -> Result<Vec<Before>, DeviceError> {
    let mut done = Vec::new();
    for function in functions(sys, address)? {
        let before = Before { address: function, driver: driver(sys, function) };
        if before.driver.as_deref() == Some(VFIO) {
            continue;
        }
        done.push(before);
        if let Err(error) = bind_one(sys, function) {
            give_back(sys, &done);
            return Err(error);
        }
    }
    if wait_until(sys.limit(APPEARING), || has_node(sys, address)) {
        return Ok(done);
    }
    give_back(sys, &done);
    Err(DeviceError::NoNode { address })
}

fn bind_one(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    unbind(sys, address)?;
    // Not new_id: that would take every device of this kind, those of the host too.
    order(dir(sys, address).join("driver_override"), VFIO, sys.limit(BINDING))?;
    probe(sys, address)?;
    if wait_until(sys.limit(APPEARING), || driver(sys, address).as_deref() == Some(VFIO)) {
        return Ok(());
    }
    Err(DeviceError::Driver {
        address,
        found: driver(sys, address).unwrap_or_else(|| "no driver".into()),
        expected: VFIO,
        why: "the kernel did not bind it",
    })
}

/// Takes every function of a device's slot from the driver that has it.
pub(super) fn unbind_slot(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    functions(sys, address)?.into_iter().try_for_each(|function| unbind(sys, function))
}

fn unbind(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    let Some(name) = driver(sys, address) else { return Ok(()) };
    order(dir(sys, address).join("driver/unbind"), &address.to_string(), sys.limit(BINDING))?;
    if wait_until(sys.limit(APPEARING), || driver(sys, address).is_none()) {
        return Ok(());
    }
    let why = "the driver did not let go of it";
    Err(DeviceError::Driver { address, found: name, expected: "no driver", why })
}

fn probe(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    order(sys.root.join("sys/bus/pci/drivers_probe"), &address.to_string(), sys.limit(BINDING))
}

fn has_node(sys: &Sys, address: Address) -> bool {
    Inventory::device(&sys.root, address).is_some_and(|device| device.vfio_cdev)
}

/// Gives functions back to the drivers that they had. What fails here fails in silence: the
/// error that led here is the one to tell.
pub(super) fn give_back(sys: &Sys, before: &[Before]) {
    for Before { address, driver: wanted } in before.iter().rev() {
        let _ = unbind(sys, *address);
        let _ = order(dir(sys, *address).join("driver_override"), "", sys.limit(BINDING));
        if wanted.is_some() && probe(sys, *address).is_ok() {
            wait_until(sys.limit(APPEARING), || driver(sys, *address).is_some());
        }
    }
}

/// Gives every function of a device's slot back to the host's own drivers.
pub(super) fn release(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    for function in functions(sys, address)? {
        if driver(sys, function).as_deref() == Some(VFIO) {
            unbind(sys, function)?;
        }
        order(dir(sys, function).join("driver_override"), "", sys.limit(BINDING))?;
        probe(sys, function)?;
        // There may be no driver for it, so this is no error.
        wait_until(sys.limit(SETTLING), || driver(sys, function).is_some());
    }
    Ok(())
}

/// Resets a device, so that nothing of who had it stays, and waits until it answers again.
pub(super) fn reset(sys: &Sys, address: Address) -> Result<(), DeviceError> {
    let failed = |source| DeviceError::Reset { address, source: Box::new(source) };
    order(dir(sys, address).join("reset"), "1", sys.limit(RESETTING)).map_err(failed)?;
    let path = dir(sys, address).join("config");
    let answers = || {
        let mut vendor = [0; 2];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut vendor, 0));
        read.is_ok() && vendor != [0xff; 2]
    };
    if wait_until(sys.limit(STARTING), answers) {
        return Ok(());
    }
    let reason = "its configuration reads as nothing after a reset".to_owned();
    Err(failed(DeviceError::Dead { address, reason }))
}

/// A device that was woken, and is let sleep again when this is dropped.
struct Awake {
    sys: Sys,
    dir: PathBuf,
    command: Option<u16>,
    power: Option<String>,
}

impl Awake {
    fn new(sys: &Sys, address: Address) -> Self {
        let dir = dir(sys, address);
        let control = dir.join("power/control");
        let power = fs::read_to_string(&control).ok().map(|text| text.trim().to_owned());
        if power.is_some() && order(control, "on", sys.limit(BINDING)).is_ok() {
            let state = dir.join("power_state");
            let is_awake = || fs::read_to_string(&state).map_or(true, |text| text.trim() == "D0");
            wait_until(Duration::from_secs(2), is_awake);
        }
        let command = read_command(&dir).filter(|command| command & MEMORY == 0);
        if let Some(command) = command {
            write_command(&dir, command | MEMORY);
        }
        Self { sys: sys.clone(), dir, command, power }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        if let Some(command) = self.command {
            write_command(&self.dir, command);
        }
        if let Some(power) = &self.power {
            let _ = order(self.dir.join("power/control"), power, self.sys.limit(BINDING));
        }
    }
}

fn read_command(dir: &Path) -> Option<u16> {
    let mut bytes = [0; 2];
    File::open(dir.join("config")).ok()?.read_exact_at(&mut bytes, COMMAND).ok()?;
    Some(u16::from_le_bytes(bytes))
}

/// What fails shows as a mode that cannot be read.
fn write_command(dir: &Path, command: u16) {
    let file = OpenOptions::new().write(true).open(dir.join("config"));
    let _ = file.and_then(|file| file.write_all_at(&command.to_le_bytes(), COMMAND));
}

/// A device as it is while awake: its mode is in registers that sleep with it. Nobody else may
/// use it meanwhile.
pub(super) fn woken(sys: &Sys, address: Address) -> Option<Device> {
    let _awake = Awake::new(sys, address);
    Inventory::device(&sys.root, address)
}

/// As [`woken`], once the device has started: after a reset that takes seconds.
pub(super) fn started(sys: &Sys, address: Address) -> Result<Device, DeviceError> {
    let mut last = None;
    let has_mode = || {
        last = woken(sys, address);
        last.as_ref().is_none_or(|device| matches!(device.mode, None | Some(Ok(_))))
    };
    wait_until(sys.limit(STARTING), has_mode);
    last.ok_or(DeviceError::Absent { address })
}

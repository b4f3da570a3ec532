//! What `/init` decides: which root file system this VM runs, from the measured command line
//! alone.
//!
//! It loads the modules of the initrd, finds the root disk by its serial, puts dm-verity over
//! it, mounts it read-only with a tmpfs wherever something is written, and becomes systemd. It
//! asks nobody and prints nothing. Whatever fails, it reports the stage and powers off: there
//! is no shell to fall into.

mod device_mapper;
mod error;
mod handover;
mod modules;
mod mounts;
mod verity;

pub use device_mapper::DeviceMapperError;
pub use error::InitError;
pub use mounts::{Tmpfs, WRITABLE};
pub use verity::{VerityPlan, hash_tree_blocks};

use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, panic, process, thread};

use casemate_measurements::cmdline::BootParams;
use casemate_measurements::launch_config::ROOT_DISK_SERIAL;
use casemate_measurements::stage::Stage;
use nix::sys::reboot::{RebootMode, reboot};

use crate::stage_port::StagePort;
use crate::sysfs::{Disk, DiskError, SysRoot};

/// Names the modules of the initrd, a path per line, in the order in which they are loaded.
const MODULES: &str = "/modules.order";
/// Where the root file system is mounted before it becomes `/`.
const NEW_ROOT: &str = "/root";
/// How long the root disk may take to appear.
const DISK_WAIT: Duration = Duration::from_secs(10);

/// Runs as process 1 and never returns: the VM runs systemd, or ends.
pub fn main() -> ! {
    // A panic must neither print nor leave the kernel to decide.
    panic::set_hook(Box::new(|_| power_off()));
    let mut stages = StagePort::new(SysRoot::default());
    let Err(error) = boot(&mut stages);
    stages.report_last(error.stage());
    power_off()
}

fn boot(stages: &mut StagePort) -> Result<Infallible, InitError> {
    mounts::mount_kernel_file_systems()?;
    stages.report(Stage::InitStarted);
    check_platform(Path::new("/sys"))?;

    let line = fs::read_to_string("/proc/cmdline").map_err(InitError::ReadCommandLine)?;
    let params = BootParams::from_cmdline(&line)?;

    modules::load(Path::new(MODULES))?;
    stages.report(Stage::ModulesLoaded);

    let disk = wait_for_disk(&SysRoot::default(), DISK_WAIT)?;
    stages.report(Stage::RootDiskFound);

    let plan = VerityPlan::new(&params.verity, &disk)?;
    let device = device_mapper::create(&plan)?;
    stages.report(Stage::VerityReady);

    mounts::mount_root(&device, Path::new(NEW_ROOT))?;
    mounts::mount_writable(Path::new(NEW_ROOT))?;
    stages.report(Stage::RootMounted);

    stages.report(Stage::Handover);
    stages.settle();
    handover::become_systemd(Path::new(NEW_ROOT))
}

/// What the kernel makes of the host's list of processors and of the DSDT. Without them it runs on one
/// processor and with interrupts that nobody described: no VM that was asked for.
const PLATFORM: [&str; 2] = ["firmware/acpi/tables/APIC", "bus/acpi/devices/PNP0A08:00"];

fn check_platform(sys: &Path) -> Result<(), InitError> {
    let missing = PLATFORM.iter().map(|path| sys.join(path)).find(|path| !path.exists());
    missing.map_or(Ok(()), |path| Err(InitError::Platform { path }))
}

/// Finds the root disk, which may appear a moment after its driver.
fn wait_for_disk(root: &SysRoot, patience: Duration) -> Result<Disk, DiskError> {
    let end = Instant::now() + patience;
    loop {
        match root.disk(ROOT_DISK_SERIAL) {
            Err(DiskError::Missing { .. } | DiskError::List { .. }) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Ends the VM. If the machine cannot be switched off, process 1 dies and the kernel panics,
/// which ends it too (`panic=-1`).
fn power_off() -> ! {
    for mode in [RebootMode::RB_POWER_OFF, RebootMode::RB_AUTOBOOT, RebootMode::RB_HALT_SYSTEM] {
        let _ = reboot(mode);
    }
    process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_nobody_describes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let stage = || check_platform(dir.path()).map_err(|error| error.stage());
        for path in PLATFORM {
            assert_eq!(stage(), Err(Stage::PlatformRefused), "without {path}");
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        assert_eq!(stage(), Ok(()));
    }

    #[test]
    fn waiting_for_a_disk_is_bounded_and_ambiguity_is_not_waited_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = SysRoot::new(dir.path());
        let error = wait_for_disk(&root, Duration::from_millis(30)).unwrap_err();
        assert_eq!(InitError::from(error).stage(), Stage::RootDiskMissing);
        for name in ["vda", "vdb"] {
            let disk = dir.path().join("sys/block").join(name);
            fs::create_dir_all(&disk).unwrap();
            fs::write(disk.join("serial"), ROOT_DISK_SERIAL).unwrap();
        }
        let start = Instant::now();
        let error = wait_for_disk(&root, Duration::from_secs(30)).unwrap_err();
        assert_eq!(InitError::from(error).stage(), Stage::DiskAmbiguous);
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

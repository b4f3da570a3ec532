//! The order that GPUs need: reset before any driver sees them, then the driver, and on only
//! when it is bound to each of them.
//!
//! A GPU that starts a second time after one reset refuses its session, and a driver that bound
//! to some of the GPUs leaves a VM that has less than was promised. So each is reset once, and
//! what is not bound in time ends the VM.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::stage::Stage;

use super::cdi;
use super::pci::{Gpu, PciError, scan};
use super::run::{RunError, run};
use crate::stage_port::StagePort;
use crate::sysfs::SysRoot;

/// The driver.
const DRIVER: &str = "nvidia";
/// What the driver computes its session with a GPU by, and looks up by name. Modules that offer it
/// have other names in each kernel, and none where it is built in: the alias stays.
pub const CIPHERS: [Cipher; 5] = [
    Cipher { alias: "crypto-ecdh", algorithm: "ecdh-nist-p384" },
    Cipher { alias: "crypto-ecdsa-nist-p384", algorithm: "ecdsa-nist-p384" },
    Cipher { alias: "crypto-gcm", algorithm: "gcm(aes)" },
    Cipher { alias: "crypto-hmac", algorithm: "hmac(sha384)" },
    Cipher { alias: "crypto-sha384", algorithm: "sha384" },
];
/// What CUDA needs beside the driver.
const BESIDE: [&str; 2] = ["nvidia_modeset", "nvidia_uvm"];
/// Pause between two looks whether the driver is bound.
const PAUSE: Duration = Duration::from_millis(100);

/// A cipher of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Cipher {
    /// What modprobe takes.
    pub alias: &'static str,
    /// What the driver asks for and `/proc/crypto` lists.
    pub algorithm: &'static str,
}

/// The programs that are run, each with arguments before those of a call.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Loads kernel modules.
    pub modprobe: Vec<OsString>,
    /// Makes the driver's device nodes.
    pub nodes: Vec<OsString>,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            modprobe: vec!["/usr/sbin/modprobe".into()],
            nodes: vec!["/usr/bin/nvidia-modprobe".into()],
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A program.
    pub program: Duration,
    /// From the driver's start until it is bound to every GPU.
    pub bind: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { program: Duration::from_mins(3), bind: Duration::from_mins(2) }
    }
}

/// Why the VM ends.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The bus cannot be read.
    #[error("cannot look for GPUs")]
    Pci(#[from] PciError),
    /// There is a GPU that nobody could attest.
    #[error("the GPU {} is none that casemate knows (device {device:04x})", path.display())]
    Unknown {
        /// Its directory in sysfs.
        path: PathBuf,
        /// Its PCI device number.
        device: u16,
    },
    /// There are `NVSwitches`, whose evidence this image cannot collect.
    #[error("there are {found} NVSwitches: this image collects no evidence of them")]
    Switches {
        /// How many.
        found: usize,
    },
    /// A driver saw the GPU before it was reset.
    #[error("{} is bound to {driver} before it was reset", path.display())]
    Early {
        /// The GPU's directory in sysfs.
        path: PathBuf,
        /// The driver.
        driver: String,
    },
    /// A GPU could not be reset.
    #[error("cannot reset {}", path.display())]
    Reset {
        /// The file that was written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A module did not load.
    #[error("a module did not load")]
    Module(#[source] RunError),
    /// A cipher is not there.
    #[error("the kernel has no {algorithm}: nothing that offers it loads")]
    Cipher {
        /// The kernel's name for it.
        algorithm: &'static str,
        /// How its module failed.
        source: RunError,
    },
    /// The driver did not bind in time.
    #[error("the driver is bound to {bound} of {found} GPUs")]
    NotBound {
        /// To how many it is bound.
        bound: usize,
        /// How many there are.
        found: usize,
    },
    /// The nodes could not be made.
    #[error("the device nodes could not be made")]
    Nodes(#[source] RunError),
    /// What containers are given could not be written.
    #[error("cannot write /{}", cdi::PATH)]
    Cdi(#[source] io::Error),
}

impl PrepareError {
    /// The code that the host is told.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Pci(_) | Self::Unknown { .. } | Self::Switches { .. } => Stage::GpusRefused,
            Self::Early { .. } | Self::Reset { .. } => Stage::GpuResetFailed,
            Self::Module(_) | Self::Cipher { .. } | Self::NotBound { .. } => Stage::GpuDriverFailed,
            Self::Nodes(_) | Self::Cdi(_) => Stage::GpuNodesFailed,
        }
    }
}

/// Does everything that comes before the first use of a GPU, and returns how many there are.
/// Without one it does nothing.
///
/// # Errors
/// When a step fails; the error names the stage that the host is told.
pub fn prepare(
    root: &SysRoot,
    programs: &Programs,
    patience: Patience,
    stages: &mut StagePort,
) -> Result<usize, PrepareError> {
    let found = scan(root)?;
    if found.is_empty() {
        return Ok(0);
    }
    if found.switches > 0 {
        return Err(PrepareError::Switches { found: found.switches });
    }
    if let Some(Gpu { path, device, .. }) = found.gpus.iter().find(|gpu| gpu.chip().is_none()) {
        return Err(PrepareError::Unknown { path: path.clone(), device: *device });
    }
    stages.report(Stage::GpusFound);

    // All are looked at before one is touched.
    if let Some((gpu, driver)) = found.gpus.iter().find_map(|gpu| Some((gpu, gpu.driver()?))) {
        return Err(PrepareError::Early { path: gpu.path.clone(), driver });
    }
    found.gpus.iter().try_for_each(reset)?;
    stages.report(Stage::GpusReset);

    let modprobe = |arguments: &[&str]| run(&programs.modprobe, arguments, patience.program);
    for Cipher { alias, algorithm } in CIPHERS {
        match modprobe(&[alias]) {
            Err(source) if !offers(root, algorithm) => {
                return Err(PrepareError::Cipher { algorithm, source });
            }
            _ => {}
        }
    }
    modprobe(&[DRIVER]).map_err(PrepareError::Module)?;
    wait_until_bound(&found.gpus, patience.bind)?;
    stages.report(Stage::GpusBound);

    modprobe(&[&["-a"][..], &BESIDE].concat()).map_err(PrepareError::Module)?;
    let numbers: Vec<String> = (0..found.gpus.len()).map(|number| number.to_string()).collect();
    let mut arguments: Vec<&str> = numbers.iter().flat_map(|number| ["-c", number]).collect();
    arguments.extend(["-u", "-m"]);
    run(&programs.nodes, &arguments, patience.program).map_err(PrepareError::Nodes)?;
    cdi::write(root, found.gpus.len()).map_err(PrepareError::Cdi)?;
    stages.report(Stage::GpusPrepared);
    Ok(found.gpus.len())
}

/// Whether the kernel lists an algorithm.
fn offers(root: &SysRoot, algorithm: &str) -> bool {
    let listed = fs::read_to_string(root.path("proc/crypto")).unwrap_or_default();
    listed.lines().any(|line| {
        line.split_once(':')
            .is_some_and(|(field, name)| field.trim_end() == "name" && name.trim() == algorithm)
    })
}

/// Resets the function alone (FLR), and by no other way: a reset of the bus would be one of the
/// host's making.
fn reset(gpu: &Gpu) -> Result<(), PrepareError> {
    for (file, value) in [("reset_method", "flr"), ("reset", "1")] {
        let path = gpu.path.join(file);
        let opened = fs::OpenOptions::new().write(true).open(&path);
        opened
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(|source| PrepareError::Reset { path, source })?;
    }
    Ok(())
}

fn wait_until_bound(gpus: &[Gpu], patience: Duration) -> Result<(), PrepareError> {
    let end = Instant::now() + patience;
    loop {
        let bound = gpus.iter().filter(|gpu| gpu.driver().as_deref() == Some(DRIVER)).count();
        if bound == gpus.len() {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(PrepareError::NotBound { bound, found: gpus.len() });
        }
        thread::sleep(PAUSE);
    }
}

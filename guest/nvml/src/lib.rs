//! Asks NVIDIA's management library (NVML) one question and prints the answer as JSON: `state`,
//! `evidence NONCE`, or `ready`, which lets programs use the GPUs.
//!
//! The library is closed, and loaded while the program runs: hence a program of its own, beside
//! which no key lies, linked with the guest's C library. Whoever asks holds the answer to what he
//! knows. Not yet seen on hardware.

use std::io::{self, Write as _};
use std::process::ExitCode;

use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::gpu_evidence::{
    DeviceEvidence, DriverState, GpuEvidence, architecture_of, chip_of,
};
use casemate_measurements::hash::Nonce;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// The library, by the name that programs ask for.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The driver's own file: without it there is no GPU to speak of.
const DRIVER: &str = "/proc/driver/nvidia/version";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AnswerError {
    #[error("usage: casemate-nvml state | evidence NONCE | ready")]
    Usage,
    #[error("the library refuses")]
    Nvml(#[from] NvmlError),
    #[error("the GPU with the PCI device number {0:04x} is none that casemate knows")]
    Unknown(u32),
    #[error("the GPUs do not say that programs may use them")]
    NotReady,
    #[error("cannot write the answer")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer")]
    Write(#[from] io::Error),
}

/// Answers the question of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match answer(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ =
                writeln!(io::stderr(), "error: {error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}

fn answer(arguments: &[&str]) -> Result<(), AnswerError> {
    let text = match arguments {
        ["state"] => serde_json::to_string(&state(&open()?)?)?,
        ["evidence", nonce] => {
            let nonce: Nonce = nonce.parse().map_err(|_| AnswerError::Usage)?;
            serde_json::to_string(&evidence(&open()?, &nonce)?)?
        }
        ["ready"] if !std::path::Path::new(DRIVER).exists() => return Ok(()),
        ["ready", "--now"] | ["ready"] => return ready(&open()?),
        _ => return Err(AnswerError::Usage),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

fn open() -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(LIBRARY.as_ref()).init()
}

fn devices(nvml: &Nvml) -> Result<Vec<Device<'_>>, NvmlError> {
    (0..nvml.device_count()?).map(|index| nvml.device_by_index(index)).collect()
}

fn state(nvml: &Nvml) -> Result<DriverState, NvmlError> {
    let devices = devices(nvml)?;
    let address = |device: &Device<'_>| -> Result<(u32, u32, u32), NvmlError> {
        let pci = device.pci_info()?;
        Ok((pci.domain, pci.bus, pci.device))
    };
    let gpus = devices.iter().map(address).collect::<Result<_, _>>()?;
    // Both are of the system: any device tells.
    let first = devices.first();
    let confidential = first.map_or(Ok(false), Device::is_cc_enabled)?;
    let developer = first.map_or(Ok(false), Device::is_cc_dev_mode_enabled)?;
    Ok(DriverState { driver: nvml.sys_driver_version()?, confidential, developer, gpus })
}

fn evidence(nvml: &Nvml, nonce: &Nonce) -> Result<GpuEvidence, AnswerError> {
    let ask = |device: &Device<'_>| -> Result<DeviceEvidence, AnswerError> {
        // NVML puts the device number above the vendor's.
        let number = device.pci_info()?.pci_device_id >> 16;
        let chip = u16::try_from(number).ok().and_then(chip_of);
        let architecture = chip.and_then(architecture_of).ok_or(AnswerError::Unknown(number))?;
        let report = device.confidential_compute_gpu_attestation_report(*nonce.as_bytes())?;
        let certificates = device.confidential_compute_gpu_certificate()?;
        Ok(DeviceEvidence {
            architecture,
            report: Base64Bytes(report.attestation_report),
            certificates: Base64Bytes(certificates.attestation_cert_chain),
        })
    };
    let devices = devices(nvml)?.iter().map(ask).collect::<Result<_, _>>()?;
    Ok(GpuEvidence { schema: GpuEvidence::SCHEMA, devices })
}

fn ready(nvml: &Nvml) -> Result<(), AnswerError> {
    // Of the system too.
    let device = nvml.device_by_index(0)?;
    device.set_confidential_compute_state(true)?;
    if device.get_confidential_compute_state()? { Ok(()) } else { Err(AnswerError::NotReady) }
}

//! One device: from what it answered to a report that NVIDIA vouches for.

use p384::ecdsa::VerifyingKey;

use super::certificate::{self, Certificate, CertificateError};
use super::dice::{self, Firmware};
use super::opaque::{Mode, OpaqueError, Pdi};
use super::spdm::{ReportError, UnverifiedReport};
use crate::chain::UnixTime;
use crate::gpu_evidence::{Architecture, DeviceEvidence, architecture_of, chip_named_by, is_named};
use crate::hash::Nonce;

/// Why a device's evidence is not genuine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The chain is not believed.
    #[error("its certificates")]
    Certificates(#[from] CertificateError),
    /// The certificate does not say which device it is for, or for another kind.
    #[error("its certificate is for {found:?}, expected a device of {expected}")]
    Identity {
        /// The device that the certificate names.
        found: String,
        /// The kind that the evidence claims.
        expected: Architecture,
    },
    /// The certificate does not say for which firmware, or not readably.
    #[error("its certificate names no firmware that can be read")]
    Firmware,
    /// The certificate is for a device that is not locked down.
    #[error("its certificate is for a device in a state that is refused: {0}")]
    State(&'static str),
    /// The report is malformed or not signed by the device.
    #[error("its report")]
    Report(#[from] ReportError),
    /// The report lacks a field or has a wrong one.
    #[error("its report")]
    Field(#[from] OpaqueError),
    /// The report is of other firmware than the key.
    #[error("its report is of firmware {found}, but its key is for {expected}")]
    OtherFirmware {
        /// The report's.
        found: String,
        /// The certificate's.
        expected: String,
    },
}

/// A device's key that a trusted root vouches for.
#[derive(Debug, Clone)]
pub struct DeviceKey {
    architecture: Architecture,
    identity: String,
    chip: String,
    key: VerifyingKey,
    firmware: Firmware,
}

impl DeviceKey {
    /// Verifies a device's certificates up to one of `roots` and reads what they say about it.
    pub(crate) fn verify(
        evidence: &DeviceEvidence,
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<Self, DeviceError> {
        let chain = Certificate::chain_from_pem(&evidence.certificates.0)?;
        certificate::verify_chain(&chain, roots, at)?;
        let leaf = &chain[0];
        let expected = evidence.architecture;
        let identity = leaf.device_info().unwrap_or_default();
        let mut parts = identity.split(':');
        let chip = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("NVIDIA"), Some(chip), Some(_), None)
                if architecture_of(chip) == Some(expected) =>
            {
                chip
            }
            _ => return Err(DeviceError::Identity { found: identity, expected }),
        };
        let firmware = match leaf.extension(dice::TCB_INFO) {
            Some(bytes) => dice::tcb_info(bytes),
            None => dice::composite_device(leaf.extension(dice::COMPOSITE_DEVICE).unwrap_or(&[])),
        };
        let firmware = firmware.map_err(|_| DeviceError::Firmware)?;
        if let Some(flag) = firmware.refused_flag {
            return Err(DeviceError::State(flag));
        }
        let (chip, key) = (chip.to_owned(), leaf.key()?);
        Ok(Self { architecture: expected, identity, chip, key, firmware })
    }

    /// Which device: `NVIDIA:GH100:48B02D92494BADF4`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Verifies the device's report with its key and reads it.
    ///
    /// # Errors
    /// When it is malformed, not signed by this key, or of other firmware than the key.
    pub fn verify_report(self, bytes: &[u8]) -> Result<Device, DeviceError> {
        let report = UnverifiedReport::parse(bytes)?.verify(&self.key)?;
        let opaque = &report.opaque;
        let is_gpu = !self.architecture.is_switch();
        if let Some(fwid) = opaque.fwid().filter(|fwid| *fwid != self.firmware.fwid) {
            let (found, expected) = (hex::encode(fwid), hex::encode(&self.firmware.fwid));
            return Err(DeviceError::OtherFirmware { found, expected });
        }
        let gpu = is_gpu.then(|| {
            let said = opaque.chip_info()?;
            Ok::<_, OpaqueError>(Gpu {
                driver: opaque.driver_version()?,
                board: opaque.board()?,
                chip: chip_named_by(&self.chip, said.as_deref()).to_owned(),
                driver_chip: said.unwrap_or_else(|| first_chip(&self.chip)),
                mode: opaque.mode()?,
                nvdec0: opaque.nvdec0_enabled()?,
            })
        });
        let (gpu, vbios) = (gpu.transpose()?, opaque.vbios_version()?);
        let neighbours = match (&gpu, gpu.as_ref().and_then(|gpu| gpu.mode)) {
            (Some(_), Some(Mode::ProtectedPcie)) => opaque.switches_of_gpu()?,
            (Some(_), _) => Vec::new(),
            (None, _) => opaque.gpus_of_switch()?,
        };
        let pdi = if is_gpu { None } else { Some(opaque.switch_pdi()?) };
        let Self { architecture, identity, chip, .. } = self;
        let (nonce, measurements) = (report.nonce, report.measurements);
        Ok(Device {
            architecture,
            identity,
            chip,
            vbios,
            gpu,
            pdi,
            neighbours,
            nonce,
            measurements,
        })
    }
}

/// The chip that the driver's manifest is named after where the report does not say: the first of
/// its architecture, unless the certificate names a family that this is not of.
fn first_chip(certificate: &str) -> String {
    let first = match architecture_of(certificate) {
        Some(Architecture::Blackwell) => "GB100",
        _ => "GH100",
    };
    let other = certificate.ends_with('X') && !is_named(first, certificate);
    if other { certificate } else { first }.to_owned()
}

/// What only a GPU's report says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Version of the driver.
    pub driver: String,
    /// The board: `PROJECT_PROJECTSKU_CHIPSKU`.
    pub board: String,
    /// The chip: the certificate's or, where that names a family, the one of it that the report
    /// names.
    pub chip: String,
    /// The chip that the driver's reference integrity manifest is named after.
    pub driver_chip: String,
    /// What GPUs and switches protect together; older firmware does not say.
    pub mode: Option<Mode>,
    /// Whether the first video decoder is on.
    pub nvdec0: bool,
}

/// A device whose report was verified. There is no other way to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    architecture: Architecture,
    identity: String,
    chip: String,
    vbios: String,
    gpu: Option<Gpu>,
    pdi: Option<Pdi>,
    neighbours: Vec<Pdi>,
    nonce: Nonce,
    measurements: Vec<Vec<u8>>,
}

impl Device {
    /// What it is.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Which device: `NVIDIA:GH100:48B02D92494BADF4`.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The chip: as its certificate names it, or of a family the one that its report names.
    #[must_use]
    pub fn chip(&self) -> &str {
        self.gpu.as_ref().map_or(&self.chip, |gpu| &gpu.chip)
    }

    /// The names that its VBIOS's reference integrity manifest may have for its chip.
    pub(crate) fn products(&self) -> [&str; 2] {
        [self.chip(), &self.chip]
    }

    /// Version of its VBIOS.
    #[must_use]
    pub fn vbios(&self) -> &str {
        &self.vbios
    }

    /// What only a GPU's report says.
    #[must_use]
    pub const fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// The number of a switch.
    #[must_use]
    pub const fn pdi(&self) -> Option<Pdi> {
        self.pdi
    }

    /// The switches that a GPU of a Hopper machine sees, or the GPUs that a switch sees, sorted.
    #[must_use]
    pub fn neighbours(&self) -> &[Pdi] {
        &self.neighbours
    }

    /// The nonce that it was asked with.
    #[must_use]
    pub const fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// Its measurements, by the index that reference integrity manifests use.
    #[must_use]
    pub fn measurements(&self) -> &[Vec<u8>] {
        &self.measurements
    }
}

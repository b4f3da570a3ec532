//! NVIDIA's roots, pinned here, and, only when they are handed over by hand, simulated ones.

use super::certificate::{Certificate, CertificateError};
use crate::platform::Platform;
use crate::roots::SIMULATED_MARK;

/// NVIDIA's root for devices and SHA-256 of its DER, from nv-local-gpu-verifier 2.7.3.
const DEVICE: (&str, &str) = (
    include_str!("../roots/nvidia-device.pem"),
    "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
);
/// NVIDIA's root for reference integrity manifests, from the same.
const RIM: (&str, &str) = (
    include_str!("../roots/nvidia-rim.pem"),
    "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",
);

/// The roots that a verifier believes of devices and of manifests.
#[derive(Debug, Clone)]
pub(crate) struct GpuRoots {
    device: Vec<Certificate>,
    rim: Vec<Certificate>,
    simulated: Vec<Certificate>,
}

impl GpuRoots {
    /// NVIDIA's, and no other.
    pub(crate) fn nvidia() -> Result<Self, CertificateError> {
        let pinned = |(pem, pin): (&str, &str)| {
            let chain = Certificate::chain_from_pem(pem.as_bytes())?;
            match chain.iter().find(|one| one.sha256().to_string() != pin) {
                Some(other) => Err(CertificateError::UntrustedRoot { found: other.name() }),
                None => Ok(chain),
            }
        };
        Ok(Self { device: pinned(DEVICE)?, rim: pinned(RIM)?, simulated: Vec::new() })
    }

    /// Believes one simulated root too, of devices and of manifests.
    pub(crate) fn add_simulated(&mut self, pem: &[u8]) -> Result<(), CertificateError> {
        let chain = Certificate::chain_from_pem(pem)?;
        if let Some(other) = chain.iter().find(|one| !one.name().contains(SIMULATED_MARK)) {
            let what = format!("expected {SIMULATED_MARK} in its name");
            return Err(CertificateError::Profile { name: other.name(), what });
        }
        self.simulated.extend(chain);
        Ok(())
    }

    /// The roots of devices in evidence that claims `platform`.
    pub(crate) fn of_devices(&self, platform: Platform) -> Vec<Certificate> {
        self.with_simulated(&self.device, platform)
    }

    /// The roots of manifests for evidence that claims `platform`.
    pub(crate) fn of_manifests(&self, platform: Platform) -> Vec<Certificate> {
        self.with_simulated(&self.rim, platform)
    }

    fn with_simulated(&self, real: &[Certificate], platform: Platform) -> Vec<Certificate> {
        let simulated = match platform {
            Platform::Snp => &[],
            Platform::Simulated => self.simulated.as_slice(),
        };
        real.iter().chain(simulated).cloned().collect()
    }
}

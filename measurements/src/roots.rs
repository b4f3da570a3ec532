//! Whom a verifier believes: AMD's and NVIDIA's root keys, pinned, and, only when they are handed
//! over by hand, the roots of a simulated security processor and of simulated GPUs.

use std::sync::Arc;

use crate::certificate::Certificate;
use crate::chain::{ChainError, Role};
use crate::gpu::GpuRoots;
use crate::gpu::certificate::CertificateError;
use crate::gpu::rim::{RimError, RimStore};
use crate::platform::Platform;
use crate::tcb::Product;

/// AMD's roots: product, certificate, SHA-256 of the public key (DER `SubjectPublicKeyInfo`).
const PINNED: [(Product, &str, &str); 3] = [
    (
        Product::Milan,
        include_str!("roots/milan.pem"),
        "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
    ),
    (
        Product::Genoa,
        include_str!("roots/genoa.pem"),
        "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
    ),
    (
        Product::Turin,
        include_str!("roots/turin.pem"),
        "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
    ),
];

/// What the common name of every simulated certificate carries.
pub const SIMULATED_MARK: &str = "SIMULATED";

/// A root that is believed.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) certificate: Arc<Certificate>,
    /// The product that it endorses; a simulated root endorses any.
    pub(crate) product: Option<Product>,
}

/// The roots that a verifier believes.
#[derive(Debug, Clone)]
pub struct Roots {
    amd: Vec<Root>,
    simulated: Option<Root>,
    gpu: GpuRoots,
    gpu_manifests: RimStore,
}

impl Roots {
    /// AMD's and NVIDIA's roots, and no other.
    ///
    /// # Errors
    /// When an embedded certificate is not the pinned one; a test holds that they are.
    pub fn amd() -> Result<Self, ChainError> {
        let root = |(product, pem, pin): (Product, &str, &str)| {
            let certificate = Certificate::parse(pem.trim().as_bytes(), Role::Ark)?;
            if certificate.spki_sha256()?.to_string() != pin {
                return Err(ChainError::UntrustedRoot { found: certificate.common_name() });
            }
            certificate.check_issued_by(&certificate)?;
            Ok(Root { certificate: Arc::new(certificate), product: Some(product) })
        };
        let amd = PINNED.into_iter().map(root).collect::<Result<_, _>>()?;
        let untrusted = |e: CertificateError| ChainError::UntrustedRoot { found: e.to_string() };
        let gpu = GpuRoots::nvidia().map_err(untrusted)?;
        Ok(Self { amd, simulated: None, gpu, gpu_manifests: RimStore::default() })
    }

    /// Believes simulated roots of GPUs too, PEM, for evidence that claims the simulated platform
    /// and for no other.
    ///
    /// # Errors
    /// When one is no certificate or its name does not carry [`SIMULATED_MARK`].
    pub fn with_simulated_gpus(mut self, pem: &[u8]) -> Result<Self, CertificateError> {
        self.gpu.add_simulated(pem)?;
        Ok(self)
    }

    /// Holds the measurements of GPUs to these reference integrity manifests. Each one's
    /// signature is verified when it is used.
    #[must_use]
    pub fn with_gpu_manifests(self, gpu_manifests: RimStore) -> Self {
        Self { gpu_manifests, ..self }
    }

    /// As [`Roots::with_gpu_manifests`], beside those that are here already.
    ///
    /// # Errors
    /// When one is no manifest, or another one of the same chip and version is here.
    pub fn and_gpu_manifest(mut self, bytes: &[u8]) -> Result<Self, RimError> {
        self.gpu_manifests.add(bytes)?;
        Ok(self)
    }

    /// Believes one simulated root too, DER or PEM, for evidence that claims the simulated
    /// platform and for no other.
    ///
    /// # Errors
    /// When it is no self-signed certificate whose common name carries [`SIMULATED_MARK`].
    pub fn with_simulated(mut self, certificate: &[u8]) -> Result<Self, ChainError> {
        let certificate = Certificate::parse(certificate, Role::Ark)?;
        let found = certificate.common_name();
        if !found.contains(SIMULATED_MARK) {
            return Err(ChainError::NotMarked { found });
        }
        certificate.check_issued_by(&certificate)?;
        self.simulated = Some(Root { certificate: Arc::new(certificate), product: None });
        Ok(self)
    }

    /// Whether a simulated root is believed.
    #[must_use]
    pub const fn trusts_simulated(&self) -> bool {
        self.simulated.is_some()
    }

    pub(crate) const fn gpu(&self) -> &GpuRoots {
        &self.gpu
    }

    pub(crate) const fn gpu_manifests(&self) -> &RimStore {
        &self.gpu_manifests
    }

    /// The roots for evidence that claims `platform`.
    pub(crate) fn for_platform(&self, platform: Platform) -> &[Root] {
        match platform {
            Platform::Snp => &self.amd,
            Platform::Simulated => self.simulated.as_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_roots_are_the_pinned_ones_and_sign_themselves() {
        let roots = Roots::amd().unwrap();
        let names: Vec<_> =
            roots.for_platform(Platform::Snp).iter().map(|r| r.certificate.common_name()).collect();
        assert_eq!(names, ["ARK-Milan", "ARK-Genoa", "ARK-Turin"]);
        assert!(roots.for_platform(Platform::Simulated).is_empty());
        assert!(!roots.trusts_simulated());
    }

    #[test]
    fn a_root_of_amd_is_no_simulated_root() {
        let milan = include_bytes!("roots/milan.pem");
        let refused = Roots::amd().unwrap().with_simulated(milan).unwrap_err();
        assert!(matches!(refused, ChainError::NotMarked { .. }), "{refused}");
    }
}

//! The law that every launch digest of a release follows, in a few hundred bytes: with it the
//! digest of any shape can be computed without firmware, kernel, initrd or command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Prefix;
use crate::firmware::{Firmware, FirmwareError, Layout, Section};
use crate::hash::{LaunchDigest, Sha256Hash, Sha384Hash};
use crate::kernel_hashes::{KernelHashes, KernelHashesError};
use crate::launch::{Shape, Vmm};
use crate::number;

/// Why a law is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LawError {
    /// The sections cannot be measured.
    #[error("the law's sections cannot be measured")]
    Sections(#[from] FirmwareError),
    /// The kernel hashes cannot be measured.
    #[error("the law cannot measure a kernel")]
    KernelHashes(#[from] KernelHashesError),
}

/// What decides every launch digest of one release, checked: a digest can always be computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Law {
    firmware_sha256: Sha256Hash,
    firmware_pages: Sha384Hash,
    layout: Layout,
    hashes: KernelHashes,
}

impl Law {
    /// The law of a firmware with a kernel, initrd and command line. `firmware_sha256` is what
    /// the caller knows the file by.
    ///
    /// # Errors
    /// When the firmware has no page for kernel hashes, or none that holds their table.
    pub fn new(
        firmware: &Firmware,
        firmware_sha256: Sha256Hash,
        hashes: &KernelHashes,
    ) -> Result<Self, LawError> {
        let (firmware_pages, layout) = (firmware.pages, firmware.layout.clone());
        Self { firmware_sha256, firmware_pages, layout, hashes: *hashes }.checked()
    }

    fn checked(self) -> Result<Self, LawError> {
        self.layout.check()?;
        self.hashes.page_for(&self.layout)?;
        Ok(self)
    }

    /// SHA-256 of the firmware file.
    #[must_use]
    pub const fn firmware_sha256(&self) -> &Sha256Hash {
        &self.firmware_sha256
    }

    /// The hashes of kernel, initrd and command line.
    #[must_use]
    pub const fn hashes(&self) -> &KernelHashes {
        &self.hashes
    }

    /// What the firmware's tables say.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The digest of one shape.
    #[must_use]
    pub fn digest(&self, shape: &Shape) -> LaunchDigest {
        self.prefix(shape.vmm).digest(shape.cpu_model, shape.guest_features, shape.vcpus)
    }

    /// The digests of many shapes, in their order. Shapes that differ in the number of vCPUs
    /// only share one chain, and all on one VMM share what comes before the first vCPU.
    #[must_use]
    pub fn matrix(&self, shapes: &[Shape]) -> Vec<LaunchDigest> {
        // CPU models with one signature have one chain: the name is not in the digest.
        let key = |s: &Shape| (s.vmm, s.cpu_model.signature(), s.guest_features);
        let mut chains = BTreeMap::new();
        for shape in shapes {
            let (most, _) = chains.entry(key(shape)).or_insert((shape.vcpus, *shape));
            *most = shape.vcpus.max(*most);
        }
        let mut prefixes = BTreeMap::new();
        let digests: BTreeMap<_, Vec<LaunchDigest>> = chains
            .into_iter()
            .map(|(key, (most, shape))| {
                let prefix = prefixes.entry(shape.vmm).or_insert_with(|| self.prefix(shape.vmm));
                let digests = prefix.digests(shape.cpu_model, shape.guest_features);
                (key, digests.take(usize::from(most.get())).collect())
            })
            .collect();
        shapes.iter().map(|s| digests[&key(s)][usize::from(s.vcpus.get() - 1)]).collect()
    }

    fn prefix(&self, vmm: Vmm) -> Prefix {
        Prefix::with_page(
            &self.firmware_pages,
            &self.layout,
            self.hashes.page_for(&self.layout).ok().as_deref(),
            vmm,
        )
    }
}

/// The JSON object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// SHA-256 of the firmware file.
    firmware_sha256: Sha256Hash,
    /// Value of the digest chain after the firmware's pages.
    firmware_pages: Sha384Hash,
    sections: Vec<Section>,
    #[serde(with = "number::gpa")]
    reset_eip: u32,
    #[serde(with = "number::gpa")]
    hashes_table_gpa: u32,
    kernel_hashes: KernelHashes,
}

impl From<Law> for Raw {
    fn from(law: Law) -> Self {
        let Law { firmware_sha256, firmware_pages, layout, hashes } = law;
        let Layout { sections, reset_eip, hashes_table_gpa } = layout;
        let kernel_hashes = hashes;
        Self {
            firmware_sha256,
            firmware_pages,
            sections,
            reset_eip,
            hashes_table_gpa,
            kernel_hashes,
        }
    }
}

impl TryFrom<Raw> for Law {
    type Error = LawError;

    fn try_from(raw: Raw) -> Result<Self, LawError> {
        let Raw {
            firmware_sha256,
            firmware_pages,
            sections,
            reset_eip,
            hashes_table_gpa,
            kernel_hashes,
        } = raw;
        let layout = Layout { sections, reset_eip, hashes_table_gpa };
        Self { firmware_sha256, firmware_pages, layout, hashes: kernel_hashes }.checked()
    }
}

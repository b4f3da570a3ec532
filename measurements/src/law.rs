//! The law that every launch digest of a release follows, in a few hundred bytes: with it the
//! digest of any shape can be computed without firmware, kernel, initrd or command line.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;

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
    /// It is a firmware's law, and a release's was expected.
    #[error("the law has no kernel_hashes: expected the law of a release")]
    NoKernelHashes,
    /// It is too long.
    #[error("the law has {len} bytes, expected at most {MAX_LEN}")]
    TooLong {
        /// The length found.
        len: usize,
    },
    /// It is not JSON of the expected shape.
    #[error("not a law: {0}")]
    Malformed(String),
}

/// What decides every launch digest of one release, checked: a digest can always be computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Law {
    firmware: Firmware,
    hashes: KernelHashes,
}

impl Law {
    /// The law of a firmware with a kernel, initrd and command line.
    ///
    /// # Errors
    /// When the firmware has no page for kernel hashes, or none that holds their table.
    pub fn new(firmware: &Firmware, hashes: &KernelHashes) -> Result<Self, LawError> {
        firmware.layout.check()?;
        hashes.page_for(&firmware.layout)?;
        Ok(Self { firmware: firmware.clone(), hashes: *hashes })
    }

    /// The firmware's part of it.
    #[must_use]
    pub const fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    /// SHA-256 of the firmware file.
    #[must_use]
    pub const fn firmware_sha256(&self) -> &Sha256Hash {
        &self.firmware.sha256
    }

    /// The hashes of kernel, initrd and command line.
    #[must_use]
    pub const fn hashes(&self) -> &KernelHashes {
        &self.hashes
    }

    /// What the firmware's tables say.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.firmware.layout
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
        let Ok(digests) = matrix(shapes, |vmm| Ok::<_, Infallible>(self.prefix(vmm)));
        digests
    }

    /// The launch up to its first vCPU.
    #[must_use]
    pub fn prefix(&self, vmm: Vmm) -> Prefix {
        Prefix::with_page(
            &self.firmware.pages,
            &self.firmware.layout,
            self.hashes.page_for(&self.firmware.layout).ok().as_deref(),
            vmm,
        )
    }
}

/// The digests of many shapes, in their order, from the prefix of each VMM.
///
/// # Errors
/// When a prefix cannot be made.
pub fn matrix<E>(
    shapes: &[Shape],
    prefix: impl Fn(Vmm) -> Result<Prefix, E>,
) -> Result<Vec<LaunchDigest>, E> {
    // CPU models with one signature have one chain: the name is not in the digest.
    let key = |s: &Shape| (s.vmm, s.cpu_model.signature(), s.guest_features);
    let mut chains = BTreeMap::new();
    let mut prefixes = BTreeMap::new();
    for shape in shapes {
        let (most, _) = chains.entry(key(shape)).or_insert((shape.vcpus, *shape));
        *most = shape.vcpus.max(*most);
        if let Entry::Vacant(slot) = prefixes.entry(shape.vmm) {
            slot.insert(prefix(shape.vmm)?);
        }
    }
    let digests: BTreeMap<_, Vec<LaunchDigest>> = chains
        .into_iter()
        .map(|(key, (most, shape))| {
            let digests = prefixes[&shape.vmm].digests(shape.cpu_model, shape.guest_features);
            (key, digests.take(usize::from(most.get())).collect())
        })
        .collect();
    Ok(shapes.iter().map(|s| digests[&key(s)][usize::from(s.vcpus.get() - 1)]).collect())
}

/// A law as anyone may hand it in: that of a release, or of a firmware alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Raw", try_from = "Raw")]
pub struct OpenLaw {
    /// The firmware's part.
    pub firmware: Firmware,
    /// The kernel's part; a firmware's law has none.
    pub kernel_hashes: Option<KernelHashes>,
}

/// Most bytes of a law in JSON.
pub const MAX_LEN: usize = 64 * 1024;

impl OpenLaw {
    /// Reads JSON, checked: the sections can be measured, and with kernel hashes their table has
    /// its page.
    ///
    /// # Errors
    /// When it is too long or is no such law.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LawError> {
        if bytes.len() > MAX_LEN {
            return Err(LawError::TooLong { len: bytes.len() });
        }
        serde_json::from_slice(bytes).map_err(|error| LawError::Malformed(error.to_string()))
    }
}

impl From<Firmware> for OpenLaw {
    fn from(firmware: Firmware) -> Self {
        Self { firmware, kernel_hashes: None }
    }
}

impl From<Law> for OpenLaw {
    fn from(Law { firmware, hashes }: Law) -> Self {
        Self { firmware, kernel_hashes: Some(hashes) }
    }
}

/// The JSON object.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Raw {
    /// SHA-256 of the firmware file.
    firmware_sha256: Sha256Hash,
    /// Value of the digest chain after the firmware's pages.
    firmware_pages: Sha384Hash,
    sections: Vec<Section>,
    #[serde(with = "number::gpa")]
    #[cfg_attr(feature = "schema", schemars(with = "number::Hex"))]
    reset_eip: u32,
    #[serde(with = "number::gpa")]
    #[cfg_attr(feature = "schema", schemars(with = "number::Hex"))]
    hashes_table_gpa: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kernel_hashes: Option<KernelHashes>,
}

impl From<OpenLaw> for Raw {
    fn from(law: OpenLaw) -> Self {
        let OpenLaw { firmware: Firmware { sha256, pages, layout }, kernel_hashes } = law;
        let Layout { sections, reset_eip, hashes_table_gpa } = layout;
        let (firmware_sha256, firmware_pages) = (sha256, pages);
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

impl From<Law> for Raw {
    fn from(law: Law) -> Self {
        OpenLaw::from(law).into()
    }
}

impl TryFrom<Raw> for OpenLaw {
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
        let firmware = Firmware { sha256: firmware_sha256, pages: firmware_pages, layout };
        match kernel_hashes {
            Some(hashes) => _ = Law::new(&firmware, &hashes)?,
            None => firmware.layout.check()?,
        }
        Ok(Self { firmware, kernel_hashes })
    }
}

impl TryFrom<Raw> for Law {
    type Error = LawError;

    fn try_from(raw: Raw) -> Result<Self, LawError> {
        let OpenLaw { firmware, kernel_hashes } = raw.try_into()?;
        Self::new(&firmware, &kernel_hashes.ok_or(LawError::NoKernelHashes)?)
    }
}

//! Reference integrity manifests: which measurements NVIDIA expects of a driver or a VBIOS, as a
//! signed SWID tag (ISO/IEC 19770-2:2015) in the profile of TCG *Reference Integrity Manifest
//! Information Model*.

use std::collections::BTreeMap;

use roxmltree::{Document, Node};

use super::certificate::{self, Certificate, CertificateError};
use super::device::Device;
use super::xml::{self, Enveloped, XmlError};
use crate::chain::UnixTime;
use crate::gpu_evidence::{Architecture, product_of};
use crate::platform::Platform;
use crate::roots::Roots;

/// Most bytes of one manifest.
pub const MAX_RIM_LEN: usize = 256 * 1024;

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const HASHES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// Index of the measurement of the first video decoder, which counts only while it is on.
const NVDEC0: usize = 35;
const MAX_ALTERNATIVES: usize = 64;

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RimError {
    /// It is too long or no UTF-8.
    #[error("{0} bytes of text, expected UTF-8 of at most {MAX_RIM_LEN} bytes")]
    Text(usize),
    /// Its signature is not believed.
    #[error("the manifest's XML signature")]
    Xml(#[from] XmlError),
    /// Its certificates are not believed.
    #[error("the manifest's certificates")]
    Certificates(#[from] CertificateError),
    /// It has another content.
    #[error("the manifest's content: {0}")]
    Content(String),
    /// It is there twice.
    #[error("there are two manifests for {product} {version}")]
    Twice {
        /// The chip.
        product: String,
        /// The version of its driver or VBIOS.
        version: String,
    },
}

fn content(what: &str) -> RimError {
    RimError::Content(what.to_owned())
}

/// The board that NVIDIA names the manifests of LS10 switches after; their reports state none.
/// From NVIDIA's attestation SDK.
const SWITCH_BOARD: &str = "5612_0002_890";

/// Which manifest a device is held to, as its own verified report says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RimId {
    name: String,
    products: Vec<String>,
    version: String,
}

impl RimId {
    /// The name by which NVIDIA's service knows it, such as `NV_GPU_DRIVER_GH100_550.90.07`:
    /// letters, digits, `.`, `_` and `-` alone.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Verifies that `bytes` are this very manifest, up to NVIDIA's root.
    ///
    /// # Errors
    /// When they are no manifest that is believed, or another one.
    pub fn check(
        &self,
        bytes: &[u8],
        roots: &Roots,
        platform: Platform,
        at: UnixTime,
    ) -> Result<(), RimError> {
        let mut store = RimStore::default();
        store.add(bytes)?;
        let roots = roots.gpu().of_manifests(platform);
        match store.golden(&self.products, &self.version, &roots, at)? {
            Some(_) => Ok(()),
            None => Err(content("the manifest of another chip or version")),
        }
    }

    /// The manifests of a GPU's driver and of the device's VBIOS. A device whose words fit into
    /// no name has none.
    fn of(device: &Device) -> Vec<Self> {
        let vbios_name = device.vbios().replace('.', "");
        let version = device.vbios().to_lowercase();
        let mut all = Vec::new();
        if let Some(gpu) = device.gpu() {
            let kind = match device.architecture() {
                Architecture::Blackwell => "NV_GPU_CC_DRIVER",
                Architecture::Hopper | Architecture::Ls10 => "NV_GPU_DRIVER",
            };
            all.push(Self {
                name: format!("{kind}_{}_{}", gpu.driver_chip, gpu.driver),
                products: vec![product_of(&gpu.driver_chip)],
                version: gpu.driver.to_lowercase(),
            });
        }
        let board = match device.gpu() {
            Some(gpu) => format!("NV_GPU_VBIOS_{}", gpu.board),
            None => format!("NV_SWITCH_BIOS_{SWITCH_BOARD}"),
        };
        let name = format!("{board}_{vbios_name}").to_uppercase();
        let products = device.products().map(product_of).to_vec();
        all.push(Self { name, products, version });
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        all.retain(|id| id.name.bytes().all(plain) && id.name.len() <= 200);
        all
    }
}

/// The manifests that `devices` are held to and that `store` lacks, each once.
pub(crate) fn missing(devices: &[Device], store: &RimStore) -> Vec<RimId> {
    let has = |id: &RimId| store.find(&id.products, &id.version).is_some();
    let mut ids: Vec<RimId> = devices.iter().flat_map(RimId::of).filter(|id| !has(id)).collect();
    ids.sort();
    ids.dedup();
    ids
}

/// The manifests that a verifier was given. They are looked up by what they claim; each one's
/// signature is verified when it is used.
#[derive(Debug, Clone, Default)]
pub struct RimStore(BTreeMap<(String, String), String>);

impl RimStore {
    /// Adds a manifest: the XML of a `.swidtag` file.
    ///
    /// # Errors
    /// When it is no manifest, or there is another one for the same chip and version.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), RimError> {
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| RimError::Text(bytes.len()))?;
        if text.len() > MAX_RIM_LEN {
            return Err(RimError::Text(text.len()));
        }
        let (product, version) = subject(&xml::parse(&text)?)?;
        let key = (product.clone(), version.clone());
        if self.0.get(&key).is_some_and(|other| *other != text) {
            return Err(RimError::Twice { product, version });
        }
        self.0.insert(key, text);
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Verifies every manifest up to NVIDIA's root: chip, version, and how many measurements it
    /// names or why it would be refused.
    pub fn verify_each(
        &self,
        roots: &Roots,
        at: UnixTime,
    ) -> impl Iterator<Item = (&str, &str, Result<usize, RimError>)> {
        let roots = roots.gpu().of_manifests(Platform::Snp);
        self.0.iter().map(move |(key, text)| {
            let golden = verify(text, key, &roots, at);
            (key.0.as_str(), key.1.as_str(), golden.map(|golden| golden.len()))
        })
    }

    /// The manifest for a version of a driver or VBIOS under the first of a chip's names that has
    /// one, and what it claims.
    fn find(&self, products: &[String], version: &str) -> Option<(&(String, String), &String)> {
        let version = version.to_lowercase();
        let keys = products.iter().map(|product| (product.clone(), version.clone()));
        keys.into_iter().find_map(|key| self.0.get_key_value(&key))
    }

    /// The verified measurements for a version of a chip's driver or VBIOS; `None` without one.
    fn golden(
        &self,
        products: &[String],
        version: &str,
        roots: &[Certificate],
        at: UnixTime,
    ) -> Result<Option<Golden>, RimError> {
        let found = self.find(products, version);
        found.map(|(key, text)| verify(text, key, roots, at)).transpose()
    }
}

/// Accepted values by index, of the measurements that are active.
type Golden = BTreeMap<usize, Vec<Vec<u8>>>;

/// How a device's measurements compare to manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// All that manifests name are as they should be; so many.
    Equal(usize),
    /// These are not.
    Different(Vec<usize>),
    /// There is no manifest for this: a version of the driver or the VBIOS.
    NoManifest(String),
}

/// Compares a device's measurements with the manifests of its driver, if it is a GPU, and of its
/// VBIOS.
pub(crate) fn compare(
    device: &Device,
    store: &RimStore,
    roots: &[Certificate],
    at: UnixTime,
) -> Result<Comparison, RimError> {
    let driver = device.gpu().map(|gpu| ("driver", vec![&*gpu.driver_chip], &*gpu.driver));
    let mut golden = Golden::new();
    for (what, chips, version) in
        driver.into_iter().chain([("VBIOS", device.products().to_vec(), device.vbios())])
    {
        let products: Vec<String> = chips.iter().map(|chip| product_of(chip)).collect();
        let Some(more) = store.golden(&products, version, roots, at)? else {
            return Ok(Comparison::NoManifest(format!("{what} {version} of {}", chips[0])));
        };
        for (index, values) in more {
            if golden.insert(index, values).is_some() {
                return Err(content(&format!("two manifests name measurement {index}")));
            }
        }
    }
    if device.gpu().is_some_and(|gpu| !gpu.nvdec0) {
        golden.remove(&NVDEC0);
    }
    let measurements = device.measurements();
    let different = |(index, values): (&usize, &Vec<Vec<u8>>)| {
        let equal = measurements.get(*index).is_some_and(|found| values.contains(found));
        (!equal).then_some(*index)
    };
    let different: Vec<usize> = golden.iter().filter_map(different).collect();
    if different.is_empty() {
        return Ok(Comparison::Equal(golden.len()));
    }
    Ok(Comparison::Different(different))
}

fn verify(
    text: &str,
    subject_expected: &(String, String),
    roots: &[Certificate],
    at: UnixTime,
) -> Result<Golden, RimError> {
    let enveloped = Enveloped::read(&xml::parse(text)?)?;
    let chain = enveloped.certificates.iter().take(certificate::MAX_CERTIFICATES).enumerate();
    let chain = chain.map(|(index, der)| Certificate::from_der(der, index));
    let chain = chain.collect::<Result<Vec<_>, _>>()?;
    certificate::verify_chain(&chain, roots, at)?;
    // A chain that was verified has a first certificate.
    let signer = chain.first().ok_or_else(|| content("no certificate"))?;
    let verified = enveloped.verify(&signer.key()?)?;
    let document = xml::parse(&verified)?;
    if subject(&document)? != *subject_expected {
        return Err(content("another subject than it was found by"));
    }
    golden(&document)
}

fn child<'a>(document: &'a Document<'_>, name: &str) -> Result<Node<'a, 'a>, RimError> {
    let root = document.root_element();
    let mut found = root.children().filter(|node| node.has_tag_name((SWID, name)));
    match (found.next(), found.next()) {
        (Some(node), None) if root.has_tag_name((SWID, "SoftwareIdentity")) => Ok(node),
        _ => Err(content(&format!("expected one {name} in a SoftwareIdentity"))),
    }
}

/// Which chip's driver or VBIOS it is for, by [`product_of`], and its version in lower case.
fn subject(document: &Document<'_>) -> Result<(String, String), RimError> {
    let meta = child(document, "Meta")?;
    let attribute = |name: &str| {
        let value = meta.attribute(name).filter(|value| (1..=80).contains(&value.len()));
        value.ok_or_else(|| content(&format!("Meta has no {name}")))
    };
    Ok((product_of(attribute("product")?), attribute("colloquialVersion")?.to_lowercase()))
}

fn golden(document: &Document<'_>) -> Result<Golden, RimError> {
    let mut golden = Golden::new();
    for node in child(document, "Payload")?.children().filter(Node::is_element) {
        let kind = node.attribute("type").unwrap_or("none");
        if !node.has_tag_name((SWID, "Resource")) || kind != "Measurement" {
            return Err(content(&format!("a resource of type {kind:?}, which is not compared")));
        }
        let active = match node.attribute("active") {
            Some("True") => true,
            Some("False") => false,
            _ => return Err(content("a measurement that is neither active nor inactive")),
        };
        let number = |name| node.attribute(name).and_then(|text| text.parse::<usize>().ok());
        let (index, alternatives) = (number("index"), number("alternatives"));
        let (Some(index), Some(alternatives @ 1..=MAX_ALTERNATIVES), Some(size)) =
            (index, alternatives, number("size"))
        else {
            return Err(content("a measurement without index, size and 1 to 64 alternatives"));
        };
        let value = |n: usize| {
            let text = node.attribute((HASHES, format!("Hash{n}").as_str()))?;
            hex::decode(text).ok().filter(|value| value.len() == size)
        };
        let values: Option<Vec<_>> = (0..alternatives).map(value).collect();
        let values = values.ok_or_else(|| content("a measurement without its values"))?;
        if active && golden.insert(index, values).is_some() {
            return Err(content(&format!("measurement {index} stands there twice")));
        }
    }
    if golden.is_empty() {
        return Err(content("no active measurement"));
    }
    Ok(golden)
}

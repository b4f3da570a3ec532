//! What AMD's key service and NVIDIA's service of manifests have, and under which address.
//!
//! AMD document 57230, *Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
//! Specification*, revision 1.00, section "KDS Interface"; the paths of NVIDIA's service are those that its own verifier
//! (nv-local-gpu-verifier 2.7.3) asks.

use std::fmt::Write as _;

use casemate_measurements::chain::Role;
use casemate_measurements::gpu::rim::{MAX_RIM_LEN, RimId};
use casemate_measurements::hash::ChipId;
use casemate_measurements::report::Report;
use casemate_measurements::revocation;
use casemate_measurements::tcb::{Product, Tcb};

/// Most bytes of certificates.
const MAX_CERTIFICATES: usize = 32 * 1024;

/// Something of the key service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// Certificate of a chip's key at a TCB, DER.
    Vcek { product: Product, hardware_id: String, tcb: Tcb },
    /// Intermediate and root, PEM.
    Chain { role: Role, product: Product },
    /// Revocation list, DER.
    RevocationList { role: Role, product: Product },
    /// Reference integrity manifest of a GPU's driver or of a VBIOS, JSON that holds it.
    GpuManifest(RimId),
}

/// Who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// AMD's key service.
    Amd,
    /// NVIDIA's service of reference integrity manifests.
    Nvidia,
}

impl Source {
    /// In words.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Amd => "key service",
            Self::Nvidia => "service of GPU manifests",
        }
    }
}

impl Item {
    /// The certificate of the key that `report` says it is signed with, were it of `product`;
    /// `None` where the report names no chip or TCB of it.
    pub(crate) fn vcek(report: &Report, product: Product) -> Option<Self> {
        let tcb = Tcb::from_raw(report.reported_tcb(), product)?;
        let hardware_id = hardware_id(&report.chip_id(), product)?;
        Some(Self::Vcek { product, hardware_id, tcb })
    }

    /// Who has it.
    pub(crate) const fn source(&self) -> Source {
        match self {
            Self::Vcek { .. } | Self::Chain { .. } | Self::RevocationList { .. } => Source::Amd,
            Self::GpuManifest(_) => Source::Nvidia,
        }
    }

    /// What it is, for a person.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Vcek { product, hardware_id, tcb } => {
                format!("the VCEK certificate of the {product} chip {hardware_id} at {tcb}")
            }
            Self::Chain { role, product } => format!("the {product} intermediate for {role}s"),
            Self::RevocationList { role, product } => {
                format!("the {product} revocation list for {role}s")
            }
            Self::GpuManifest(id) => format!("the GPU manifest {}", id.name()),
        }
    }

    /// Path and query below the service's address.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Vcek { product, hardware_id, tcb } => {
                let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
                let mut path = format!("/vcek/v1/{product}/{hardware_id}?");
                if *product == Product::Turin {
                    // Writing into a String never fails.
                    let _ = write!(path, "fmcSPL={fmc:02}&");
                }
                let _ = write!(
                    path,
                    "blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}"
                );
                path
            }
            Self::Chain { role, product } => format!("/{}/v1/{product}/cert_chain", word(*role)),
            Self::RevocationList { role, product } => format!("/{}/v1/{product}/crl", word(*role)),
            Self::GpuManifest(id) => format!("/v1/rim/{}", id.name()),
        }
    }

    /// Name of its file in a cache.
    pub(crate) fn file_name(&self) -> String {
        match self {
            Self::Vcek { product, hardware_id, tcb } => {
                let tcb = hex::encode(tcb.to_raw(*product));
                format!("vcek-{product}-{hardware_id}-{tcb}.der")
            }
            Self::Chain { role, product } => format!("{}-{product}-chain.pem", word(*role)),
            Self::RevocationList { role, product } => format!("{}-{product}.crl", word(*role)),
            Self::GpuManifest(id) => format!("rim-{}.json", id.name()),
        }
    }

    /// Most bytes that it has.
    pub(crate) const fn most(&self) -> usize {
        match self {
            Self::Vcek { .. } | Self::Chain { .. } => MAX_CERTIFICATES,
            Self::RevocationList { .. } => revocation::MAX_LEN,
            // In base64, with a little around it.
            Self::GpuManifest(_) => MAX_RIM_LEN.div_ceil(3) * 4 + 4096,
        }
    }
}

const fn word(role: Role) -> &'static str {
    match role {
        Role::Vlek => "vlek",
        Role::Ark | Role::Ask | Role::Vcek => "vcek",
    }
}

/// The id by which the service knows a chip: the bytes that its product uses.
fn hardware_id(chip: &ChipId, product: Product) -> Option<String> {
    let len = if product == Product::Turin { 8 } else { 64 };
    let (id, rest) = chip.as_bytes().split_at(len);
    let named = id.iter().any(|byte| *byte != 0) && rest.iter().all(|byte| *byte == 0);
    named.then(|| hex::encode(id))
}

/// The products that `report` may be of: version 2 does not say.
pub(crate) fn products(report: &Report) -> Vec<Product> {
    match report.product() {
        Some(product) => vec![product],
        None => vec![Product::Milan, Product::Genoa],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_service() {
        let tcb = Tcb { fmc: 1, bootloader: 2, tee: 0, snp: 4, microcode: 219 };
        let vcek = |product, hardware_id: &str| Item::Vcek {
            product,
            hardware_id: hardware_id.into(),
            tcb,
        };
        assert_eq!(
            vcek(Product::Milan, "ab").path(),
            "/vcek/v1/Milan/ab?blSPL=02&teeSPL=00&snpSPL=04&ucodeSPL=219"
        );
        assert_eq!(
            vcek(Product::Turin, "cd").path(),
            "/vcek/v1/Turin/cd?fmcSPL=01&blSPL=02&teeSPL=00&snpSPL=04&ucodeSPL=219"
        );
        let (role, product) = (Role::Vlek, Product::Genoa);
        assert_eq!(Item::Chain { role, product }.path(), "/vlek/v1/Genoa/cert_chain");
        let role = Role::Vcek;
        assert_eq!(Item::RevocationList { role, product }.path(), "/vcek/v1/Genoa/crl");
    }

    #[test]
    fn a_chip_is_named_as_its_product_does() {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let turin = ChipId::from_bytes(bytes);
        assert_eq!(hardware_id(&turin, Product::Turin).as_deref(), Some("0102030405060708"));
        let masked = ChipId::from_bytes([0; 64]);
        let milan = ChipId::from_bytes([7; 64]);
        assert_eq!(hardware_id(&milan, Product::Milan), Some("07".repeat(64)));
        assert_eq!(hardware_id(&milan, Product::Turin), None);
        assert_eq!(hardware_id(&masked, Product::Milan), None);
        assert_eq!(hardware_id(&masked, Product::Turin), None);
    }

    #[test]
    fn a_file_name_is_one() {
        let (role, product) = (Role::Vcek, Product::Milan);
        let tcb = Tcb { fmc: 0, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
        let hardware_id = "ab".repeat(64);
        for item in [
            Item::Vcek { product, hardware_id, tcb },
            Item::Chain { role, product },
            Item::RevocationList { role, product },
        ] {
            let name = item.file_name();
            assert!(name.len() < 200 && !name.contains('/'), "{name}");
        }
    }
}

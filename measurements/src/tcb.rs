//! Products and TCB versions: which firmware a report vouches for, in the layout of its product.
//!
//! AMD document 56860, *SEV Secure Nested Paging Firmware ABI Specification*, revision 1.58,
//! section "TCB Version". Turin puts the FMC first and moves the others up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Processors that share a root and a TCB layout. The silicons of a product count their microcode
/// each on its own: see [`crate::silicon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004 (Genoa, Bergamo, Siena).
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Every product.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// AMD's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product of a CPUID family and model, as a report states them.
    #[must_use]
    pub const fn from_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }

    /// The product of a certificate's product name, with or without a stepping: `Milan-B0`.
    #[must_use]
    pub fn from_certificate(name: &str) -> Option<Self> {
        let base = name.split('-').next().unwrap_or(name);
        Self::ALL.into_iter().find(|product| product.name() == base)
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Versions of the parts of the TCB, each monotonic within a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// The FMC of Turin; zero elsewhere.
    #[serde(default)]
    pub fmc: u8,
    /// The bootloader of the security processor.
    pub bootloader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The lowest patch level of all cores.
    pub microcode: u8,
}

impl Tcb {
    /// Reads the eight bytes of a report; `None` when a reserved byte is not zero.
    #[must_use]
    pub const fn from_raw(raw: [u8; 8], product: Product) -> Option<Self> {
        match (product, raw) {
            (Product::Turin, [fmc, bootloader, tee, snp, 0, 0, 0, microcode]) => {
                Some(Self { fmc, bootloader, tee, snp, microcode })
            }
            (Product::Milan | Product::Genoa, [bootloader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Some(Self { fmc: 0, bootloader, tee, snp, microcode })
            }
            _ => None,
        }
    }

    /// The eight bytes of a report.
    #[must_use]
    pub const fn to_raw(self, product: Product) -> [u8; 8] {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        match product {
            Product::Turin => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
            Product::Milan | Product::Genoa => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
        }
    }

    /// The newer of each part.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        Self {
            fmc: self.fmc.max(other.fmc),
            bootloader: self.bootloader.max(other.bootloader),
            tee: self.tee.max(other.tee),
            snp: self.snp.max(other.snp),
            microcode: self.microcode.max(other.microcode),
        }
    }

    /// Whether no part is older than `floor` says.
    #[must_use]
    pub const fn is_at_least(&self, floor: &Self) -> bool {
        self.fmc >= floor.fmc
            && self.bootloader >= floor.bootloader
            && self.tee >= floor.tee
            && self.snp >= floor.snp
            && self.microcode >= floor.microcode
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        write!(f, "fmc {fmc}, bootloader {bootloader}, tee {tee}, snp {snp}, microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_differ_by_product_and_reserved_bytes_are_refused() {
        let raw = [1, 2, 0, 0, 0, 0, 6, 7];
        let tcb = Tcb { fmc: 0, bootloader: 1, tee: 2, snp: 6, microcode: 7 };
        assert_eq!(Tcb::from_raw(raw, Product::Genoa), Some(tcb));
        assert_eq!(tcb.to_raw(Product::Milan), raw);
        assert_eq!(Tcb::from_raw(raw, Product::Turin), None);
        let raw = [1, 2, 3, 4, 0, 0, 0, 8];
        let tcb = Tcb { fmc: 1, bootloader: 2, tee: 3, snp: 4, microcode: 8 };
        assert_eq!(Tcb::from_raw(raw, Product::Turin), Some(tcb));
        assert_eq!(tcb.to_raw(Product::Turin), raw);
        assert_eq!(Tcb::from_raw(raw, Product::Milan), None);
    }

    #[test]
    fn a_floor_holds_each_part() {
        let floor = Tcb { fmc: 1, bootloader: 1, tee: 1, snp: 1, microcode: 1 };
        assert!(floor.is_at_least(&floor));
        for lower in [
            Tcb { fmc: 0, ..floor },
            Tcb { bootloader: 0, microcode: 9, ..floor },
            Tcb { tee: 0, ..floor },
            Tcb { snp: 0, ..floor },
            Tcb { microcode: 0, ..floor },
        ] {
            assert!(!lower.is_at_least(&floor), "{lower}");
        }
    }

    #[test]
    fn products() {
        for (family, model, product) in [
            (0x19, 0x01, Some(Product::Milan)),
            (0x19, 0x11, Some(Product::Genoa)),
            (0x19, 0xa0, Some(Product::Genoa)),
            (0x1a, 0x02, Some(Product::Turin)),
            (0x17, 0x31, None),
            (0, 0, None),
        ] {
            assert_eq!(Product::from_cpuid(family, model), product, "{family:#x} {model:#x}");
        }
        assert_eq!(Product::from_certificate("Milan-B0"), Some(Product::Milan));
        assert_eq!(Product::from_certificate("Turin"), Some(Product::Turin));
        assert_eq!(Product::from_certificate("Venice"), None);
    }
}

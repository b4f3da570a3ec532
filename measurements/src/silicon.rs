//! Silicon lines: which processor a report is of, and the least firmware that a verifier demands
//! of it unless its policy says otherwise.
//!
//! A product has several silicons, and each counts its microcode on its own: 0x1c is new on an
//! EPYC 8004 and hopeless on an EPYC 9654, although both are of the product Genoa. So the table
//! has a row for each silicon, told by CPUID family, model and stepping. Nothing but [`ROWS`]
//! states such a number. State of November 2026; AMD raises these numbers several times a year.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tcb::{Product, Tcb};

/// A silicon of a product. The name is that of a policy file's table `tcb_floor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Line {
    /// EPYC 7003.
    Milan,
    /// EPYC 7003 with stacked cache.
    #[serde(rename = "Milan-X")]
    MilanX,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9004 with stacked cache.
    #[serde(rename = "Genoa-X")]
    GenoaX,
    /// EPYC 97x4 (Bergamo) and 8004 (Siena): one silicon, with dense cores.
    #[serde(rename = "Bergamo-Siena")]
    BergamoSiena,
    /// EPYC 9005.
    Turin,
    /// EPYC 9005 with dense cores.
    #[serde(rename = "Turin-Dense")]
    TurinDense,
}

/// The least number of one part of the TCB, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Least {
    /// The number.
    pub number: u8,
    /// A bulletin of AMD, or where the number is from without one.
    pub source: &'static str,
}

/// What is demanded of one silicon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The silicon.
    pub line: Line,
    /// The product whose root and TCB layout it shares.
    pub product: Product,
    /// CPUID family, model and stepping, as a report of version 3 and later states them.
    pub cpuid: (u8, u8, u8),
    /// AMD's name of the stepping.
    pub stepping: &'static str,
    /// The FMC of Turin; zero elsewhere.
    pub fmc: Least,
    /// The bootloader of the security processor.
    pub bootloader: Least,
    /// Its operating system.
    pub tee: Least,
    /// The SNP firmware.
    pub snp: Least,
    /// The microcode.
    pub microcode: Least,
    /// Why its chips are accepted by their ids alone, if they are: no TCB tells a good one.
    pub by_id_alone: Option<&'static str>,
}

const fn least(number: u8, source: &'static str) -> Least {
    Least { number, source }
}

const NONE: Least = least(0, "no number is asked for");
/// What patched machines report; a lower number is not known to be unsafe.
const fn seen(number: u8) -> Least {
    least(number, "seen on patched machines")
}

const SB_3020: &str = "AMD-SB-3020 (CVE-2025-0033)";
const SB_3020_AND_3027: &str = "AMD-SB-3020 (CVE-2025-0033), AMD-SB-3027 (CVE-2025-29943)";
const SB_3023: &str = "AMD-SB-3023 (CVE-2025-48514), as Linux's driver ccp tests it";
/// Not found in a bulletin by whoever wrote this table.
const OF_OTHERS: &str = "the policy of another verifier, routex-client-swift of yaxitech";

/// See [`Row::by_id_alone`].
const SEED_READ: &str = "software alone can read the seed of a Milan chip's keys (arXiv \
                         2605.12990), so whoever owns the machine can sign any report at any TCB";

/// A row for each silicon, in the order of [`Line`].
pub const ROWS: [Row; 7] = [
    Row {
        line: Line::Milan,
        product: Product::Milan,
        cpuid: (0x19, 0x01, 0x01),
        stepping: "B1",
        fmc: NONE,
        bootloader: seen(4),
        tee: NONE,
        snp: least(27, SB_3023),
        microcode: least(0xde, OF_OTHERS),
        by_id_alone: Some(SEED_READ),
    },
    Row {
        line: Line::MilanX,
        product: Product::Milan,
        cpuid: (0x19, 0x01, 0x02),
        stepping: "B2",
        fmc: NONE,
        bootloader: seen(4),
        tee: NONE,
        snp: least(27, SB_3023),
        microcode: least(0x47, OF_OTHERS),
        by_id_alone: Some(SEED_READ),
    },
    Row {
        line: Line::Genoa,
        product: Product::Genoa,
        cpuid: (0x19, 0x11, 0x01),
        stepping: "B1",
        fmc: NONE,
        bootloader: seen(10),
        tee: NONE,
        snp: least(27, SB_3020),
        microcode: least(0x56, SB_3020_AND_3027),
        by_id_alone: None,
    },
    Row {
        line: Line::GenoaX,
        product: Product::Genoa,
        cpuid: (0x19, 0x11, 0x02),
        stepping: "B2",
        fmc: NONE,
        bootloader: seen(10),
        tee: NONE,
        snp: least(27, SB_3020),
        microcode: least(0x51, SB_3020_AND_3027),
        by_id_alone: None,
    },
    Row {
        line: Line::BergamoSiena,
        product: Product::Genoa,
        cpuid: (0x19, 0xa0, 0x02),
        stepping: "A2",
        fmc: NONE,
        bootloader: seen(10),
        tee: NONE,
        snp: least(27, SB_3023),
        microcode: least(0x1b, OF_OTHERS),
        by_id_alone: None,
    },
    Row {
        line: Line::Turin,
        product: Product::Turin,
        cpuid: (0x1a, 0x02, 0x01),
        stepping: "C1",
        fmc: seen(1),
        bootloader: seen(1),
        tee: seen(1),
        snp: least(4, SB_3020),
        microcode: least(0x51, "AMD-SB-3027 (CVE-2025-29943)"),
        by_id_alone: None,
    },
    Row {
        line: Line::TurinDense,
        product: Product::Turin,
        cpuid: (0x1a, 0x11, 0x00),
        stepping: "B0",
        fmc: seen(1),
        bootloader: seen(1),
        tee: seen(1),
        snp: least(4, SB_3023),
        microcode: least(0x4e, OF_OTHERS),
        by_id_alone: None,
    },
];

impl Row {
    /// The least TCB.
    #[must_use]
    pub const fn floor(&self) -> Tcb {
        Tcb {
            fmc: self.fmc.number,
            bootloader: self.bootloader.number,
            tee: self.tee.number,
            snp: self.snp.number,
            microcode: self.microcode.number,
        }
    }
}

impl Line {
    /// Its row.
    #[must_use]
    pub const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Its name, as in a policy file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::MilanX => "Milan-X",
            Self::Genoa => "Genoa",
            Self::GenoaX => "Genoa-X",
            Self::BergamoSiena => "Bergamo-Siena",
            Self::Turin => "Turin",
            Self::TurinDense => "Turin-Dense",
        }
    }

    /// The silicon of a CPUID family, model and stepping; `None` where the table has no row, as
    /// for steppings that were never sold.
    #[must_use]
    pub fn from_cpuid(cpuid: (u8, u8, u8)) -> Option<Self> {
        ROWS.iter().find(|row| row.cpuid == cpuid).map(|row| row.line)
    }

    /// Every silicon of a product.
    pub fn of(product: Product) -> impl Iterator<Item = Self> {
        ROWS.iter().filter(move |row| row.product == product).map(|row| row.line)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why chips of a product are accepted by their ids alone, if they are.
#[must_use]
pub fn by_id_alone(product: Product) -> Option<&'static str> {
    Line::of(product).find_map(|line| line.row().by_id_alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_row_and_its_product() {
        for (index, row) in ROWS.iter().enumerate() {
            let (family, model, _) = row.cpuid;
            assert_eq!(row.line as usize, index);
            assert_eq!(row.line.row(), row);
            assert_eq!(Line::from_cpuid(row.cpuid), Some(row.line));
            assert_eq!(Product::from_cpuid(family, model), Some(row.product), "{}", row.line);
            let name = serde_json::to_string(&row.line).unwrap();
            assert_eq!(name, format!("\"{}\"", row.line));
        }
        assert_eq!(Line::from_cpuid((0x19, 0x11, 0x00)), None);
        assert_eq!(Line::of(Product::Genoa).count(), 3);
    }

    #[test]
    fn chips_of_milan_are_accepted_by_their_ids_alone() {
        assert!(by_id_alone(Product::Milan).is_some_and(|why| why.contains("2605.12990")));
        assert_eq!(by_id_alone(Product::Genoa), None);
        assert_eq!(by_id_alone(Product::Turin), None);
    }
}

//! Evidence of GPUs: what the guest collects from each device, and which devices a launch config
//! promises. The guest states; it never judges.

mod chips;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::evidence::Base64Bytes;

pub use chips::{architecture_of, chip_named_by, chip_of, is_named, product_of};

/// Most devices of one VM.
pub const MAX_DEVICES: usize = 64;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Architecture {
    /// A GPU of the family of H100 and H200.
    Hopper,
    /// A GPU of the family of B200 and RTX PRO 6000.
    Blackwell,
    /// An `NVSwitch` of Hopper machines.
    Ls10,
}

impl Architecture {
    /// Whether it is a switch and no GPU.
    #[must_use]
    pub const fn is_switch(self) -> bool {
        matches!(self, Self::Ls10)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hopper => "HOPPER",
            Self::Blackwell => "BLACKWELL",
            Self::Ls10 => "LS10",
        })
    }
}

/// What the driver says of the GPUs that it drives. Passed between two programs of one guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverState {
    /// Version of the driver.
    pub driver: String,
    /// Whether the GPUs work in confidential-computing mode.
    pub confidential: bool,
    /// Whether they do so with what developers may see.
    pub developer: bool,
    /// PCI address of each: domain, bus and device, in the driver's order.
    pub gpus: Vec<(u32, u32, u32)>,
}

/// What one device answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceEvidence {
    /// What the device is. A claim: its certificate decides.
    pub architecture: Architecture,
    /// The SPDM request `GET_MEASUREMENTS`, 37 bytes, then the response with its signature.
    pub report: Base64Bytes,
    /// The device's certificates as PEM, its own first, the root last.
    pub certificates: Base64Bytes,
}

/// The JSON whose exact bytes the binding hashes: every GPU and every `NVSwitch` of the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GpuEvidence {
    /// Version of this format: [`GpuEvidence::SCHEMA`].
    pub schema: u32,
    /// Each device, in no order that matters.
    pub devices: Vec<DeviceEvidence>,
}

impl GpuEvidence {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;
}

/// The GPUs that a VM has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GpuSet {
    /// The chip of every GPU: `GH100`, `GB100`, `GB202`; or its family, `GB20X`.
    pub chip: String,
    /// How many.
    pub count: u8,
    /// The board of every GPU as its report names it, `PROJECT_PROJECTSKU_CHIPSKU`; absent where
    /// any will do. Boards of one chip differ in memory and form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board: Option<String>,
    /// How many `NVSwitches`: 4 where eight Hopper GPUs share one VM, else 0.
    pub nvswitches: u8,
}

impl GpuSet {
    /// What is wrong with it, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let word = |text: &str| {
            (1..=40).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        };
        if !word(&self.chip) {
            return Some(format!("chip {:?}, expected one like \"GH100\"", self.chip));
        }
        if let Some(board) = self.board.as_deref().filter(|board| !word(board)) {
            return Some(format!("board {board:?}, expected one like \"G520_0200_885\""));
        }
        if self.count == 0 {
            return Some("count 0, expected at least 1; leave gpus out for none".to_owned());
        }
        None
    }
}

impl GpuSet {
    /// Whether what was found is this set; a set that names no board is any board's.
    #[must_use]
    pub fn is_met_by(&self, found: &Self) -> bool {
        (self.board.is_none() || self.board == found.board)
            && is_named(&found.chip, &self.chip)
            && self.count == found.count
            && self.nvswitches == found.nvswitches
    }
}

impl fmt::Display for GpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GPU {}", self.count, self.chip)?;
        if let Some(board) = &self.board {
            write!(f, " on {board}")?;
        }
        write!(f, ", {} NVSwitch", self.nvswitches)
    }
}

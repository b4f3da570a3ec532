//! What a verifier accepts. Nothing is left unchecked by default: what shall not matter is
//! written as [`Expect::Any`], and the verdict then says that it was not judged.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::Sha256Hash;
use crate::manifest::Release;
use crate::platform::Platform;
use crate::tcb::{Product, Tcb};

/// What a value may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect<T> {
    /// This value.
    Exactly(T),
    /// One of these; none of none.
    OneOf(Vec<T>),
    /// Whatever it is. The verdict says that it was not judged.
    Any,
}

impl<T: PartialEq> Expect<T> {
    /// Whether `found` is accepted; `None` where anything is.
    pub fn accepts(&self, found: &T) -> Option<bool> {
        match self {
            Self::Exactly(expected) => Some(expected == found),
            Self::OneOf(expected) => Some(expected.contains(found)),
            Self::Any => None,
        }
    }
}

impl<T: fmt::Display> fmt::Display for Expect<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(expected) => write!(f, "{expected}"),
            Self::OneOf(expected) if expected.is_empty() => f.write_str("none is accepted"),
            Self::OneOf(expected) => {
                f.write_str("one of ")?;
                for (index, value) in expected.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Any => f.write_str("any"),
        }
    }
}

/// What to do with a launch digest that the manifest's law gives and its table does not list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnlistedShapes {
    /// Refuse it, naming the shape.
    Refuse,
    /// Accept it, naming the shape.
    AcceptByLaw,
}

/// What must be true of the machine: bits of `PLATFORM_INFO`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePolicy {
    /// Simultaneous multithreading is on.
    pub smt: Expect<bool>,
    /// Transparent memory encryption is on.
    pub tsme: Expect<bool>,
    /// The memory has error correction.
    pub ecc: Expect<bool>,
    /// Ciphertext is hidden from the host.
    pub ciphertext_hiding: Expect<bool>,
    /// The memory was checked for aliases: without it a changed memory module can lie about its
    /// size and give the host a second view of the guest's memory.
    pub alias_check: Expect<bool>,
}

/// What a verifier accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Who may sign. The simulated platform also takes a root, handed over by hand.
    pub platform: Expect<Platform>,
    /// Name of the release.
    pub release_name: Expect<String>,
    /// Its version.
    pub release_version: Expect<String>,
    /// SHA-256 of the launch config: who may log in to the VM.
    pub launch_config: Expect<Sha256Hash>,
    /// Launch digests by the law alone.
    pub unlisted_shapes: UnlistedShapes,
    /// The privilege level that asked for the report.
    pub vmpl: Expect<u32>,
    /// The oldest firmware accepted, by product. A product that is missing is refused.
    pub tcb_floor: BTreeMap<Product, Tcb>,
    /// What must be true of the machine.
    pub machine: MachinePolicy,
    /// Whether there is evidence of GPUs.
    pub gpu_evidence: Expect<bool>,
}

impl Policy {
    /// Strict, for one release. Not judged: who may log in ([`Policy::launch_config`]), and of
    /// the machine only SMT, TSME and ciphertext hiding.
    #[must_use]
    pub fn for_release(release: &Release) -> Self {
        Self {
            platform: Expect::Exactly(Platform::Snp),
            release_name: Expect::Exactly(release.name.clone()),
            release_version: Expect::Exactly(release.version.clone()),
            launch_config: Expect::Any,
            unlisted_shapes: UnlistedShapes::Refuse,
            vmpl: Expect::Exactly(0),
            tcb_floor: default_floor(),
            machine: MachinePolicy {
                smt: Expect::Any,
                tsme: Expect::Any,
                ecc: Expect::Exactly(true),
                ciphertext_hiding: Expect::Any,
                alias_check: Expect::Exactly(true),
            },
            gpu_evidence: Expect::Exactly(false),
        }
    }

    /// Accepts the simulated platform instead of the real one. It proves nothing.
    #[must_use]
    pub fn simulated(self) -> Self {
        Self { platform: Expect::Exactly(Platform::Simulated), ..self }
    }
}

/// What patched machines of each product reported in February 2026.
fn default_floor() -> BTreeMap<Product, Tcb> {
    let tcb = |fmc, bootloader, snp, microcode| Tcb { fmc, bootloader, tee: 0, snp, microcode };
    BTreeMap::from([
        (Product::Milan, tcb(0, 4, 24, 0xdb)),
        (Product::Genoa, tcb(0, 10, 23, 0x54)),
        (Product::Turin, Tcb { tee: 1, ..tcb(1, 1, 4, 0x51) }),
    ])
}

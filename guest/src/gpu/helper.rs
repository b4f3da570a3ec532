//! Asks the program that asks NVIDIA's library.
//!
//! The library is closed and large, so it gets no place beside the keys of the agent: a program
//! of its own loads it, answers one question and ends. What it says is held to what is known.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use casemate_measurements::gpu_evidence::{DriverState, GpuEvidence, GpuSet, is_named};
use casemate_measurements::hash::Nonce;

use super::pci::{Found, PciError};
pub use super::run::RunError;
use super::run::run;

/// Where the nonce stands in a report: behind version, code and two parameters of the request
/// (DSP0274 1.1.0, "`GET_MEASUREMENTS` request message").
const NONCE_AT: usize = 4;

/// Why GPUs are refused.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// The bus cannot be read.
    #[error("cannot look for GPUs")]
    Pci(#[from] PciError),
    /// There are others than promised.
    #[error("the VM has {found}, its launch config says {promised}")]
    NotPromised {
        /// What there is.
        found: String,
        /// What was promised.
        promised: String,
    },
    /// The program failed.
    #[error("the driver gives no answer")]
    Helper(#[from] RunError),
    /// Its answer makes no sense.
    #[error("the driver's answer is malformed")]
    Answer(#[source] serde_json::Error),
    /// Its answer is no text.
    #[error("the driver's answer is not UTF-8")]
    NotUtf8(#[source] std::string::FromUtf8Error),
    /// The driver drives other GPUs than the bus has.
    #[error("the driver drives {driven} GPUs, and not exactly the {found} of the bus")]
    NotDriven {
        /// How many it drives.
        driven: usize,
        /// How many there are.
        found: usize,
    },
    /// The GPUs protect nothing.
    #[error("the GPUs are {0}")]
    Mode(&'static str),
    /// There is evidence of another number of GPUs.
    #[error("{evidence} GPUs give evidence, expected {found}")]
    Count {
        /// How many give evidence.
        evidence: usize,
        /// How many there are.
        found: usize,
    },
    /// A GPU answered to something else.
    #[error("a GPU's report does not carry the nonce")]
    Stale,
}

/// How the program is run.
#[derive(Debug, Clone)]
pub struct Helper {
    /// The program, and arguments before those of the question.
    pub argv: Vec<OsString>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Default for Helper {
    fn default() -> Self {
        Self { argv: vec!["/usr/lib/casemate/nvml".into()], patience: Duration::from_mins(1) }
    }
}

impl Helper {
    /// Holds the GPUs of the bus to `promised`, and the driver to the bus.
    ///
    /// # Errors
    /// When there are other GPUs than promised, the driver does not drive exactly these, or they
    /// are not in confidential-computing mode.
    pub fn check(&self, found: &Found, promised: Option<&GpuSet>) -> Result<(), GpuError> {
        hold(found, promised)?;
        if found.is_empty() {
            return Ok(());
        }
        let output = run(&self.argv, &["state"], self.patience)?;
        let state: DriverState = serde_json::from_slice(&output).map_err(GpuError::Answer)?;
        let driven: BTreeSet<_> = state.gpus.iter().copied().collect();
        let there: BTreeSet<_> = found.gpus.iter().map(|gpu| gpu.address).collect();
        if driven != there || state.gpus.len() != found.gpus.len() {
            let (driven, found) = (state.gpus.len(), found.gpus.len());
            return Err(GpuError::NotDriven { driven, found });
        }
        match state {
            DriverState { confidential: false, .. } => {
                Err(GpuError::Mode("not in confidential-computing mode"))
            }
            DriverState { developer: true, .. } => Err(GpuError::Mode("open to developers")),
            _ => Ok(()),
        }
    }

    /// Collects evidence of `count` GPUs over `nonce`: the exact text that is to be bound.
    ///
    /// # Errors
    /// When the program fails, or evidence is missing or of another nonce.
    pub fn evidence(&self, nonce: &Nonce, count: usize) -> Result<String, GpuError> {
        let output = run(&self.argv, &["evidence", &nonce.to_string()], self.patience)?;
        let text = String::from_utf8(output).map_err(GpuError::NotUtf8)?;
        let evidence: GpuEvidence = serde_json::from_str(&text).map_err(GpuError::Answer)?;
        if evidence.devices.len() != count {
            return Err(GpuError::Count { evidence: evidence.devices.len(), found: count });
        }
        let carried = |report: &[u8]| {
            report.get(NONCE_AT..NONCE_AT + Nonce::LEN).is_some_and(|n| n == nonce.as_bytes())
        };
        if !evidence.devices.iter().all(|device| carried(&device.report.0)) {
            return Err(GpuError::Stale);
        }
        Ok(text)
    }
}

/// Holds what the bus has to what was promised. The board is in signed reports alone, so a
/// verifier judges it.
fn hold(found: &Found, promised: Option<&GpuSet>) -> Result<(), GpuError> {
    let met = match promised {
        None => found.is_empty(),
        Some(set) => {
            found.gpus.len() == usize::from(set.count)
                && found.switches == usize::from(set.nvswitches)
                && found.gpus.iter().all(|gpu| gpu.chip().is_some_and(|c| is_named(c, &set.chip)))
        }
    };
    if met {
        return Ok(());
    }
    let chips: BTreeSet<&str> =
        found.gpus.iter().map(|gpu| gpu.chip().unwrap_or("unknown")).collect();
    let chips = chips.into_iter().collect::<Vec<_>>().join(", ");
    Err(GpuError::NotPromised {
        found: format!("{} GPU {chips}, {} NVSwitch", found.gpus.len(), found.switches),
        promised: promised.map_or_else(|| "none".to_owned(), ToString::to_string),
    })
}

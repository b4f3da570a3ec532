//! The GPUs of this boot: held to the launch config once, asked for evidence with every nonce.

use std::time::Duration;

use casemate_measurements::gpu_evidence::GpuSet;
use casemate_measurements::hash::Nonce;

use super::AgentError;
use super::worker::{Worker, WorkerError};
use crate::gpu::helper::{GpuError, Helper};
use crate::gpu::pci::scan;
use crate::sysfs::SysRoot;

/// Why there is no evidence of the GPUs.
#[derive(Debug, thiserror::Error)]
pub enum GpuEvidenceError {
    /// They were not asked.
    #[error("the GPUs")]
    Worker(#[from] WorkerError),
    /// They gave none.
    #[error("the GPUs give none")]
    Gpu(#[from] GpuError),
}

/// GPUs that passed their check.
#[derive(Debug)]
pub struct Gpus(Worker<Nonce, Result<String, GpuError>>);

impl Gpus {
    /// Holds what the bus and the driver have to `promised`, and asks every GPU for evidence
    /// once. `None` where there are no GPUs and none were promised.
    ///
    /// # Errors
    /// When the GPUs are others, protect nothing, or give no evidence.
    pub fn check(
        root: &SysRoot,
        helper: &Helper,
        promised: Option<&GpuSet>,
    ) -> Result<Option<Self>, AgentError> {
        let found = scan(root).map_err(GpuError::Pci)?;
        helper.check(&found, promised)?;
        if found.is_empty() {
            return Ok(None);
        }
        let (helper, count) = (helper.clone(), found.gpus.len());
        helper.evidence(&Nonce::from_bytes([0; Nonce::LEN]), count)?;
        let ask = move |nonce: Nonce| helper.evidence(&nonce, count);
        Ok(Some(Self(Worker::start("gpus", ask).map_err(AgentError::Spawn)?)))
    }

    /// Evidence of every GPU over `nonce`: the exact text that is to be bound.
    ///
    /// # Errors
    /// When it is not to be had within `patience`.
    pub fn evidence(&self, nonce: Nonce, patience: Duration) -> Result<String, GpuEvidenceError> {
        Ok(self.0.ask(nonce, patience)??)
    }
}

//! Whether a reader takes an index: its name, its signatures, and what he saw before.

use super::file::IndexFile;
use super::state::{Clock, Memory, MemoryError};
use crate::verify::{Judgement, Policy};

/// Why an index is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The policy says of no index that it is the signers'.
    #[error("the signers file names no index")]
    Unnamed,
    /// It is another index.
    #[error("this is the index {found:?}, not {expected:?}")]
    Name {
        /// Its name.
        found: String,
        /// The name in the policy.
        expected: String,
    },
    /// Too few signed it.
    #[error("too few of the signers signed the index: {} of {}", .0.signers.len(), .0.threshold)]
    Signatures(Box<Judgement>),
    /// It contradicts what was seen before, or that cannot be read or kept.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl IndexFile {
    /// Takes it, if it is the index that the policy names, enough signed it, and it is no step
    /// back from what `memory` has; then it is remembered.
    ///
    /// # Errors
    /// When it is not to be taken, or cannot be remembered.
    pub fn trust(
        &self,
        policy: &Policy,
        memory: &Memory,
        clock: Clock,
    ) -> Result<Judgement, TrustError> {
        let expected = policy.index().ok_or(TrustError::Unnamed)?;
        let found = &self.index().name;
        if found != expected {
            let (found, expected) = (found.clone(), expected.to_owned());
            return Err(TrustError::Name { found, expected });
        }
        let judgement = self.judge(policy);
        if !judgement.is_trusted() {
            return Err(TrustError::Signatures(Box::new(judgement)));
        }
        memory.take(self.index(), clock)?;
        Ok(judgement)
    }
}

//! Content by its hash: the unit that stores keep and that moves between them.

use std::io::{self, Read};

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Most bytes of a chunk: one is held in memory while it moves.
pub const MAX_BLOB: u64 = 16 * 1024 * 1024;

/// Bytes by SHA-256 and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Their SHA-256.
    pub sha256: Sha256Hash,
    /// How many.
    pub size: u64,
}

impl Blob {
    /// What `bytes` are.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Sha256Hash::of(bytes), size: bytes.len() as u64 }
    }
}

/// SHA-256 of what goes by, in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    #[must_use]
    pub fn finish(self) -> Sha256Hash {
        Sha256Hash::from_bytes(self.0.finalize().into())
    }
}

/// Reads until `buffer` is full or the reader ends; how many bytes were read.
pub(crate) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < buffer.len() {
        match reader.read(&mut buffer[at..]) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

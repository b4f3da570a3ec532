//! dm-verity parameters of the root disk: all that the init needs to hold every block of the
//! root file system to one hash, without reading a superblock that the host wrote.
//!
//! SHA-256, format 1 (the salt is prepended), data and hash blocks of 4096 bytes, no superblock;
//! the hash tree follows the data in the same file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hash::Sha256Hash;

/// Length in bytes of a data block and of a hash block.
pub const BLOCK_SIZE: u64 = 4096;
/// The hash algorithm's name, as the device mapper and the manifest spell it.
pub const ALGORITHM: &str = "sha256";
/// Most data blocks of a root file system: 1 TiB.
pub const MAX_DATA_BLOCKS: u64 = 1 << 28;

/// Why a salt or the parameters are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerityError {
    /// The salt is not 1 to 32 bytes of lower-case hex.
    #[error("salt {text:?} is malformed: expected 1 to 32 bytes as lower-case hex digits")]
    Salt {
        /// The refused text, shortened.
        text: String,
    },
    /// The number of data blocks is out of bounds.
    #[error("root has {found} data blocks, expected 1 to {MAX_DATA_BLOCKS}")]
    DataBlocks {
        /// The number found.
        found: u64,
    },
    /// The hash tree does not follow the data.
    #[error("hash tree starts at block {found}, expected it directly after {expected} data blocks")]
    HashBlock {
        /// The block found.
        found: u64,
        /// The number of data blocks.
        expected: u64,
    },
    /// The manifest names another algorithm.
    #[error("dm-verity algorithm is {found:?}, expected {ALGORITHM:?}")]
    Algorithm {
        /// The name found, shortened.
        found: String,
    },
    /// The manifest names another block size.
    #[error("dm-verity block size is {found}, expected {BLOCK_SIZE}")]
    BlockSize {
        /// The size found.
        found: u64,
    },
}

/// A dm-verity salt: 1 to 32 bytes, derived from content by the builder.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "String", try_from = "String")]
pub struct Salt(Vec<u8>);

impl Salt {
    /// Most bytes of a salt.
    pub const MAX_LEN: usize = 32;

    /// Takes the bytes of a salt.
    ///
    /// # Errors
    /// When there are none or more than [`Salt::MAX_LEN`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VerityError> {
        if (1..=Self::MAX_LEN).contains(&bytes.len()) {
            return Ok(Self(bytes.to_vec()));
        }
        Err(VerityError::Salt { text: hex::encode(&bytes[..bytes.len().min(40)]) })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Salt {
    type Err = VerityError;

    fn from_str(text: &str) -> Result<Self, VerityError> {
        let refused = || VerityError::Salt { text: text.chars().take(80).collect() };
        if text.bytes().any(|b| b.is_ascii_uppercase()) || text.len() > Self::MAX_LEN * 2 {
            return Err(refused());
        }
        let bytes = hex::decode(text).map_err(|_| refused())?;
        Self::from_bytes(&bytes)
    }
}

impl TryFrom<String> for Salt {
    type Error = VerityError;

    fn try_from(text: String) -> Result<Self, VerityError> {
        text.parse()
    }
}

impl From<Salt> for String {
    fn from(salt: Salt) -> Self {
        hex::encode(salt.0)
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt({self})")
    }
}

/// The parameters of one root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "Raw", try_from = "Raw")]
pub struct Verity {
    /// Hash of the root of the hash tree.
    pub root_hash: Sha256Hash,
    /// The salt that each block is hashed with.
    pub salt: Salt,
    /// Number of data blocks of [`BLOCK_SIZE`] bytes.
    pub data_blocks: u64,
    /// The block at which the hash tree starts: equal to `data_blocks`.
    pub hash_block: u64,
}

impl Verity {
    /// Holds the parameters to their bounds.
    ///
    /// # Errors
    /// When there is no data, too much of it, or the tree does not follow it directly.
    pub fn check(&self) -> Result<(), VerityError> {
        if !(1..=MAX_DATA_BLOCKS).contains(&self.data_blocks) {
            return Err(VerityError::DataBlocks { found: self.data_blocks });
        }
        if self.hash_block != self.data_blocks {
            let (found, expected) = (self.hash_block, self.data_blocks);
            return Err(VerityError::HashBlock { found, expected });
        }
        Ok(())
    }
}

/// The JSON object, which also names what is fixed.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Raw {
    algorithm: String,
    block_size: u64,
    data_blocks: u64,
    hash_block: u64,
    root_hash: Sha256Hash,
    salt: Salt,
}

impl From<Verity> for Raw {
    fn from(verity: Verity) -> Self {
        let Verity { root_hash, salt, data_blocks, hash_block } = verity;
        let algorithm = ALGORITHM.to_owned();
        Self { algorithm, block_size: BLOCK_SIZE, data_blocks, hash_block, root_hash, salt }
    }
}

impl TryFrom<Raw> for Verity {
    type Error = VerityError;

    fn try_from(raw: Raw) -> Result<Self, VerityError> {
        let Raw { algorithm, block_size, data_blocks, hash_block, root_hash, salt } = raw;
        if algorithm != ALGORITHM {
            return Err(VerityError::Algorithm { found: algorithm.chars().take(40).collect() });
        }
        if block_size != BLOCK_SIZE {
            return Err(VerityError::BlockSize { found: block_size });
        }
        let verity = Self { root_hash, salt, data_blocks, hash_block };
        verity.check()?;
        Ok(verity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn salts() {
        assert_eq!("00ff".parse::<Salt>().unwrap().as_bytes(), [0, 0xff]);
        for text in ["", "0", "FF", "zz", &"00".repeat(33)] {
            assert!(matches!(text.parse::<Salt>(), Err(VerityError::Salt { .. })), "{text}");
        }
        assert!(Salt::from_bytes(&[0; 33]).is_err());
    }

    #[test]
    fn json_names_what_is_fixed_and_refuses_other_values() {
        let verity = Verity {
            root_hash: Sha256Hash::of(b""),
            salt: "ab".parse().unwrap(),
            data_blocks: 7,
            hash_block: 7,
        };
        let json = serde_json::to_string(&verity).unwrap();
        assert!(json.starts_with(r#"{"algorithm":"sha256","block_size":4096,"data_blocks":7,"#));
        assert_eq!(serde_json::from_str::<Verity>(&json).unwrap(), verity);
        for (from, to) in [
            ("sha256", "sha1"),
            ("4096", "512"),
            (r#""hash_block":7"#, r#""hash_block":8"#),
            (r#""data_blocks":7"#, r#""data_blocks":0"#),
            (r#""salt":"ab""#, r#""salt":"""#),
        ] {
            let other = json.replacen(from, to, 1);
            assert_ne!(other, json);
            assert!(serde_json::from_str::<Verity>(&other).is_err(), "{other}");
        }
    }
}

//! Decides the table of the verified root device: a pure function of the command line's
//! parameters and the disk that was found.

use casemate_measurements::verity::{ALGORITHM, BLOCK_SIZE, Verity};

use super::InitError;
use crate::sysfs::{Disk, SECTOR_SIZE};

/// Hashes in one block of the tree.
const FAN_OUT: u64 = BLOCK_SIZE / 32;

/// What the device mapper is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityPlan {
    /// Length of the verified device, in sectors of 512 bytes.
    pub sectors: u64,
    /// The parameters of the target `verity`.
    pub table: String,
}

impl VerityPlan {
    /// Plans a verified device over `disk`.
    ///
    /// A block that does not verify, or that the host does not deliver, ends the VM at once
    /// (`panic_on_corruption`, `panic_on_error`, with `panic=-1`): a host that could make single
    /// reads fail could choose which files of the root exist.
    ///
    /// # Errors
    /// When the disk is shorter than the data and their hash tree.
    pub fn new(verity: &Verity, disk: &Disk) -> Result<Self, InitError> {
        let Verity { root_hash, salt, data_blocks, hash_block } = verity;
        let blocks = hash_block.saturating_add(hash_tree_blocks(*data_blocks));
        let expected = blocks.saturating_mul(BLOCK_SIZE);
        if disk.len < expected {
            let (name, found) = (disk.name.clone(), disk.len);
            return Err(InitError::DiskTooSmall { name, found, expected });
        }
        let (major, minor) = disk.device;
        let table = format!(
            "1 {major}:{minor} {major}:{minor} {BLOCK_SIZE} {BLOCK_SIZE} {data_blocks} \
             {hash_block} {ALGORITHM} {root_hash} {salt} 2 panic_on_corruption panic_on_error"
        );
        let sectors = data_blocks.saturating_mul(BLOCK_SIZE / SECTOR_SIZE);
        Ok(Self { sectors, table })
    }
}

/// Blocks of the hash tree over `data_blocks` blocks, without a superblock.
#[must_use]
pub fn hash_tree_blocks(data_blocks: u64) -> u64 {
    let (mut level, mut total) = (data_blocks, 0_u64);
    while level > 1 {
        level = level.div_ceil(FAN_OUT);
        total = total.saturating_add(level);
    }
    // A single data block is hashed by one block of the tree all the same.
    total.max(1)
}

#[cfg(test)]
mod tests {
    use casemate_measurements::hash::Sha256Hash;

    use super::*;

    fn plan(data_blocks: u64, len: u64) -> Result<VerityPlan, InitError> {
        let verity = Verity {
            root_hash: Sha256Hash::of(b"root"),
            salt: "00ff".parse().unwrap(),
            data_blocks,
            hash_block: data_blocks,
        };
        VerityPlan::new(&verity, &Disk { name: "vdb".into(), device: (254, 16), len })
    }

    #[test]
    fn the_table_is_what_the_kernel_documents() {
        let plan = plan(130, (130 + 3) * 4096).unwrap();
        assert_eq!(plan.sectors, 1040);
        assert_eq!(
            plan.table,
            format!(
                "1 254:16 254:16 4096 4096 130 130 sha256 {} 00ff 2 panic_on_corruption \
                 panic_on_error",
                Sha256Hash::of(b"root")
            )
        );
    }

    #[test]
    fn a_disk_without_room_for_the_tree_is_refused() {
        let error = plan(130, (130 + 3) * 4096 - 1).unwrap_err();
        assert!(matches!(error, InitError::DiskTooSmall { expected: 544_768, .. }), "{error}");
        assert!(plan(u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn trees() {
        for (data, tree) in [(1, 1), (2, 1), (128, 1), (129, 3), (16_384, 129), (16_385, 132)] {
            assert_eq!(hash_tree_blocks(data), tree, "{data}");
        }
    }
}

//! The dm-verity hash tree of a root file system, for the builder that appends it and for whoever
//! compares it: which root hash the measured command line carries.
//!
//! Format 1 of the kernel's dm-verity target (Documentation/admin-guide/device-mapper/verity.rst)
//! with SHA-256 and blocks of 4096 bytes, and no superblock: a reader gets every parameter from
//! the command line. A digest is SHA-256(salt || block); 128 digests fill a hash block, the last
//! one padded with zeros; the level nearest to the root comes first.

use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use casemate_measurements::hash::Sha256Hash;
use sha2::{Digest as _, Sha256};

/// Size of data and hash blocks, in bytes.
pub const BLOCK_SIZE: usize = 4096;
/// Digests in a hash block.
const PER_BLOCK: usize = BLOCK_SIZE / Sha256Hash::LEN;
/// Data blocks that one read takes in.
const BLOCKS_PER_READ: u64 = 64;

/// A hash tree as it stands on the disk, with its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTree {
    /// The root hash.
    pub root: Sha256Hash,
    /// The hash blocks, from the level nearest to the root down; empty for a single data block,
    /// whose digest is the root hash itself.
    pub blocks: Vec<u8>,
}

/// The salt of an image: derived from its content, so that equal images have equal trees and
/// different ones cannot share precomputed blocks.
#[must_use]
pub fn salt_of(data_sha256: &Sha256Hash) -> Sha256Hash {
    let mut hasher = Sha256::new();
    hasher.update(b"casemate-verity-salt-v1\0");
    hasher.update(data_sha256.as_bytes());
    Sha256Hash::from_bytes(hasher.finalize().into())
}

/// Hashes the first `data_blocks` blocks of `data` with `jobs` threads.
///
/// # Errors
/// When `data` cannot be read that far; and for zero blocks, which dm-verity does not know.
pub fn hash_tree(
    data: &std::fs::File,
    data_blocks: u64,
    salt: &[u8],
    jobs: NonZeroUsize,
) -> io::Result<HashTree> {
    if data_blocks == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no data to protect"));
    }
    let salted = {
        let mut hasher = Sha256::new();
        hasher.update(salt);
        hasher
    };
    let mut levels = vec![hash_data(data, data_blocks, &salted, jobs)?];
    while let Some(below) = levels.last()
        && below.len() > Sha256Hash::LEN
    {
        let padded = pad(below);
        let above = padded.chunks(BLOCK_SIZE).flat_map(|block| digest(&salted, block)).collect();
        levels.push(above);
    }
    let root = levels.pop().unwrap_or_default();
    let root = <[u8; Sha256Hash::LEN]>::try_from(root.as_slice())
        .map_err(|_| io::Error::other("a hash tree without a root"))?;
    let blocks = levels.iter().rev().flat_map(|level| pad(level)).collect();
    Ok(HashTree { root: Sha256Hash::from_bytes(root), blocks })
}

fn digest(salted: &Sha256, block: &[u8]) -> [u8; Sha256Hash::LEN] {
    let mut hasher = salted.clone();
    hasher.update(block);
    hasher.finalize().into()
}

/// Fills the last block of a level with zeros.
fn pad(level: &[u8]) -> Vec<u8> {
    let mut padded = level.to_vec();
    padded.resize(level.len().div_ceil(BLOCK_SIZE) * BLOCK_SIZE, 0);
    padded
}

/// The digests of the data blocks, in order. Each thread takes one run of whole hash blocks.
fn hash_data(
    data: &std::fs::File,
    data_blocks: u64,
    salted: &Sha256,
    jobs: NonZeroUsize,
) -> io::Result<Vec<u8>> {
    let per_block = PER_BLOCK as u64;
    let share = data_blocks.div_ceil(per_block).div_ceil(jobs.get() as u64) * per_block;
    let starts: Vec<u64> = (0..data_blocks.div_ceil(share)).map(|i| i * share).collect();
    std::thread::scope(|scope| {
        let parts: Vec<_> = starts
            .into_iter()
            .map(|first| {
                let end = (first + share).min(data_blocks);
                scope.spawn(move || hash_run(data, first, end, salted))
            })
            .collect();
        let mut digests = Vec::new();
        for part in parts {
            let part = part.join().map_err(|_| io::Error::other("a hashing thread panicked"))?;
            digests.extend(part?);
        }
        Ok(digests)
    })
}

fn hash_run(data: &std::fs::File, first: u64, end: u64, salted: &Sha256) -> io::Result<Vec<u8>> {
    let mut digests = Vec::new();
    let mut buffer = vec![0_u8; BLOCK_SIZE * usize::try_from(BLOCKS_PER_READ).unwrap_or(1)];
    let mut next = first;
    while next < end {
        let blocks = usize::try_from((end - next).min(BLOCKS_PER_READ)).unwrap_or(1);
        let bytes = &mut buffer[..blocks * BLOCK_SIZE];
        data.read_exact_at(bytes, next * BLOCK_SIZE as u64)?;
        for block in bytes.chunks(BLOCK_SIZE) {
            digests.extend(digest(salted, block));
        }
        next += blocks as u64;
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    /// Bytes that repeat nowhere near a block's length.
    fn sample(blocks: usize) -> Vec<u8> {
        (0..blocks * BLOCK_SIZE).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn jobs(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).unwrap()
    }

    /// The tree and root hash that cryptsetup's own program makes of the same data.
    fn veritysetup(data: &tempfile::NamedTempFile, blocks: usize, salt: &str) -> (String, Vec<u8>) {
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(data.path(), copy.path()).unwrap();
        let output = Command::new("veritysetup")
            .args(["format", "--no-superblock", "--hash=sha256", "--format=1"])
            .args(["--data-block-size=4096", "--hash-block-size=4096"])
            .arg(format!("--salt={salt}"))
            .arg(format!("--data-blocks={blocks}"))
            .arg(format!("--hash-offset={}", blocks * BLOCK_SIZE))
            .args([copy.path(), copy.path()])
            .output()
            .expect("veritysetup (package cryptsetup-bin) is installed by make setup");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let line = text.lines().find(|l| l.starts_with("Root hash:")).unwrap();
        let root = line.split_whitespace().last().unwrap().to_owned();
        let bytes = std::fs::read(copy.path()).unwrap();
        (root, bytes[blocks * BLOCK_SIZE..].to_vec())
    }

    #[test]
    fn agrees_with_veritysetup() {
        let salt = salt_of(&Sha256Hash::of(b"sample"));
        for blocks in [1, 2, 127, 128, 129, 1000, 128 * 128 + 1] {
            let data = file_of(&sample(blocks));
            let ours = hash_tree(data.as_file(), blocks as u64, salt.as_bytes(), jobs(3)).unwrap();
            let (root, tree) = veritysetup(&data, blocks, &salt.to_string());
            assert_eq!(ours.root.to_string(), root, "{blocks} blocks");
            assert_eq!(ours.blocks, tree, "{blocks} blocks");
        }
    }

    #[test]
    fn does_not_depend_on_the_number_of_threads() {
        let data = file_of(&sample(777));
        let one = hash_tree(data.as_file(), 777, b"salt", jobs(1)).unwrap();
        for n in [2, 5, 64] {
            assert_eq!(hash_tree(data.as_file(), 777, b"salt", jobs(n)).unwrap(), one);
        }
    }

    #[test]
    fn each_bit_and_the_salt_matter() {
        let mut bytes = sample(300);
        let before = hash_tree(file_of(&bytes).as_file(), 300, b"salt", jobs(2)).unwrap().root;
        bytes[299 * BLOCK_SIZE + 4095] ^= 1;
        let flipped = hash_tree(file_of(&bytes).as_file(), 300, b"salt", jobs(2)).unwrap().root;
        let salted = hash_tree(file_of(&bytes).as_file(), 300, b"tlas", jobs(2)).unwrap().root;
        assert_ne!(before, flipped);
        assert_ne!(flipped, salted);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        let data = file_of(&sample(2));
        assert!(hash_tree(data.as_file(), 3, b"", jobs(1)).is_err());
        assert!(hash_tree(data.as_file(), 0, b"", jobs(1)).is_err());
    }
}

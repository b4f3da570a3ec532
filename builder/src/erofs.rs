//! The root file system's image: erofs, its hash tree behind it, both in one file.
//!
//! Everything that could differ between two runs is an argument here: times, UUID, compression,
//! number of workers, and the order of the archive that mkfs reads.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::verity::{Salt, Verity};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::merge::{Kind, Tree, write_tar};
use crate::namespace::{NamespaceError, Program, free_bytes};
use crate::verity::{BLOCK_SIZE, hash_tree, salt_of};

/// lz4 in clusters of 64 KiB. Of cpu-sandbox's 204 MB it leaves 115 in 0.4 s of CPU; lz4hc,9
/// leaves 98 in 5.6 s, zstd,3 leaves 85 in 11.4 s.
const COMPRESSION: [&str; 2] = ["-zlz4", "-C65536"];
/// The number of workers is fixed, in case it decides how a file is cut.
const WORKERS: &str = "--workers=2";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// mkfs.erofs failed.
    #[error(transparent)]
    Program(#[from] NamespaceError),
    /// The disk has too little room.
    #[error(
        "the root image needs up to {needed} MB in {}, and {free} MB are free: make room, or name \
         another cache: CASEMATE_CACHE, --cache",
        path.display()
    )]
    NoRoom {
        /// Where it is made.
        path: PathBuf,
        /// How much may be needed.
        needed: u64,
        /// How much there is.
        free: u64,
    },
    /// A file could not be read or written.
    #[error("cannot make the image {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is known about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootImage {
    /// SHA-256 of the whole file.
    pub sha256: Sha256Hash,
    /// Its length in bytes.
    pub size: u64,
    /// How dm-verity reads it.
    pub verity: Verity,
}

/// The hash of all that decides the image of `tree`.
#[must_use]
pub fn key(tree: &Tree, epoch: u32, tools: &Sha256Hash) -> Sha256Hash {
    let text = format!(
        "casemate-image-v1\n{tools}\n{}\n{epoch}\n{COMPRESSION:?}\n{WORKERS}\n",
        tree.digest()
    );
    Sha256Hash::of(text.as_bytes())
}

/// Writes the image of `tree` to `out/root.img`.
///
/// # Errors
/// When a package cannot be read, mkfs.erofs fails, or the disk is full.
pub fn root_image(
    tree: &Tree,
    epoch: u32,
    tools: (&Path, &Sha256Hash),
    out: &Path,
    jobs: NonZeroUsize,
) -> Result<RootImage, ImageError> {
    check_room(tree, out)?;
    let path = out.join("root.img");
    let wrap = |source| ImageError::File { path: path.clone(), source };
    // mkfs.erofs keeps the archive's bytes in a temporary file: on disk, not in memory.
    let scratch = tempfile::tempdir_in(out).map_err(wrap)?;
    // SOURCE_DATE_EPOCH must stay unset: it turns --all-time into clamping. What mkfs.erofs could not
    // write it says, and ends with success.
    Program::new(tools.0, "/usr/bin/mkfs.erofs")
        .args(["--quiet", "--tar=f", "--all-time", &format!("-T{epoch}")])
        .args(COMPRESSION)
        .args([WORKERS, &format!("-U{}", uuid(&key(tree, epoch, tools.1)))])
        .args(["/work/out/root.img"])
        .env("TMPDIR", "/work/scratch")
        .failing_on("<E>")
        .output(out, "out")
        .output(scratch.path(), "scratch")
        .run_fed(|input| write_tar(tree, u64::from(epoch), input))?;
    drop(scratch);
    append_tree(&path, jobs).map_err(wrap)
}

/// Refuses to begin what the disk of `out` has no room for: mkfs.erofs keeps the files once as they
/// are, and writes them compressed, which at worst makes nothing smaller.
fn check_room(tree: &Tree, out: &Path) -> Result<(), ImageError> {
    let files = tree.nodes().map(|(_, node)| match &node.kind {
        Kind::File(content) => content.size(),
        Kind::Directory | Kind::Symlink(_) => 0,
    });
    // Each file ends a block of 512 bytes behind a header of as many; the hash tree is a hundredth.
    let bytes: u64 = files.map(|size| size + 1024).sum();
    let needed = 2 * bytes + bytes / 64 + (1 << 20);
    match free_bytes(out) {
        Some(free) if free < needed => Err(ImageError::NoRoom {
            path: out.to_owned(),
            needed: needed.div_ceil(1_000_000),
            free: free / 1_000_000,
        }),
        _ => Ok(()),
    }
}

/// A UUID (version 8, RFC 9562) made of the image's inputs.
fn uuid(key: &Sha256Hash) -> String {
    let mut hasher = Sha256::new();
    hasher.update(b"casemate-erofs-uuid-v1\0");
    hasher.update(key.as_bytes());
    let mut bytes: [u8; 32] = hasher.finalize().into();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(&bytes[..16]);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Pads the file system at `path` to whole blocks and appends its hash tree.
fn append_tree(path: &Path, jobs: NonZeroUsize) -> io::Result<RootImage> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let size = file.metadata()?.len().next_multiple_of(BLOCK_SIZE as u64);
    file.set_len(size)?;
    let mut hasher = Sha256::new();
    hash_rest(&mut file, &mut hasher)?;
    let data_sha256 = Sha256Hash::from_bytes(hasher.clone().finalize().into());
    let salt = salt_of(&data_sha256);
    let data_blocks = size / BLOCK_SIZE as u64;
    let tree = hash_tree(&file, data_blocks, salt.as_bytes(), jobs)?;
    file.seek(SeekFrom::Start(size))?;
    file.write_all(&tree.blocks)?;
    hasher.update(&tree.blocks);
    let salt = Salt::from_bytes(salt.as_bytes()).map_err(io::Error::other)?;
    Ok(RootImage {
        sha256: Sha256Hash::from_bytes(hasher.finalize().into()),
        size: size + tree.blocks.len() as u64,
        verity: Verity { root_hash: tree.root, salt, data_blocks, hash_block: data_blocks },
    })
}

fn hash_rest(file: &mut File, hasher: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_follows_the_padded_data() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.img");
        std::fs::write(&path, vec![7; 3 * BLOCK_SIZE + 1]).unwrap();
        let image = append_tree(&path, NonZeroUsize::MIN).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 5 * BLOCK_SIZE);
        assert_eq!(image.size, bytes.len() as u64);
        assert_eq!(image.sha256, Sha256Hash::of(&bytes));
        assert_eq!((image.verity.data_blocks, image.verity.hash_block), (4, 4));
        let salt = salt_of(&Sha256Hash::of(&bytes[..4 * BLOCK_SIZE]));
        assert_eq!(image.verity.salt.as_bytes(), salt.as_bytes());
        let file = File::open(&path).unwrap();
        let tree = hash_tree(&file, 4, salt.as_bytes(), NonZeroUsize::MIN).unwrap();
        assert_eq!(bytes[4 * BLOCK_SIZE..], tree.blocks);
        assert_eq!(image.verity.root_hash, tree.root);
    }

    #[test]
    fn a_disk_without_room_is_told_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        let mount = |args: &[&str]| {
            let mut command = std::process::Command::new(args[0]);
            let status = command.args(&args[1..]).arg(dir.path()).status();
            status.is_ok_and(|status| status.success())
        };
        if !mount(&["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs"]) {
            return eprintln!("skipped: only root can mount a small disk");
        }
        let mut tree = Tree::default();
        tree.put_file("small", 0o644, &vec![1; 1 << 20]).unwrap();
        let small = check_room(&tree, dir.path());
        tree.put_file("large", 0o644, &vec![1; 1 << 20]).unwrap();
        let tools = (Path::new("/no/such/tools"), &Sha256Hash::of(b""));
        let large = root_image(&tree, 1, tools, dir.path(), NonZeroUsize::MIN);
        assert!(mount(&["umount"]), "the small disk stays");
        assert!(small.is_ok());
        let text = large.unwrap_err().to_string();
        assert!(text.contains("needs up to 6 MB in") && text.contains("4 MB are free"), "{text}");
    }

    #[test]
    fn the_uuid_is_one_of_version_8() {
        let uuid = uuid(&Sha256Hash::of(b"x"));
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "8");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
    }
}

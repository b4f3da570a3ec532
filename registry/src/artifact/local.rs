//! Chunks that are on this machine already, in artifacts that were pulled before.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::blob::Blob;
use super::chunk::{Chunker, Sizes};
use super::descriptor::{Chunk, Descriptor};

/// Where chunks lie. What is read there is held to its hash, so nothing here need be true.
#[derive(Debug, Clone, Default)]
pub struct LocalChunks {
    files: Vec<PathBuf>,
    chunks: BTreeMap<Blob, (usize, u64)>,
}

impl LocalChunks {
    /// The chunks of the artifact in `dir`, as its descriptor names them.
    pub fn add_artifact(&mut self, dir: &Path, descriptor: &Descriptor) {
        for (path, file) in descriptor.files() {
            let index = self.file(dir.join(path));
            for (offset, chunk) in file.chunks() {
                if let Chunk::Stored(blob) = chunk {
                    self.chunks.entry(blob).or_insert((index, offset));
                }
            }
        }
    }

    /// The chunks of a file, which is cut anew. One that cannot be read has none.
    pub fn add_file(&mut self, path: &Path) {
        let Ok(file) = File::open(path) else { return };
        let index = self.file(path.to_owned());
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        for piece in Chunker::new(file, Sizes::of_file(len)).map_while(Result::ok) {
            if let Chunk::Stored(blob) = piece.chunk {
                self.chunks.entry(blob).or_insert((index, piece.offset));
            }
        }
    }

    fn file(&mut self, path: PathBuf) -> usize {
        self.files.push(path);
        self.files.len() - 1
    }

    /// The bytes of a chunk, if they are here and still what they were.
    #[must_use]
    pub fn get(&self, blob: &Blob) -> Option<Vec<u8>> {
        let (index, offset) = self.chunks.get(blob)?;
        let mut bytes = vec![0; usize::try_from(blob.size).ok()?];
        File::open(&self.files[*index]).ok()?.read_exact_at(&mut bytes, *offset).ok()?;
        (Blob::of(&bytes) == *blob).then_some(bytes)
    }
}

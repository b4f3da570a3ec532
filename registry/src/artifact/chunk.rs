//! Cuts a file into chunks where its content says so, so that a file that gained or lost bytes
//! somewhere has the same chunks elsewhere.
//!
//! Runs of zeros are cut out: they are described, never stored. Where the cuts are follows from
//! the file's bytes alone, whatever the pieces in which they are read. `examples/chunking.rs` measures
//! what a choice of lengths saves.

use std::io::{self, Read};

use fastcdc::v2020::FastCDC;

use super::blob::{Blob, MAX_BLOB, fill};
use super::descriptor::{Chunk, Zeros};

/// What zeros are counted in: the block of a file system.
const BLOCK: usize = 4096;
/// The shortest run of zeros that is cut out.
const ZERO_RUN: usize = 16 * BLOCK;
/// Zeros, to compare with.
static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// How long chunks are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The shortest, but for the last and those before zeros.
    pub min: usize,
    /// The usual.
    pub average: usize,
    /// The longest.
    pub max: usize,
}

impl Sizes {
    /// What short files are published with.
    const SHORT: Self = Self::around(256 * 1024);

    /// What a file of `len` bytes is published with. Short chunks move less when a file changes,
    /// long ones cost registries less: each takes them milliseconds. Other lengths work too, but
    /// share no chunk with these.
    #[must_use]
    pub const fn of_file(len: u64) -> Self {
        const GIB: u64 = 1 << 30;
        if len < GIB {
            Self::SHORT
        } else if len < 8 * GIB {
            Self::around(1024 * 1024)
        } else {
            Self::around(4 * 1024 * 1024)
        }
    }

    /// Chunks of about `average` bytes, a power of two of at most 4 MiB.
    #[must_use]
    pub const fn around(average: usize) -> Self {
        Self { min: average / 4, average, max: average * 4 }
    }
}

const _: () = assert!(Sizes::of_file(u64::MAX).max as u64 <= MAX_BLOB, "a chunk is a blob");

/// A chunk and its bytes, which zeros have none of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub offset: u64,
    /// What it is.
    pub chunk: Chunk,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The chunks of what a reader gives.
#[derive(Debug)]
pub struct Chunker<R> {
    reader: R,
    sizes: Sizes,
    buffer: Vec<u8>,
    /// Where in the buffer the next chunk begins.
    start: usize,
    /// Where it begins in the file.
    offset: u64,
    ended: bool,
}

impl<R: Read> Chunker<R> {
    /// Cuts what `reader` gives.
    pub fn new(reader: R, sizes: Sizes) -> Self {
        Self { reader, sizes, buffer: Vec::new(), start: 0, offset: 0, ended: false }
    }

    /// The bytes at hand, as many as a decision needs unless the file ends.
    fn ahead(&mut self) -> io::Result<&[u8]> {
        let needed = self.sizes.max + ZERO_RUN;
        if self.buffer.len() - self.start < needed && !self.ended {
            self.buffer.drain(..self.start);
            self.start = 0;
            let filled = self.buffer.len();
            self.buffer.resize(needed * 2, 0);
            let read = fill(&mut self.reader, &mut self.buffer[filled..])?;
            self.buffer.truncate(filled + read);
            self.ended = self.buffer.len() < needed * 2;
        }
        Ok(&self.buffer[self.start..])
    }

    fn take(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    /// Cuts off the zeros at the start, if there are enough of them.
    fn zeros(&mut self) -> io::Result<u64> {
        let mut run = zeros_at_start(self.ahead()?);
        if run < ZERO_RUN {
            return Ok(0);
        }
        let mut total = 0;
        while run > 0 {
            self.take(run);
            total += run as u64;
            run = zeros_at_start(self.ahead()?);
        }
        Ok(total)
    }

    fn next_piece(&mut self) -> io::Result<Option<Piece>> {
        let offset = self.offset;
        let zeros = self.zeros()?;
        if zeros > 0 {
            let chunk = Chunk::Zeros(Zeros { zeros });
            return Ok(Some(Piece { offset, chunk, bytes: Vec::new() }));
        }
        let (sizes, phase) = (self.sizes, misalignment(offset));
        let ahead = self.ahead()?;
        if ahead.is_empty() {
            return Ok(None);
        }
        let window = &ahead[..ahead.len().min(sizes.max)];
        let window = &window[..zeros_within(ahead, phase).unwrap_or(usize::MAX).min(window.len())];
        let cutter = FastCDC::new(window, sizes.min, sizes.average, sizes.max);
        let (_, end) = cutter.cut(0, window.len());
        let bytes = window[..end].to_vec();
        self.take(end);
        Ok(Some(Piece { offset, chunk: Chunk::Stored(Blob::of(&bytes)), bytes }))
    }
}

impl<R: Read> Iterator for Chunker<R> {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_piece().transpose()
    }
}

/// Bytes up to the next block of the file.
fn misalignment(offset: u64) -> usize {
    let over = usize::try_from(offset % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// How long the run of zeros is that `bytes` begin with, in whole blocks.
fn zeros_at_start(bytes: &[u8]) -> usize {
    bytes.chunks_exact(BLOCK).take_while(|block| **block == ZERO_BLOCK).count() * BLOCK
}

/// Where the first run of zeros begins that is long enough; blocks begin at `phase`.
fn zeros_within(bytes: &[u8], phase: usize) -> Option<usize> {
    let mut run = 0;
    for (index, block) in bytes.get(phase..)?.chunks_exact(BLOCK).enumerate() {
        run = if *block == ZERO_BLOCK { run + BLOCK } else { 0 };
        if run == ZERO_RUN {
            return Some(phase + (index + 1) * BLOCK - ZERO_RUN);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random and follow from `seed`.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let step = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(|| step(&mut state)).flatten().take(len).collect()
    }

    const SIZES: Sizes = Sizes::around(16 * 1024);

    fn cut(bytes: &[u8]) -> Vec<Piece> {
        Chunker::new(bytes, SIZES).collect::<io::Result<_>>().unwrap()
    }

    /// Gives a few bytes at a time.
    struct Slow<'a>(&'a [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1 % 997 + 1;
            let len = self.1.min(buffer.len()).min(self.0.len());
            buffer[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    fn joined(pieces: &[Piece]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in pieces {
            assert_eq!(piece.offset, bytes.len() as u64);
            match piece.chunk {
                Chunk::Zeros(run) => {
                    bytes.resize(bytes.len() + usize::try_from(run.zeros).unwrap(), 0);
                }
                Chunk::Stored(blob) => {
                    assert_eq!(blob, Blob::of(&piece.bytes));
                    bytes.extend(&piece.bytes);
                }
            }
        }
        bytes
    }

    #[test]
    fn a_registry_takes_the_manifest_of_any_file() {
        // 4 MiB at about 300 bytes for each chunk.
        let most = 4 * 1024 * 1024 / 300;
        for gib in [0, 1, 7, 8, 40] {
            let len = (gib << 30) + (1 << 29);
            let chunks = len / Sizes::of_file(len).average as u64;
            assert!(chunks < most, "{gib} GiB: {chunks} chunks");
        }
        assert_eq!(Sizes::of_file((1 << 30) - 1), Sizes::around(256 * 1024));
    }

    #[test]
    fn chunks_are_the_file_whatever_the_pieces_it_is_read_in() {
        let zeros = vec![0; 300_000];
        for file in [
            Vec::new(),
            vec![1],
            vec![0; 100],
            vec![0; 1_000_001],
            noise(1, 1_000_000),
            [noise(2, 100_000), zeros.clone(), noise(3, 50_000)].concat(),
            [zeros.clone(), noise(4, 5), zeros].concat(),
        ] {
            let pieces = cut(&file);
            assert!(joined(&pieces) == file);
            assert!(pieces.iter().all(|piece| piece.bytes.len() <= SIZES.max));
            let slow: Vec<Piece> =
                Chunker::new(Slow(&file, 0), SIZES).collect::<io::Result<_>>().unwrap();
            assert!(slow == pieces);
        }
    }

    #[test]
    fn zeros_are_cut_out() {
        let file = [noise(5, 8192), vec![0; 1 << 20], noise(6, 8192)].concat();
        let zeros: u64 = cut(&file)
            .iter()
            .map(|piece| if let Chunk::Zeros(run) = piece.chunk { run.zeros } else { 0 })
            .sum();
        assert_eq!(zeros, 1 << 20);
        assert_eq!(cut(&vec![0; 3 << 20]).len(), 1);
    }

    #[test]
    fn bytes_put_in_change_few_chunks() {
        let file = noise(7, 4_000_000);
        let mut changed = file.clone();
        changed.splice(1_000_000..1_000_000, noise(8, 12_345));
        let before: std::collections::BTreeSet<Blob> =
            cut(&file).iter().map(|piece| Blob::of(&piece.bytes)).collect();
        let pieces = cut(&changed);
        let new = pieces.iter().filter(|piece| !before.contains(&Blob::of(&piece.bytes))).count();
        assert!(pieces.len() > 100 && new < 6, "{new} of {}", pieces.len());
    }
}

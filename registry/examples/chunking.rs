//! Measures what of a file must move when another version of it is already there, cut at fixed
//! lengths and by content: `chunking OLD NEW`.
#![expect(clippy::print_stdout, reason = "an example talks")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::Instant;

use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::chunk::{Chunker, Sizes};
use casemate_registry::artifact::descriptor::Chunk;

type Cut = BTreeMap<Blob, u64>;

fn by_content(path: &str, sizes: Sizes) -> io::Result<Cut> {
    let mut cut = Cut::new();
    for piece in Chunker::new(File::open(path)?, sizes) {
        if let Chunk::Stored(blob) = piece?.chunk {
            *cut.entry(blob).or_default() += 1;
        }
    }
    Ok(cut)
}

fn fixed(path: &str, len: usize) -> io::Result<Cut> {
    let (mut file, mut cut) = (File::open(path)?, Cut::new());
    loop {
        let mut bytes = Vec::new();
        let most = u64::try_from(len).unwrap_or(u64::MAX);
        if file.by_ref().take(most).read_to_end(&mut bytes)? == 0 {
            return Ok(cut);
        }
        if bytes.iter().any(|byte| *byte != 0) {
            *cut.entry(Blob::of(&bytes)).or_default() += 1;
        }
    }
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(old), Some(new)) = (arguments.next(), arguments.next()) else {
        return Err(io::Error::other("usage: chunking OLD NEW"));
    };
    println!("| cut | chunks | bytes to move | of the file | seconds |");
    println!("| --- | --- | --- | --- | --- |");
    for kib in [64, 256, 1024, 4096] {
        for content in [false, true] {
            let len = kib * 1024;
            let cut = |path| {
                if content { by_content(path, Sizes::around(len)) } else { fixed(path, len) }
            };
            let before = cut(&old)?;
            let since = Instant::now();
            let after = cut(&new)?;
            let seconds = since.elapsed().as_secs_f64();
            let total = after.iter().map(|(blob, uses)| blob.size * uses).sum::<u64>();
            let moved =
                after.keys().filter(|blob| !before.contains_key(blob)).map(|blob| blob.size);
            let moved = moved.sum::<u64>();
            let how = if content { "by content, about" } else { "fixed," };
            let share = moved.saturating_mul(1000) / total.max(1);
            let (whole, tenth) = (share / 10, share % 10);
            let chunks = after.len();
            println!("| {how} {kib} KiB | {chunks} | {moved} | {whole}.{tenth} % | {seconds:.2} |");
        }
    }
    Ok(())
}

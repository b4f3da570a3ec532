//! A response from a server that may be hostile: the first byte says in what pieces it arrives.
#![no_main]

#[path = "../../src/http.rs"]
#[allow(dead_code, unreachable_pub)]
mod http;

use std::io::{self, Read};

const LIMIT: usize = 600;

struct Pieces<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.step.min(self.bytes.len()).min(buffer.len());
        let (now, later) = self.bytes.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.bytes = later;
        Ok(len)
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let read = |step| http::read_ok(&mut Pieces { bytes, step }, LIMIT).ok();
    let whole = read(usize::MAX);
    assert!(whole.as_ref().is_none_or(|body| body.len() <= LIMIT));
    assert_eq!(read(usize::from(*step) + 1), whole, "the pieces do not matter");
});

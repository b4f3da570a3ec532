//! The container of a package: ar, the compressed members, the control archive.
#![no_main]

#[path = "../../src/deb/archive.rs"]
#[allow(dead_code, unreachable_pub)]
mod archive;

use std::io::{self, Write};

/// Takes little: what unpacks to more is not the parser's matter.
struct Little(usize);

impl Write for Little {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut parts) = archive::Parts::open(bytes) else { return };
    if parts.control().is_ok() && parts.data(&mut Little(1 << 20)).is_ok() {
        assert!(parts.drain().is_ok(), "memory can be read");
    }
});

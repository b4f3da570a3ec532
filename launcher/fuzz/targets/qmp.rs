//! What QEMU's monitor says, in whatever pieces: lines and messages are bounded.
#![no_main]

#[path = "../../src/qmp.rs"]
#[allow(dead_code, unreachable_pub)]
mod qmp;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else { return };
    let read = |step: usize| {
        let (mut lines, mut messages) = (qmp::Lines::default(), Vec::new());
        for piece in bytes.chunks(step) {
            let pushed = lines.push(piece, |line| {
                messages.push(qmp::parse(line)?);
                Ok(())
            });
            if pushed.is_err() {
                return None;
            }
        }
        Some(messages)
    };
    let whole = read(usize::MAX);
    assert_eq!(read(usize::from(*step) + 1), whole, "the pieces do not matter");
});

//! What the module exports beside the functions of `casemate_wasm`, whose memory it shares.
#![expect(unsafe_code, reason = "memory is handed over a boundary that knows only numbers")]

use casemate_wasm::abi::Answer;

/// Takes a request about signatures back and answers it; as `casemate_answer` in everything else.
///
/// # Safety
/// `request` is what `casemate_alloc` gave for this `len`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn casemate_signatures(request: *mut u8, len: usize) -> *mut Answer {
    crate::install();
    // SAFETY: the caller says of `request` what is asked for.
    unsafe { casemate_wasm::abi::answer_by(request, len, crate::answer) }
}

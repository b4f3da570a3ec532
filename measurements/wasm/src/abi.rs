//! The three functions that the module exports; everything else of it is safe code.
#![expect(unsafe_code, reason = "memory is handed over a boundary that knows only numbers")]

/// Most bytes of a request: evidence of the longest kind with its manifest.
const MAX_REQUEST: usize = 32 * 1024 * 1024;

/// Where an answer is, in the module's memory.
#[repr(C)]
#[derive(Debug)]
pub struct Answer {
    text: *mut u8,
    len: usize,
}

/// Makes room for a request of `len` bytes; null when that is more than any request needs.
#[unsafe(no_mangle)]
pub extern "C" fn casemate_alloc(len: usize) -> *mut u8 {
    if len > MAX_REQUEST {
        return std::ptr::null_mut();
    }
    let room: Box<[u8]> = vec![0; len].into_boxed_slice();
    Box::into_raw(room).cast()
}

/// Takes the request back and answers it.
///
/// # Safety
/// `request` is what [`casemate_alloc`] gave for this `len`, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn casemate_answer(request: *mut u8, len: usize) -> *mut Answer {
    // SAFETY: the caller says of `request` what is asked for.
    unsafe { answer_by(request, len, crate::answer) }
}

/// The same for another function, for modules that export more than this one.
///
/// # Safety
/// As for [`casemate_answer`].
pub unsafe fn answer_by(
    request: *mut u8,
    len: usize,
    answer: impl FnOnce(&[u8]) -> Vec<u8>,
) -> *mut Answer {
    // SAFETY: the caller got it from `casemate_alloc`, which made it of a box of `len` bytes.
    let request = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(request, len)) };
    let text = answer(&request).into_boxed_slice();
    let len = text.len();
    Box::into_raw(Box::new(Answer { text: Box::into_raw(text).cast(), len }))
}

/// Takes an answer back once it was read.
///
/// # Safety
/// `answer` is what [`casemate_answer`] gave, and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn casemate_free(answer: *mut Answer) {
    // SAFETY: the caller got it from `casemate_answer`, which made both of boxes.
    unsafe {
        let Answer { text, len } = *Box::from_raw(answer);
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(text, len)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_there_and_back() {
        assert!(casemate_alloc(MAX_REQUEST + 1).is_null());
        for request in [b"".as_slice(), b"no request"] {
            let at = casemate_alloc(request.len());
            // SAFETY: as a host does it: the room is as long as the request.
            let text = unsafe {
                std::ptr::copy_nonoverlapping(request.as_ptr(), at, request.len());
                let answer = casemate_answer(at, request.len());
                let text = std::slice::from_raw_parts((*answer).text, (*answer).len).to_vec();
                casemate_free(answer);
                text
            };
            assert_eq!(text, crate::answer(request));
        }
    }
}

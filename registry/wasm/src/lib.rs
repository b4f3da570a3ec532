//! Judges the signatures of a release inside a WebAssembly host, above all a page: by the code that
//! `casemate release verify` runs, so with certificates, logs and timestamps too. What is judged
//! and by whom is in the request; the host has but to say what time it is (WASI).

pub mod abi;
mod crypto;
mod request;

pub use crypto::install;
pub use request::{Answer, Request, RequestError, Verified};

use casemate_measurements::causes;

/// Answers a request, both as JSON: `{"signatures": …}`, or `{"error": …}` when nothing was judged.
#[must_use]
pub fn answer(request: &[u8]) -> Vec<u8> {
    let answer = match Request::parse(request).and_then(Request::judge) {
        Ok(verified) => Answer::Signatures(verified),
        Err(error) => Answer::Error(causes::in_one_line(&error)),
    };
    serde_json::to_vec(&answer).unwrap_or_else(|_| br#"{"error":"no answer"}"#.to_vec())
}

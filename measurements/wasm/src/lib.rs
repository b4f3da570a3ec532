//! Judges reports and evidence inside a WebAssembly host: a page, Node.js, another verifier.
//!
//! A request is JSON, and so is its answer. The module imports nothing, so it has no clock, no
//! network and no randomness: the host says what time it is, made the nonce, and looked at the
//! TLS session. Whether it said the truth is not judged here.

pub mod abi;
mod request;

pub use request::{EvidenceRequest, ReportRequest, Request, RequestError};

use casemate_measurements::causes;
use serde::Serialize;

/// What a request is answered with.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The verdict; whether it is a good one stands in it.
    Verdict(serde_json::Value),
    /// The request made no sense, so nothing was judged.
    Error(String),
}

/// Answers a request, both as JSON: `{"verdict": …}`, or `{"error": …}` when nothing was judged.
#[must_use]
pub fn answer(request: &[u8]) -> Vec<u8> {
    let answer = match Request::parse(request).and_then(|request| request.judge()) {
        Ok(verdict) => Answer::Verdict(verdict),
        Err(error) => Answer::Error(causes::in_one_line(&error)),
    };
    serde_json::to_vec(&answer).unwrap_or_else(|_| br#"{"error":"no answer"}"#.to_vec())
}

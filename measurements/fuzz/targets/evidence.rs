//! Whole evidence as bytes, through every check of both questions.
#![no_main]

#[path = "../scene.rs"]
mod scene;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| scene::get().judge(bytes));

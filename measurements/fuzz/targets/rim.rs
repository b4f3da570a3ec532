//! A reference integrity manifest: none but NVIDIA's own is believed.
#![no_main]

use std::sync::OnceLock;

use casemate_measurements::chain::UnixTime;
use casemate_measurements::gpu::rim::RimStore;
use casemate_measurements::roots::Roots;

static ROOTS: OnceLock<Roots> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let roots = ROOTS.get_or_init(|| Roots::amd().expect("pinned roots"));
    let mut store = RimStore::default();
    if store.add(bytes).is_ok() {
        // 2026-06-01, when the seed's own certificates are valid.
        assert!(store.verify_each(roots, UnixTime(1_780_272_000)).all(|(.., one)| one.is_err()));
    }
});

//! The host's certificate table, and the chain in it: only the very certificates that belong to
//! the report endorse its key.
#![no_main]

#[path = "../scene.rs"]
mod scene;

use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::EndorsedKey;
use casemate_measurements::platform::Platform;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(table) = CertificateTable::parse(bytes) else { return };
    let written = table.encode().expect("a part of what was read is no longer");
    assert_eq!(CertificateTable::parse(&written).as_ref(), Ok(&table));
    let scene = scene::get();
    for platform in [Platform::Simulated, Platform::Snp] {
        let key = EndorsedKey::verify(&table, &scene.report, platform, &scene.roots, scene.now);
        if key.is_ok() {
            assert_eq!(platform, Platform::Simulated);
            assert_eq!((&table.vcek, &table.ask), (&scene.table.vcek, &scene.table.ask));
        }
    }
});

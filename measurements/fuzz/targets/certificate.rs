//! One certificate of an otherwise good chain: the first byte says which. Another one is refused.
#![no_main]

#[path = "../scene.rs"]
mod scene;

use casemate_measurements::chain::EndorsedKey;
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((which, certificate)) = bytes.split_first() else { return };
    let scene = scene::get();
    let mut table = scene.table.clone();
    let slot = match which % 4 {
        0 => &mut table.vcek,
        1 => &mut table.ask,
        2 => &mut table.ark,
        _ => {
            // A root that a person was made to give: it need not be this one, only no trouble.
            let _ = Roots::amd().expect("pinned").with_simulated(certificate);
            return;
        }
    };
    let same = slot.replace(certificate.to_vec()).as_deref() == Some(certificate);
    let platform = Platform::Simulated;
    let key = EndorsedKey::verify(&table, &scene.report, platform, &scene.roots, scene.now);
    assert!(same || key.is_err(), "another certificate passes");
});

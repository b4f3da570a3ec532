//! Good evidence with some of its bytes changed, each field's own: every change that matters is
//! refused, however deep it lies. A change is four bytes: field, place (two), difference.
#![no_main]

#[path = "../scene.rs"]
mod scene;

use casemate_measurements::evidence::Evidence;

fn change(bytes: &mut [u8], place: [u8; 2], difference: u8) {
    let place = usize::from(u16::from_le_bytes(place));
    if let Some(len) = bytes.len().checked_sub(1) {
        bytes[place % (len + 1)] ^= difference;
    }
}

fn change_text(text: &mut String, place: [u8; 2], difference: u8) {
    let mut bytes = std::mem::take(text).into_bytes();
    // Below 0x80 the text stays UTF-8, which JSON asks for.
    change(&mut bytes, place, difference & 0x7f);
    *text = String::from_utf8_lossy(&bytes).into_owned();
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scene = scene::get();
    let mut evidence: Evidence = scene.evidence.clone();
    for change_of in bytes.chunks_exact(4).take(8) {
        let (place, difference) = ([change_of[1], change_of[2]], change_of[3]);
        match change_of[0] % 6 {
            0 => change(&mut evidence.report.0, place, difference),
            1 => change(&mut evidence.certificates.0, place, difference),
            2 => change_text(&mut evidence.binding, place, difference),
            3 => change_text(&mut evidence.launch_config, place, difference),
            4 => {
                let mut nonce = *evidence.nonce.as_bytes();
                change(&mut nonce, place, difference);
                evidence.nonce = casemate_measurements::hash::Nonce::from_bytes(nonce);
            }
            _ => evidence.gpu_evidence = Some(format!("{place:?}")),
        }
    }
    scene.judge(&serde_json::to_vec(&evidence).expect("evidence can be written"));
});

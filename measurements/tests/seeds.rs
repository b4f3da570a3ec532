//! Seeds for the fuzz targets in `fuzz/`, made from what the tests make anyway, so that no binary
//! lies in the repository: a folder per target, and the good evidence that they change.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "seeds take the good ones only")]
mod amd;
#[expect(dead_code, reason = "seeds take the good ones only")]
mod nvidia;
mod ovmf;
mod release;
#[expect(dead_code, reason = "seeds take the good ones only")]
mod scene;

use std::path::Path;

use casemate_measurements::hash::Nonce;
use casemate_measurements::simulated::{self, Response};

/// Where tests/fuzz.sh looks for them.
const FOLDER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/fuzz");

fn write(folder: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(FOLDER).join(folder);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), bytes).unwrap();
}

#[test]
fn seeds_are_good() {
    let scene = scene::scene();
    let evidence = scene.evidence();
    let verdict = scene.judge(&evidence);
    assert!(verdict.is_accepted(), "{verdict}");
    let json = serde_json::to_vec(&evidence).unwrap();
    let manifest = scene.manifest.to_bytes().unwrap();
    let maker = amd::Maker::get();
    write("scene", "evidence.json", &json);
    write("scene", "manifest.json", &manifest);
    write("scene", "ark.der", &maker.ark);
    write("scene", "now.json", scene.now.0.to_string().as_bytes());

    let firmware = ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS));
    write("seeds/firmware", "good", &firmware[firmware.len() - 0x700..]);
    write("seeds/law", "good", &serde_json::to_vec(&scene.manifest.law).unwrap());
    write("seeds/manifest", "good", &manifest);
    write("seeds/report", "good", &evidence.report.0);
    write("seeds/table", "good", &evidence.certificates.0);
    let vcek = scene.table.vcek.as_deref().unwrap();
    for (which, certificate) in (0..).zip([vcek, &maker.ask, &maker.ark, &maker.ark]) {
        write("seeds/certificate", &format!("good{which}"), &[&[which], certificate].concat());
    }
    write("seeds/evidence", "good", &json);
    for field in 0..6 {
        write("seeds/verdict", &format!("field{field}"), &[field, 0x50, 0, 1]);
    }
    let nonce = Nonce::from_bytes([0x42; 32]);
    for (name, device) in
        [("gpu", nvidia::Device::hopper(1, nonce)), ("switch", nvidia::Device::switch(1, nonce))]
    {
        write("seeds/spdm", name, &device.evidence().report.0);
        write("seeds/spdm", &format!("{name}-opaque"), &device.opaque_bytes());
    }
    write("seeds/rim", "good", nvidia::Rim::all()[0].xml().as_bytes());
    write("seeds/words", "cmdline", scene.manifest.boot.cmdline.as_bytes());
    write("seeds/words", "config", evidence.launch_config.as_bytes());
    let (report, certificates) = (evidence.report.0.clone(), evidence.certificates.0.clone());
    let answer = Response::Report { report, certificates };
    for (name, response) in [("answer", answer), ("refusal", Response::Refused("no".into()))] {
        write("seeds/words", name, &simulated::encode_response(&response).unwrap());
    }
}

//! A law as JSON: what is read can be measured, one by one and as a matrix.
#![no_main]

use casemate_measurements::launch::Shape;
use casemate_measurements::law::Law;

const SHAPES: &str = r#"[
    {"vmm":"qemu","cpu_model":"EPYC-v4","guest_features":"0x1","vcpus":2},
    {"vmm":"ec2","cpu_model":"EPYC-Milan","guest_features":"0x21","vcpus":1},
    {"vmm":"qemu","cpu_model":"EPYC-v4","guest_features":"0x1","vcpus":1}
]"#;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(law) = serde_json::from_slice::<Law>(bytes) else { return };
    let json = serde_json::to_vec(&law).expect("a law can be written");
    assert_eq!(serde_json::from_slice::<Law>(&json).expect("and read"), law);
    // Long sections cost time, not memory; a fuzzer has little of it.
    if law.layout().sections.iter().map(|section| section.size / 4096).sum::<u32>() > 64 {
        return;
    }
    let shapes: Vec<Shape> = serde_json::from_str(SHAPES).expect("they are shapes");
    for (shape, digest) in shapes.iter().zip(law.matrix(&shapes)) {
        assert_eq!(law.digest(shape), digest);
    }
});

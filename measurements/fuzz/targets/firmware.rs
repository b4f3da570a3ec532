//! Firmware files from anyone: the tables at the end, padded to whole pages in front.
#![no_main]

use casemate_measurements::firmware::{Firmware, Layout, MAX_SECTION_PAGES, MAX_SECTIONS, PAGE_LEN};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::law::Law;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(layout) = Layout::parse(bytes) else { return };
    assert_eq!(layout.check(), Ok(()));
    assert!(layout.sections.len() <= MAX_SECTIONS);
    let pages: u32 = layout.sections.iter().map(|section| section.size / 4096).sum();
    assert!(pages <= MAX_SECTION_PAGES);

    let mut file = vec![0xff; bytes.len().next_multiple_of(PAGE_LEN) - bytes.len()];
    file.extend_from_slice(bytes);
    let Ok(firmware) = Firmware::parse(&file) else { return };
    assert_eq!(firmware.layout, layout, "a suffix says what the file says");
    let hashes = KernelHashes::of(b"kernel", b"initrd", b"cmdline");
    let Ok(law) = Law::new(&firmware, &hashes) else { return };
    let json = serde_json::to_string(&law).expect("a law can be written");
    assert_eq!(serde_json::from_str::<Law>(&json).expect("and read"), law);
});

//! Paragraphs of Packages, Release and control files, and the order of versions.
#![no_main]

#[path = "../../src/deb/control.rs"]
#[allow(dead_code, unreachable_pub)]
mod control;
#[path = "../../src/archive/version.rs"]
#[allow(dead_code, unreachable_pub)]
mod version;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let mut versions = Vec::new();
    for paragraph in control::paragraphs(text) {
        for (name, value) in paragraph.fields() {
            assert!(paragraph.field(name).is_some());
            assert_eq!(value, value.trim());
        }
        let control = control::Control::new(paragraph.text().to_owned());
        let _ = (control.source(), control.depends().count());
        versions.extend(paragraph.field("Version"));
    }
    for pair in versions.windows(2) {
        let order = version::compare(pair[0], pair[1]);
        assert_eq!(version::compare(pair[1], pair[0]), order.reverse());
        assert!(version::compare(pair[0], pair[0]).is_eq());
    }
});

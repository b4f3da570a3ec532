//! Reports: what is read is every byte of what came.
#![no_main]

use casemate_measurements::report::{Report, SIGNED_LEN};
use casemate_measurements::tcb::Tcb;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = Report::parse(bytes) else { return };
    assert_eq!(report.as_bytes(), bytes);
    assert_eq!(report.signed_bytes(), &bytes[..SIGNED_LEN]);
    assert_eq!(report.measurement().as_bytes()[..], bytes[0x90..0xc0]);
    if let Some(product) = report.product() {
        let raw = report.reported_tcb();
        assert!(Tcb::from_raw(raw, product).is_none_or(|tcb| tcb.to_raw(product) == raw));
    }
});

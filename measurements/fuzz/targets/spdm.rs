//! The report of a GPU or a switch, and what NVIDIA's firmware adds to it.
#![no_main]

use casemate_measurements::gpu::opaque::Opaque;
use casemate_measurements::gpu::spdm::UnverifiedReport;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    _ = UnverifiedReport::parse(bytes);
    let Ok(opaque) = Opaque::parse(bytes) else { return };
    _ = (opaque.driver_version(), opaque.vbios_version(), opaque.board(), opaque.chip_info());
    _ = (opaque.fwid(), opaque.nvdec0_enabled(), opaque.mode(), opaque.switch_pdi());
    let links = opaque.switches_of_gpu().map_or(0, |pdis| pdis.len());
    assert!(links <= bytes.len() / 8);
    assert!(opaque.gpus_of_switch().map_or(0, |pdis| pdis.len()) <= 8);
});

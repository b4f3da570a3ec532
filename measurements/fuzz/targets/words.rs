//! The small formats: command line, launch config, and what the simulated processor sends.
#![no_main]

use casemate_measurements::cmdline::{self, BootParams};
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::simulated;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(line) = str::from_utf8(bytes) {
        let _ = cmdline::check_base(line);
        if let Ok(params) = BootParams::from_cmdline(line) {
            assert_eq!(BootParams::from_cmdline(&params.append_to("quiet")), Ok(params));
        }
    }
    if let Ok(config) = LaunchConfig::from_bytes(bytes) {
        assert_eq!(config.to_bytes().expect("it was read"), bytes);
    }
    let _ = simulated::decode_request(bytes);
    if let Ok(Some((response, len))) = simulated::decode_response(bytes) {
        let written = simulated::encode_response(&response).expect("it was read");
        assert_eq!(written, bytes[..len]);
    }
});

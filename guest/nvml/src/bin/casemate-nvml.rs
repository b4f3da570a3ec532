//! `/usr/lib/casemate/nvml` of images with a driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_nvml::main()
}

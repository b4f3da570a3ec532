//! `/usr/lib/casemate/gpu` of images with a driver.

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_guest::gpu::main()
}

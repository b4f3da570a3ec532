//! `/usr/lib/casemate/agent` of the root file system.

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_guest::agent::main()
}

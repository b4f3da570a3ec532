//! `/init` of the initrd.

fn main() {
    casemate_guest::init::main();
}

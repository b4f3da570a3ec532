//! Where the vectors of other programs and of real hardware are: `$CASEMATE_VECTORS`, else
//! `../shared/vectors` beside the repository. Tests skip with a printed reason without them, and
//! fail instead when `CASEMATE_REQUIRE` names `vectors`.

use std::path::PathBuf;

/// The folder; `None`, after printing why, where there is none.
pub(crate) fn folder() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors");
    let folder = std::env::var_os("CASEMATE_VECTORS").map_or_else(|| default.into(), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    let reason = format!("no vectors in {} (set CASEMATE_VECTORS)", folder.display());
    assert!(!required.split(',').any(|name| name == "vectors"), "{reason}");
    println!("skipped: {reason}");
    None
}

/// Reads a file of the vectors.
pub(crate) fn read(name: &str) -> Option<Vec<u8>> {
    let path = folder()?.join(name);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

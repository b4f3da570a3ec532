//! The text of a lock, and how a file is replaced whole.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use super::{Lock, LockedFile, SCHEMA};

/// The text: fields in a fixed order, so that one lock has one text.
pub(super) fn text(lock: &Lock) -> String {
    let mut text = format!(
        "# Made by `casemate image lock`. Each package is named by hash; edit the recipe, not this.\n\
         schema = {SCHEMA}\nrequest = \"{}\"\n",
        lock.request
    );
    // Writing to a String cannot fail, so the results are dropped.
    for suite in &lock.suites {
        let _ = write!(
            text,
            "\n[[suite]]\narchive = \"{}\"\nname = \"{}\"\ndate = {}\nrelease_sha256 = \"{}\"\n\
             signer = \"{}\"\n",
            suite.archive,
            suite.name,
            toml::Value::String(suite.date.clone()),
            suite.release_sha256,
            suite.signer,
        );
    }
    for source in &lock.sources {
        let _ = write!(
            text,
            "\n[[source]]\nstage = \"{}\"\nname = \"{}\"\nversion = \"{}\"\narchive = \"{}\"\n\
             suite = \"{}\"\nfiles = [\n",
            source.stage, source.name, source.version, source.archive, source.suite,
        );
        for LockedFile { path, size, sha256 } in &source.files {
            let _ =
                writeln!(text, "  {{ path = \"{path}\", size = {size}, sha256 = \"{sha256}\" }},");
        }
        text.push_str("]\n");
    }
    for package in &lock.packages {
        let closures: Vec<String> =
            package.closures.iter().map(|closure| format!("\"{closure}\"")).collect();
        let _ = write!(
            text,
            "\n[[package]]\nname = \"{}\"\nversion = \"{}\"\narchitecture = \"{}\"\n\
             archive = \"{}\"\nsuite = \"{}\"\npath = \"{}\"\nsize = {}\nsha256 = \"{}\"\n\
             closures = [{}]\n",
            package.name,
            package.version,
            package.architecture,
            package.archive,
            package.suite,
            package.path,
            package.size,
            package.sha256,
            closures.join(", "),
        );
    }
    text
}

/// Replaces `path` in `dir` with `bytes`: after a crash it holds the old or the new text.
pub(super) fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut file = tempfile::Builder::new().prefix(".image.lock.").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

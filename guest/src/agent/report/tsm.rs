//! Reports through configfs-tsm (`Documentation/ABI/testing/configfs-tsm-report` of Linux).
//!
//! An entry is a directory that the kernel fills with files: `inblob` takes `REPORT_DATA`,
//! `outblob` gives the report, `auxblob` the certificate table. `generation` counts requests:
//! when it moved between asking and reading, the blob may answer somebody else.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::hash::ReportData;

use super::{MAX_CERTIFICATES, Quote, ReportError};

/// The directory of entries, below the root.
pub(super) const REPORTS: &str = "sys/kernel/config/tsm/report";
const ENTRY: &str = "casemate";
const PROVIDER: &str = "sev_guest";

/// Makes an entry, asks with it, and takes it away again.
pub(super) fn report(reports: &Path, data: &ReportData) -> Result<Quote, ReportError> {
    let entry = reports.join(ENTRY);
    // Left behind if the agent died in between; nobody else may write here.
    let _ = fs::remove_dir(&entry);
    fs::create_dir(&entry).map_err(io_error("create", &entry))?;
    let outcome = ask(&entry, data);
    let _ = fs::remove_dir(&entry);
    outcome
}

fn ask(entry: &Path, data: &ReportData) -> Result<Quote, ReportError> {
    let provider = entry.join("provider");
    let found = text(&provider)?;
    if found != PROVIDER {
        return Err(ReportError::Content { path: provider, found, expected: PROVIDER });
    }
    let inblob = entry.join("inblob");
    // In one write: each starts a request of its own.
    fs::write(&inblob, data.as_bytes()).map_err(io_error("write", &inblob))?;
    let expected = generation(entry)?;
    let report = blob(&entry.join("outblob"), REPORT_LEN)?;
    let auxblob = entry.join("auxblob");
    let certificates = match blob(&auxblob, MAX_CERTIFICATES) {
        Err(ReportError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => vec![],
        outcome => outcome?,
    };
    let found = generation(entry)?;
    if found != expected {
        return Err(ReportError::Generation { found, expected });
    }
    Quote::new(&report, certificates)
}

fn generation(entry: &Path) -> Result<u64, ReportError> {
    let path = entry.join("generation");
    let found = text(&path)?;
    found.parse().map_err(|_| ReportError::Content { path, found, expected: "a number" })
}

fn text(path: &Path) -> Result<String, ReportError> {
    let bytes = blob(path, 64)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
}

/// Reads a file, and one byte more than it may have, so that a longer one is noticed.
fn blob(path: &Path, limit: usize) -> Result<Vec<u8>, ReportError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(io_error("read", path))?;
    Ok(bytes)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    const DATA: ReportData = ReportData::from_bytes([5; 64]);

    fn entry(dir: &Path) -> PathBuf {
        let entry = dir.join(ENTRY);
        fs::create_dir(&entry).unwrap();
        fs::write(entry.join("provider"), "sev_guest\n").unwrap();
        fs::write(entry.join("generation"), "1\n").unwrap();
        fs::write(entry.join("outblob"), [9; REPORT_LEN]).unwrap();
        entry
    }

    #[test]
    fn an_entry_is_asked_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        let quote = ask(&entry, &DATA).unwrap();
        assert_eq!(quote.into_parts(), (vec![9; REPORT_LEN], vec![]));
        assert_eq!(fs::read(entry.join("inblob")).unwrap(), DATA.as_bytes());
        fs::write(entry.join("auxblob"), [1, 2, 3]).unwrap();
        assert_eq!(ask(&entry, &DATA).unwrap().into_parts().1, [1, 2, 3]);
    }

    #[test]
    fn nonsense_is_refused() {
        for (file, content) in [
            ("provider", b"tdx_guest\n".to_vec()),
            ("generation", b"x\n".to_vec()),
            ("outblob", vec![0; REPORT_LEN + 1]),
            ("outblob", vec![]),
            ("auxblob", vec![0; MAX_CERTIFICATES + 1]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let entry = entry(dir.path());
            fs::write(entry.join(file), content).unwrap();
            assert!(ask(&entry, &DATA).is_err(), "{file}");
        }
    }

    #[test]
    fn a_generation_that_moves_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        let path = entry.join("generation");
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn(move || {
            fs::write(&path, "1\n").unwrap();
            // The first reader must be gone before the second value is there for another.
            std::thread::sleep(std::time::Duration::from_millis(200));
            fs::write(&path, "2\n").unwrap();
        });
        let error = ask(&entry, &DATA).unwrap_err();
        assert!(matches!(error, ReportError::Generation { found: 2, expected: 1 }), "{error}");
        writer.join().unwrap();
    }
}

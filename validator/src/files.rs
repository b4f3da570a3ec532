//! Reports, certificates and revocation lists in files that a verifier names by hand.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use casemate_measurements::certificate_files::{self, CertificateFileError, Found};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::Role;
use casemate_measurements::evidence::{self, REPORT_LEN};
use casemate_measurements::gpu::rim::{MAX_RIM_LEN, RimError, RimStore};
use casemate_measurements::report::{self, ReplyError, Report, ReportError, SigningKey};
use casemate_measurements::revocation::{self, RevocationError, RevocationList};

/// Most bytes of a report or of certificates.
const MAX_LEN: usize = 64 * 1024;

/// Why a file cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("{} has more than {most} bytes: no {what} is that long", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The most bytes that are read.
        most: usize,
    },
    /// It is a report in another spelling.
    #[error(
        "{} holds text that looks like {form}: expected the {REPORT_LEN} bytes of a report \
         themselves; decode it first, as with `{tool}`",
        path.display()
    )]
    Spelling {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        form: &'static str,
        /// What decodes it.
        tool: &'static str,
    },
    /// It holds no report.
    #[error("{} holds no report to judge", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        source: ReplyError,
    },
    /// It is a report that this program cannot read.
    #[error("{} cannot be read: a newer casemate may know it", path.display())]
    NewReport {
        /// The file.
        path: PathBuf,
        /// Which one it is.
        source: ReportError,
    },
    /// It holds no certificates that can be used.
    #[error("the certificates in {} cannot be used", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateFileError,
    },
    /// It holds other certificates than the one that it was named for.
    #[error("{} holds {found}, expected the {expected} certificate of the report's chain", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// The certificate that is not there.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// It is no text.
    #[error("{} is no text: expected JSON", path.display())]
    Text {
        /// The file.
        path: PathBuf,
    },
    /// It is no reference integrity manifest.
    #[error("{} is no reference integrity manifest that can be used", path.display())]
    GpuManifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RimError,
    },
    /// There is no reference integrity manifest.
    #[error("{} holds no *.swidtag: expected NVIDIA's reference integrity manifests", path.display())]
    NoGpuManifest {
        /// The directory.
        path: PathBuf,
    },
    /// It is no revocation list.
    #[error("{} is no revocation list that can be judged", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RevocationError,
    },
}

fn read(path: &Path, what: &'static str, most: usize) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    // One byte more tells "as long as may be" from "longer".
    File::open(path)
        .and_then(|file| file.take(most as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| FileError::Read { path: path.into(), source })?;
    if bytes.len() > most {
        return Err(FileError::TooLong { path: path.into(), what, most });
    }
    Ok(bytes)
}

/// Reads evidence of GPUs; whether it is any is judged later.
///
/// # Errors
/// When the file cannot be read, is too long, or is no text.
pub fn gpu_evidence(path: &Path) -> Result<String, FileError> {
    let bytes = read(path, "evidence of GPUs", evidence::MAX_LEN)?;
    String::from_utf8(bytes).map_err(|_| FileError::Text { path: path.into() })
}

/// Reads every reference integrity manifest, `*.swidtag`, in a directory. Their signatures are
/// verified when they are used.
///
/// # Errors
/// When the directory or a file cannot be read, a file is no manifest, or there is none.
pub fn gpu_manifests(dir: &Path) -> Result<RimStore, FileError> {
    let refused = |source| FileError::Read { path: dir.into(), source };
    let mut store = RimStore::default();
    for entry in dir.read_dir().map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if path.extension().is_some_and(|extension| extension == "swidtag") {
            let bytes = read(&path, "reference integrity manifest", MAX_RIM_LEN)?;
            store.add(&bytes).map_err(|source| FileError::GpuManifest { path, source })?;
        }
    }
    if store.is_empty() {
        return Err(FileError::NoGpuManifest { path: dir.into() });
    }
    Ok(store)
}

/// Reads a report, alone or in the device's reply; whether it is genuine is judged later.
///
/// # Errors
/// When the file cannot be read, holds none, holds its hex digits or its base64, or holds one of a
/// version that is not known.
pub fn report(path: &Path) -> Result<Vec<u8>, FileError> {
    let bytes = read(path, "report", MAX_LEN)?;
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let spelling = |form, tool| Err(FileError::Spelling { path: path.into(), form, tool });
    let base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_=".contains(byte);
    if text.len() == 2 * REPORT_LEN && text.iter().all(u8::is_ascii_hexdigit) {
        return spelling("hex digits", "xxd -r -p");
    }
    if text.len() > REPORT_LEN && text.iter().all(base64) && !text.starts_with(b"-----BEGIN") {
        return spelling("base64", "base64 -d");
    }
    let report = report::report_in(&bytes)
        .map_err(|source| FileError::NoReport { path: path.into(), source })?;
    match Report::parse(report) {
        Err(source @ ReportError::Version { .. }) => {
            Err(FileError::NewReport { path: path.into(), source })
        }
        // What is wrong with any other one is told by the verdict.
        _ => Ok(report.to_vec()),
    }
}

/// Reads the certificates for `report`: of the key that signed it, and of the intermediate. Each is
/// found by its content in either file, in whatever shape it is there, and its root too.
///
/// # Errors
/// When a file cannot be read, holds no certificate or a damaged one, or when neither holds the
/// certificate that it was named for.
pub fn certificates(
    report: &[u8],
    vek: Option<&Path>,
    ask: Option<&Path>,
) -> Result<CertificateTable, FileError> {
    let find = |path: Option<&Path>| -> Result<Vec<Found>, FileError> {
        let Some(path) = path else { return Ok(Vec::new()) };
        let bytes = read(path, "certificate chain", MAX_LEN)?;
        certificate_files::find(&bytes)
            .map_err(|source| FileError::Certificates { path: path.into(), source })
    };
    let (in_vek, in_ask) = (find(vek)?, find(ask)?);
    let all: Vec<Found> = in_vek.iter().chain(&in_ask).cloned().collect();
    let parsed = Report::parse(report);
    let key = parsed.as_ref().map_or(SigningKey::Vcek, Report::signing_key);
    let table = certificate_files::chain(&all, key).map_err(|source| FileError::Certificates {
        path: vek.or(ask).unwrap_or(Path::new("")).into(),
        source,
    })?;
    // Of a report that is none, the verdict says so before it looks for a certificate.
    if parsed.is_err() {
        return Ok(table);
    }
    let (role, leaf) = match key {
        SigningKey::Vcek => ("VCEK", &table.vcek),
        SigningKey::Vlek => ("VLEK", &table.vlek),
    };
    for (path, found, expected, there) in
        [(vek, &in_vek, role, leaf.is_some()), (ask, &in_ask, "ASK", table.ask.is_some())]
    {
        if let Some(path) = path.filter(|_| !there) {
            let found = described(found);
            return Err(FileError::Lacks { path: path.into(), expected, found });
        }
    }
    Ok(table)
}

/// What certificates are for, in words.
fn described(found: &[Found]) -> String {
    let one = |found: &Found| match found.role {
        Some(role @ (Role::Ark | Role::Ask)) => format!("an {role}"),
        Some(role) => format!("a {role}"),
        None => "a certificate of no chain of AMD's".to_owned(),
    };
    found.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Reads revocation lists.
///
/// # Errors
/// When a file cannot be read or holds something else.
pub fn revocation_lists(paths: &[PathBuf]) -> Result<Vec<RevocationList>, FileError> {
    let list = |path: &PathBuf| {
        let bytes = read(path, "revocation list", revocation::MAX_LEN)?;
        RevocationList::parse(&bytes)
            .map_err(|source| FileError::List { path: path.clone(), source })
    };
    paths.iter().map(list).collect()
}

/// The first certificate of PEM with several, and the rest, as AMD hands out intermediate and
/// root. What is not PEM is one certificate.
pub(crate) fn split_chain(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    const END: &[u8] = b"-----END CERTIFICATE-----";
    let end = bytes.windows(END.len()).position(|window| window == END);
    let (first, rest) = bytes.split_at(end.map_or(bytes.len(), |at| at + END.len()));
    let rest = rest.trim_ascii();
    (first, Some(rest).filter(|rest| !rest.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn a_report_in_another_spelling_is_named() {
        let mut bytes: Vec<u8> = (0..=255).cycle().take(REPORT_LEN).collect();
        bytes[..4].copy_from_slice(&[3, 0, 0, 0]);
        let (_dir, path) = written(&bytes);
        assert_eq!(report(&path).unwrap(), bytes);
        let hex = hex::encode(&bytes);
        let base64 = "A/+=".repeat(396);
        for (text, tool) in [
            (hex.clone(), "xxd"),
            (format!("{}\n{}\n", &hex[..100], &hex[100..]), "xxd"),
            (base64, "base64 -d"),
        ] {
            let (_dir, path) = written(text.as_bytes());
            let error = report(&path).unwrap_err().to_string();
            assert!(error.contains(tool) && error.contains("1184"), "{error}");
        }
    }

    #[test]
    fn files_are_bounded_and_errors_name_them() {
        let (_dir, path) = written(&vec![0; MAX_LEN + 1]);
        let errors = [
            report(&path).unwrap_err(),
            certificates(&[], Some(&path), None).unwrap_err(),
            revocation_lists(&[path.with_extension("none")]).unwrap_err(),
        ];
        for error in errors {
            let (text, dir) = (error.to_string(), path.parent().unwrap().display().to_string());
            assert!(text.contains(&dir), "{text}");
        }
        let (_dir, path) = written(b"junk");
        assert!(matches!(revocation_lists(&[path]), Err(FileError::List { .. })));
    }

    #[test]
    fn a_chain_is_the_intermediate_and_then_the_root() {
        let pem = |name| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
        let (one, two) = (pem("one"), pem("two"));
        let both = format!("{one}\n{two}\n");
        assert_eq!(split_chain(both.as_bytes()), (one.as_bytes(), Some(two.as_bytes())));
        assert_eq!(split_chain(format!("{one}\n\n").as_bytes()), (one.as_bytes(), None));
        assert_eq!(split_chain(b"\x30\x82der"), (&b"\x30\x82der"[..], None));
    }
}

//! Whether an archive's Release file was signed by a key that the recipe names.
//!
//! Key files are only where keys are found: what is believed is the fingerprint in the recipe.
//! Signatures are checked by the machine's `gpgv`, whose word is read from its status lines.

use std::path::{Path, PathBuf};

use crate::process::{Process, ProcessError};
use crate::recipe::Fingerprint;

/// Folders where a Debian machine keeps the keys of archives.
const FOLDERS: [&str; 3] = ["/usr/share/keyrings", "/etc/apt/keyrings", "/etc/apt/trusted.gpg.d"];

/// The most key files that are given to gpgv, which takes no more than 40.
const MOST_FILES: usize = 32;

/// How a signed text begins.
const BEGIN: &str = "-----BEGIN PGP SIGNED MESSAGE-----";

/// Why a text is not believed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// There are no keys.
    #[error("no file with keys of archives: looked in {}; name one with --keyring FILE", FOLDERS.join(", "))]
    NoKeyring,
    /// A key file could not be read or written.
    #[error("cannot use the key file {}", path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file in ASCII armour is broken.
    #[error("the key file {} is broken: {message}", path.display())]
    Armour {
        /// The file.
        path: PathBuf,
        /// In what way.
        message: &'static str,
    },
    /// The checking program could not be run.
    #[error("cannot check the signature (the program gpgv is in Debian's package gpgv)")]
    Run(#[source] ProcessError),
    /// It is not one signed text and nothing else.
    #[error("it is not one signed text and nothing else")]
    NotSigned,
    /// A signature does not fit the text.
    #[error("a signature on it is false: the text was changed after it was signed (key {key})")]
    False {
        /// The key's id or fingerprint.
        key: String,
    },
    /// None of the recipe's keys signed it.
    #[error(
        "no good signature of a key that the recipe names\n    signatures: {}\n    recipe's keys: {}",
        if found.is_empty() { "none".to_owned() } else { found.join("; ") },
        join(allowed)
    )]
    NotAllowed {
        /// What gpgv said of each signature.
        found: Vec<String>,
        /// The recipe's keys.
        allowed: Vec<Fingerprint>,
    },
}

fn join(keys: &[Fingerprint]) -> String {
    keys.iter().map(Fingerprint::as_str).collect::<Vec<_>>().join(", ")
}

/// A text and the key that vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verified {
    /// The signed text, without signature and escapes.
    pub(crate) text: String,
    /// The primary key, the first in the recipe's order of those that signed.
    pub(crate) signer: Fingerprint,
}

/// Files with keys.
#[derive(Debug, Clone)]
pub struct Keyring {
    files: Vec<PathBuf>,
}

impl Keyring {
    /// The given files; if there are none, those of the machine.
    ///
    /// # Errors
    ///
    /// If there are none at all.
    pub fn find(given: &[PathBuf]) -> Result<Self, SignatureError> {
        let mut files = given.to_vec();
        if files.is_empty() {
            for folder in FOLDERS {
                let entries = std::fs::read_dir(folder);
                let mut more: Vec<PathBuf> = entries
                    .into_iter()
                    .flatten()
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|path| {
                        path.extension().is_some_and(|e| e == "gpg" || e == "pgp" || e == "asc")
                    })
                    .collect();
                more.sort();
                files.append(&mut more);
            }
        }
        // Archive keys first, should there be more files than gpgv takes.
        files.sort_by_key(|path| !path.to_string_lossy().contains("archive"));
        files.truncate(MOST_FILES);
        if files.is_empty() { Err(SignatureError::NoKeyring) } else { Ok(Self { files }) }
    }

    /// Checks that one of `allowed` signed `signed`. `scratch` is an empty folder for this.
    ///
    /// # Errors
    ///
    /// If none did, or any signature on it is false.
    pub(crate) fn verify(
        &self,
        signed: &[u8],
        allowed: &[Fingerprint],
        scratch: &Path,
    ) -> Result<Verified, SignatureError> {
        let whole = std::str::from_utf8(signed).map_err(|_| SignatureError::NotSigned)?;
        if !whole.starts_with(BEGIN) || whole.matches(BEGIN).count() != 1 {
            return Err(SignatureError::NotSigned);
        }
        let write = |path: &Path, bytes: &[u8]| {
            std::fs::write(path, bytes)
                .map_err(|source| SignatureError::Keyring { path: path.to_owned(), source })
        };
        let input = scratch.join("signed");
        let output = scratch.join("text");
        write(&input, signed)?;
        let mut gpgv = Process::new("gpgv").arg("--homedir").arg(scratch);
        for (index, file) in self.files.iter().enumerate() {
            let bytes = std::fs::read(file)
                .map_err(|source| SignatureError::Keyring { path: file.clone(), source })?;
            let bytes =
                if bytes.starts_with(b"-----BEGIN") { dearmour(file, &bytes)? } else { bytes };
            let copy = scratch.join(format!("keys-{index}.gpg"));
            write(&copy, &bytes)?;
            gpgv = gpgv.arg("--keyring").arg(copy);
        }
        let ran = gpgv
            .args(["--status-fd", "1", "--output"])
            .arg(&output)
            .arg(&input)
            .any_status()
            .run()
            .map_err(SignatureError::Run)?;
        let key = judge(&String::from_utf8_lossy(&ran.stdout), allowed)?;
        let text = std::fs::read_to_string(&output).map_err(|_| SignatureError::NotSigned)?;
        Ok(Verified { text, signer: key })
    }
}

/// Reads gpgv's status lines: each signature begins with NEWSIG; GOODSIG says that it is right
/// and its key neither expired nor revoked; VALIDSIG then gives algorithm and primary key.
fn judge(status: &str, allowed: &[Fingerprint]) -> Result<Fingerprint, SignatureError> {
    let mut found = Vec::new();
    let mut signers = Vec::new();
    let mut good = false;
    for line in status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let key = words.get(1).copied().unwrap_or_default();
        match words[0] {
            "NEWSIG" => good = false,
            "GOODSIG" => good = true,
            "BADSIG" => return Err(SignatureError::False { key: key.to_owned() }),
            "ERRSIG" | "EXPSIG" | "EXPKEYSIG" | "REVKEYSIG" => {
                good = false;
                let what = match words[0] {
                    "ERRSIG" => "its key is in no key file",
                    "EXPSIG" => "expired",
                    "EXPKEYSIG" => "its key is expired",
                    _ => "its key is revoked",
                };
                found.push(format!("{key} ({what})"));
            }
            "VALIDSIG" => {
                let primary = words.get(10).copied().unwrap_or_default();
                // SHA-256, SHA-384 or SHA-512.
                let strong = matches!(words.get(8).copied(), Some("8" | "9" | "10"));
                if good && strong {
                    found.push(format!("{primary} (good)"));
                    signers.push(primary.to_owned());
                } else if good {
                    found.push(format!("{primary} (weak hash)"));
                }
                good = false;
            }
            _ => {}
        }
    }
    allowed
        .iter()
        .find(|key| signers.iter().any(|signer| signer == key.as_str()))
        .cloned()
        .ok_or_else(|| SignatureError::NotAllowed { found, allowed: allowed.to_vec() })
}

/// The packets inside ASCII armour, which gpgv does not read.
fn dearmour(path: &Path, bytes: &[u8]) -> Result<Vec<u8>, SignatureError> {
    use base64::Engine as _;

    let broken = |message| SignatureError::Armour { path: path.to_owned(), message };
    let text = std::str::from_utf8(bytes).map_err(|_| broken("it is no text"))?;
    let mut packets = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while lines.by_ref().any(|line| line == "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        let mut body = String::new();
        let mut ended = false;
        for line in lines.by_ref().skip_while(|line| !line.is_empty()) {
            if line == "-----END PGP PUBLIC KEY BLOCK-----" {
                ended = true;
                break;
            }
            // The line with '=' first is a checksum, which protects against nothing.
            if !line.starts_with('=') {
                body.push_str(line);
            }
        }
        if !ended {
            return Err(broken("its key block does not end"));
        }
        let more = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|_| broken("its key block is no base64"))?;
        packets.extend(more);
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

    fn signature(verdict: &str, primary: &str, hash: u32) -> String {
        format!(
            "[GNUPG:] NEWSIG\n[GNUPG:] {verdict} 0123 Name\n\
             [GNUPG:] VALIDSIG {primary} 2026-01-01 1 0 4 0 1 {hash} 01 {primary}\n"
        )
    }

    fn judge_with(status: &str, allowed: &[&str]) -> Result<String, String> {
        let allowed: Vec<Fingerprint> = allowed.iter().map(|key| key.parse().unwrap()).collect();
        judge(status, &allowed).map(|key| key.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn one_good_signature_of_a_named_key_is_enough() {
        let both = signature("GOODSIG", A, 8) + &signature("GOODSIG", B, 10);
        assert_eq!(judge_with(&both, &[B]).unwrap(), B);
        assert_eq!(judge_with(&both, &[A, B]).unwrap(), A);
        let unknown = format!("[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 99 1 8 01 1 9 -\n{both}");
        assert_eq!(judge_with(&unknown, &[A]).unwrap(), A);
    }

    #[test]
    fn other_signatures_are_not() {
        for (verdict, hash, expected) in [
            ("EXPKEYSIG", 8, "0123 (its key is expired)"),
            ("REVKEYSIG", 8, "0123 (its key is revoked)"),
            ("EXPSIG", 8, "0123 (expired)"),
            ("GOODSIG", 2, "(weak hash)"),
        ] {
            let error = judge_with(&signature(verdict, A, hash), &[A]).unwrap_err();
            assert!(error.contains(expected), "{error}\nlacks {expected}");
        }
        let error = judge_with(&signature("GOODSIG", A, 8), &[B]).unwrap_err();
        assert!(error.contains(&format!("signatures: {A} (good)")), "{error}");
        assert!(error.contains(&format!("recipe's keys: {B}")), "{error}");
        assert!(judge_with("", &[A]).unwrap_err().contains("signatures: none"));
        let bad = signature("GOODSIG", A, 8) + "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 77 Name\n";
        assert!(judge_with(&bad, &[A]).unwrap_err().contains("is false"));
    }

    #[test]
    fn armour_is_taken_off() {
        let text = "note\n-----BEGIN PGP PUBLIC KEY BLOCK-----\nVersion: x\n\naGVs\nbG8=\n=ABCD\n\
                    -----END PGP PUBLIC KEY BLOCK-----\n";
        assert_eq!(dearmour(Path::new("x"), text.as_bytes()).unwrap(), b"hello");
        let cut = &text[..text.len() - 40];
        assert!(dearmour(Path::new("x"), cut.as_bytes()).is_err());
    }
}

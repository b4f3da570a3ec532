//! Keys in PEM files: PKCS#8 or SEC1, as `openssl` and [`generate`] write them.

use std::error::Error;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha384Hash;
use casemate_measurements::id_block::{PublicKey, Signature, Signer};
use p384::SecretKey;
use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;
use p384::elliptic_curve::rand_core::OsRng;
use p384::elliptic_curve::zeroize::Zeroizing;
use p384::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding};

/// Most bytes of a key's file.
const MAX_LEN: u64 = 64 * 1024;

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the private key {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read it.
    #[error(
        "{} has mode {mode:04o}: others than its owner can use this private key; `chmod 600` it, \
         and take a new key if anyone did",
        path.display()
    )]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It needs a password.
    #[error(
        "{} is encrypted with a password: decrypt it with `openssl pkcs8`, or keep the key in a \
         token (pkcs11:)",
        path.display()
    )]
    Encrypted {
        /// Which.
        path: PathBuf,
    },
    /// It holds something else.
    #[error(
        "{} holds no private key of P-384: expected PEM, `BEGIN PRIVATE KEY` or `BEGIN EC PRIVATE \
         KEY` (`casemate id-block keygen` makes one)",
        path.display()
    )]
    NoKey {
        /// Which.
        path: PathBuf,
    },
    /// A new key cannot be kept.
    #[error("cannot write {}; no file is ever replaced by a new key", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new key cannot be encoded.
    #[error("cannot encode a new key: {problem}")]
    Encode {
        /// Why not.
        problem: String,
    },
}

/// A private key that was read from a file.
pub struct FileKey {
    private: SigningKey,
    public: PublicKey,
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKey").field("public", &self.public).finish_non_exhaustive()
    }
}

impl FileKey {
    /// Reads a key. As `ssh` does, refuses one that others than its owner can use.
    ///
    /// # Errors
    /// When the file cannot be read, is open to others, or holds no such key.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let text = read(path)?;
        let key = parse(&text).ok_or_else(|| FileError::NoKey { path: path.to_owned() })?;
        Self::new(&key).ok_or_else(|| FileError::NoKey { path: path.to_owned() })
    }

    pub(crate) fn new(key: &SecretKey) -> Option<Self> {
        let public = PublicKey::from_sec1(&key.public_key().to_sec1_bytes()).ok()?;
        Some(Self { private: SigningKey::from(key), public })
    }
}

/// Reads the text of a private key. As `ssh` does, refuses one that others than its owner can use.
///
/// # Errors
/// When the file cannot be read, is open to others, or encrypted.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let fail = |source| FileError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    let mode = metadata.permissions().mode() & 0o777;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(FileError::Mode { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_LEN).read_to_string(&mut text).map_err(fail)?;
    if text.contains("ENCRYPTED") {
        return Err(FileError::Encrypted { path: path.to_owned() });
    }
    Ok(text)
}

/// What stands before a key of the older form.
pub(crate) const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";

/// A key of P-384.
pub(crate) fn parse(text: &str) -> Option<SecretKey> {
    // `openssl ecparam -genkey` writes the parameters of the curve before the key.
    match text.find(SEC1) {
        Some(at) => SecretKey::from_sec1_pem(text[at..].trim_end()).ok(),
        None => SecretKey::from_pkcs8_pem(text.trim()).ok(),
    }
}

impl Signer for FileKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, digest: &Sha384Hash) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        // Deterministic (RFC 6979): signing a release twice gives the same file.
        let signature: p384::ecdsa::Signature = self.private.sign_prehash(digest.as_bytes())?;
        let (r, s) = signature.split_bytes();
        Ok(Signature::from_raw(&[r, s].concat())?)
    }
}

/// A new key, as it was written.
#[derive(Debug, Clone)]
pub struct Generated {
    /// The private key: PKCS#8, mode 0600.
    pub private: PathBuf,
    /// The public key: `SubjectPublicKeyInfo`.
    pub public: PathBuf,
    /// What reports say of the key.
    pub digest: Sha384Hash,
}

/// Makes a key in `path` and writes its public half beside it, with `.pub` behind the name.
///
/// # Errors
/// When one of both is already there or cannot be written.
pub fn generate(path: &Path) -> Result<Generated, FileError> {
    let encode = |error: &dyn fmt::Display| FileError::Encode { problem: error.to_string() };
    let key = SecretKey::random(&mut OsRng);
    let private = key.to_pkcs8_pem(LineEnding::LF).map_err(|error| encode(&error))?;
    let public =
        key.public_key().to_public_key_pem(LineEnding::LF).map_err(|error| encode(&error))?;
    let digest = PublicKey::from_sec1(&key.public_key().to_sec1_bytes())
        .map_err(|error| encode(&error))?
        .digest();
    let public = write_pair(path, &private, &public)?;
    Ok(Generated { private: path.to_owned(), public, digest })
}

/// Writes both halves of a new key, or neither; the path of the public one.
///
/// # Errors
/// When one of both is already there or cannot be written.
pub(crate) fn write_pair(path: &Path, private: &str, public: &str) -> Result<PathBuf, FileError> {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    let public_path = PathBuf::from(public_path);
    write_new(path, private.as_bytes(), 0o600)?;
    if let Err(error) = write_new(&public_path, public.as_bytes(), 0o644) {
        // Nobody has seen this key yet.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(public_path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| FileError::Write { path: path.to_owned(), source })
}

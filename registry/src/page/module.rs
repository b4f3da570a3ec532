//! The WebAssembly module that pages verify signatures with.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

/// Most bytes of a module.
const MAX_LEN: u64 = 64 * 1024 * 1024;
/// How every module begins.
const MAGIC: &[u8] = b"\0asm\x01\0\0\0";
/// The function that pages call.
const EXPORT: &[u8] = b"casemate_signatures";

/// Why a file is no such module.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error(
        "{} is not the module that verifies signatures: expected what `make module` compiles",
        path.display()
    )]
    Other {
        /// Which.
        path: PathBuf,
    },
    /// It cannot be packed.
    #[error("cannot pack the module")]
    Pack(#[source] io::Error),
}

/// The module, as pages carry it.
#[derive(Debug, Clone)]
pub struct Module {
    base64: String,
}

impl Module {
    /// Reads a module.
    ///
    /// # Errors
    /// When it cannot be read or is another.
    pub fn read(path: &Path) -> Result<Self, ModuleError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_LEN + 1).read_to_end(&mut bytes))
            .map_err(|source| ModuleError::Read { path: path.to_owned(), source })?;
        let exports = || bytes.windows(EXPORT.len()).any(|window| window == EXPORT);
        if bytes.len() as u64 > MAX_LEN || !bytes.starts_with(MAGIC) || !exports() {
            return Err(ModuleError::Other { path: path.to_owned() });
        }
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&bytes).map_err(ModuleError::Pack)?;
        Ok(Self { base64: STANDARD.encode(packer.finish().map_err(ModuleError::Pack)?) })
    }

    /// Gzip of it in base64.
    pub(super) fn base64(&self) -> &str {
        &self.base64
    }
}

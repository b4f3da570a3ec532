//! `id-blocks.json` of a release directory: read with bounds, written whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use casemate_measurements::id_block::release::{FILE_NAME, IdBlocks, IdBlocksError, MAX_LEN};

/// Why the ID blocks of a release cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There are none.
    #[error("{} is not there: `casemate id-block sign` makes it", path.display())]
    Missing {
        /// Where they would be.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is refused.
    #[error("{} is refused", path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<IdBlocksError>,
    },
    /// The file cannot be written.
    #[error("cannot write {}; what was there is unchanged", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Reads the ID blocks of the release in `dir`. Whether they are the release's is for
/// [`IdBlocks::check`] to say.
///
/// # Errors
/// When there are none, or they cannot be read or are malformed.
pub fn read(dir: &Path) -> Result<IdBlocks, FileError> {
    let path = dir.join(FILE_NAME);
    let mut bytes = Vec::new();
    let most = MAX_LEN as u64 + 1;
    match File::open(&path).and_then(|file| file.take(most).read_to_end(&mut bytes)) {
        Ok(_) => IdBlocks::from_bytes(&bytes)
            .map_err(|source| FileError::Refused { path, source: Box::new(source) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FileError::Missing { path }),
        Err(source) => Err(FileError::Read { path, source }),
    }
}

/// Writes the ID blocks of the release in `dir`: after a crash the old file or the new one is
/// there, whole. Returns its path.
///
/// # Errors
/// When they cannot be written.
pub fn write(dir: &Path, blocks: &IdBlocks) -> Result<PathBuf, FileError> {
    let path = dir.join(FILE_NAME);
    let bytes = blocks
        .to_bytes()
        .map_err(|source| FileError::Refused { path: path.clone(), source: Box::new(source) })?;
    let replace = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".id-blocks.").tempfile_in(dir)?;
        file.write_all(&bytes)?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    replace().map_err(|source| FileError::Write { path: path.clone(), source })?;
    Ok(path)
}

//! The cache: every downloaded file by its SHA-256, and a place for what is derived from them.
//!
//! A file is in the cache once it carries its final name, and it gets that name only after all
//! its bytes were written and hashed. Processes may share one cache at any time.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

/// Why the cache could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A folder could not be made.
    #[error("cannot make the cache folder {}", path.display())]
    MakeFolder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither `$CASEMATE_CACHE`, `$XDG_CACHE_HOME` nor `$HOME` says where it is.
    #[error("no place for the cache: none of CASEMATE_CACHE, XDG_CACHE_HOME and HOME is set")]
    NoPlace,
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// An open cache. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache at `root`, making its folders.
    ///
    /// # Errors
    ///
    /// If a folder cannot be made.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let root = std::path::absolute(root)
            .map_err(|source| CacheError::MakeFolder { path: root.to_owned(), source })?;
        let cache = Self { root };
        for kind in ["blobs/sha256", "unpacked", "tmp"] {
            cache.folder(kind)?;
        }
        Ok(cache)
    }

    /// Where the cache is by default: `$CASEMATE_CACHE`, `$XDG_CACHE_HOME/casemate`, or
    /// `$HOME/.cache/casemate`; `variable` looks up an environment variable.
    ///
    /// # Errors
    ///
    /// If none of them is set.
    pub fn default_root(
        variable: impl Fn(&str) -> Option<std::ffi::OsString>,
    ) -> Result<PathBuf, CacheError> {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("CASEMATE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|home| home.join("casemate")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/casemate")))
            .ok_or(CacheError::NoPlace)
    }

    /// The cache's folder, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder `kind` of the cache, such as `tools`, made if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn folder(&self, kind: &str) -> Result<PathBuf, CacheError> {
        let path = self.root.join(kind);
        std::fs::create_dir_all(&path)
            .map_err(|source| CacheError::MakeFolder { path: path.clone(), source })?;
        Ok(path)
    }

    /// Where the file with this hash is, if it is there at all.
    #[must_use]
    pub fn blob(&self, sha256: Sha256Hash) -> PathBuf {
        self.root.join("blobs/sha256").join(sha256.to_string())
    }

    /// Where a download of this hash is kept until it is whole. Never read as the file itself.
    #[must_use]
    pub fn part(&self, sha256: Sha256Hash) -> PathBuf {
        self.root.join("blobs/sha256").join(format!("{sha256}.part"))
    }

    /// Is the file with this hash and length there?
    #[must_use]
    pub fn has(&self, sha256: Sha256Hash, size: Option<u64>) -> bool {
        std::fs::metadata(self.blob(sha256))
            .is_ok_and(|meta| meta.is_file() && size.is_none_or(|size| meta.len() == size))
    }

    /// Writes `bytes` as a file named by its hash.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Sha256Hash, CacheError> {
        let sha256 = Sha256Hash::of(bytes);
        let path = self.blob(sha256);
        self.write(&path, |file| file.write_all(bytes))?;
        Ok(sha256)
    }

    /// Writes the file `path` of the cache whole or not at all: `fill` gets a temporary file,
    /// which is synced and renamed.
    ///
    /// # Errors
    ///
    /// If `fill` or the file system fails.
    pub fn write(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let written = || -> io::Result<()> {
            let mut temporary = tempfile::NamedTempFile::new_in(self.root.join("tmp"))?;
            fill(temporary.as_file_mut())?;
            temporary.as_file().sync_all()?;
            temporary.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        written().map_err(|source| CacheError::Write { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_once_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let sha256 = Sha256Hash::of(b"bytes");
        std::fs::write(cache.part(sha256), b"byt").unwrap();
        assert!(!cache.has(sha256, None));
        assert_eq!(cache.put(b"bytes").unwrap(), sha256);
        assert!(cache.has(sha256, Some(5)));
        assert!(!cache.has(sha256, Some(6)));
        let path = cache.blob(Sha256Hash::of(b"never"));
        let error = cache.write(&path, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("interrupted"))
        });
        assert!(error.is_err());
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn the_default_place_follows_the_environment() {
        let root = |set: &[(&str, &str)]| {
            Cache::default_root(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into())
            })
        };
        assert_eq!(root(&[("HOME", "/h")]).unwrap(), Path::new("/h/.cache/casemate"));
        let both = [("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(root(&both).unwrap(), Path::new("/x/casemate"));
        assert_eq!(root(&[("CASEMATE_CACHE", "/c"), both[0]]).unwrap(), Path::new("/c"));
        assert!(root(&[("HOME", "")]).is_err());
    }
}

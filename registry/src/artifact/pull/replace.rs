//! The directory in which a pull is at work, and how it takes the place of the one asked for.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};

use super::PullError;

/// A directory beside `out` that nobody else works in.
#[derive(Debug)]
pub(super) struct Workplace {
    path: PathBuf,
    out: PathBuf,
    resumed: bool,
    /// Ends with its holder, however that ends.
    _lock: Flock<File>,
}

impl Workplace {
    /// Opens the place where the artifact `digest` is pulled that will become `out`. It is the same
    /// for each attempt, so that one continues what another left.
    pub(super) fn open(out: &Path, digest: &Sha256Hash) -> Result<Self, PullError> {
        let out = std::path::absolute(out)
            .map_err(|source| PullError::Write { path: out.to_owned(), source })?;
        check_replaceable(&out)?;
        let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
            return Err(PullError::Occupied { path: out });
        };
        let short = digest.to_string()[..16].to_owned();
        let path = parent.join(format!("{}{short}", prefix(name)));
        let wrap = |source| PullError::Write { path: path.clone(), source };
        std::fs::create_dir_all(parent).map_err(wrap)?;
        loop {
            let resumed = match std::fs::create_dir(&path) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
                Err(error) => return Err(wrap(error)),
            };
            let Some(lock) = lock(&path).map_err(wrap)? else {
                return Err(PullError::Busy { path });
            };
            // Whoever held it before may have put it in place meanwhile.
            if is_same(&lock, &path) {
                return Ok(Self { path, out, resumed, _lock: lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether an earlier pull left something here.
    pub(super) fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Removes what is here.
    pub(super) fn discard(self) {
        // What cannot be removed is looked at again by the next pull.
        let _ = std::fs::remove_dir_all(&self.path);
    }

    /// Takes the place of what was asked for, in one step, durably. What was there is removed
    /// after, and so is what interrupted pulls of other artifacts left.
    pub(super) fn put_in_place(self) -> Result<(), PullError> {
        use std::os::unix::fs::PermissionsExt as _;
        let Self { path, out, .. } = &self;
        check_replaceable(out)?;
        let wrap = |source| PullError::Write { path: out.clone(), source };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(wrap)?;
        let exists = std::fs::symlink_metadata(out).is_ok();
        let flags =
            if exists { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
        renameat2(AT_FDCWD, path, AT_FDCWD, out, flags).map_err(|errno| wrap(errno.into()))?;
        let parent = out.parent().unwrap_or(Path::new("/"));
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(wrap)?;
        if exists {
            // It is out of the way: that it takes space is no failure of the pull.
            let _ = std::fs::remove_dir_all(path);
        }
        self.sweep(parent);
        Ok(())
    }

    /// Removes what pulls left that nobody continues.
    fn sweep(&self, parent: &Path) {
        let Some(name) = self.out.file_name() else { return };
        let prefix = prefix(name);
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix)
                && let Ok(Some(_held)) = lock(&entry.path())
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn prefix(name: &std::ffi::OsStr) -> String {
    format!(".{}.casemate-pull-", name.to_string_lossy())
}

/// Locks a directory; `None` if somebody else has.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn is_same(lock: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    match (lock.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => id(held) == id(there),
        _ => false,
    }
}

/// Only a release, or nothing, is replaced.
fn check_replaceable(out: &Path) -> Result<(), PullError> {
    let occupied = || PullError::Occupied { path: out.to_owned() };
    let Ok(meta) = std::fs::symlink_metadata(out) else { return Ok(()) };
    if !meta.is_dir() {
        return Err(occupied());
    }
    let mut entries = std::fs::read_dir(out)
        .map_err(|source| PullError::Write { path: out.to_owned(), source })?;
    let is_release = out.join(manifest::FILE_NAME).is_file();
    if is_release || entries.next().is_none() { Ok(()) } else { Err(occupied()) }
}

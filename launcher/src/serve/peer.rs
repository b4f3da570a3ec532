//! The API's socket and the lock that one daemon holds: whose they are, and that nobody else can
//! reach them.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::ServeError;
use crate::state::StateError;

/// Takes the lock, for as long as the file is open. A daemon that was killed while it started a
/// supervisor leaves it held for a moment: until that one has closed what it was not given.
pub(super) fn lock(path: &Path, patience: Duration) -> Result<File, ServeError> {
    let fail = |source| StateError::Write { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path).map_err(fail)?;
    let until = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(ServeError::Taken { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(fail(source).into()),
        }
    }
}

/// The socket that was handed over, or one at `path` that only this user and root can reach.
pub(super) fn listener(
    inherited: Option<UnixListener>,
    path: &Path,
) -> Result<tokio::net::UnixListener, ServeError> {
    let fail = |source| ServeError::Listen { address: path.display().to_string(), source };
    let listener = match inherited {
        Some(listener) => listener,
        None => bind(path).map_err(fail)?,
    };
    listener.set_nonblocking(true).map_err(fail)?;
    tokio::net::UnixListener::from_std(listener).map_err(fail)
}

/// Listens on `path`. What is there of a daemon that was killed is replaced: the lock is held.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            let text = "something that is no socket is in its place";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects before this is refused by who he is.
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_holds_the_lock_and_what_a_killed_one_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, Duration::ZERO).unwrap();
        assert!(matches!(lock(&path, Duration::ZERO), Err(ServeError::Taken { .. })));
        let soon = thread::spawn(move || drop(held));
        lock(&path, Duration::from_mins(1)).unwrap();
        soon.join().unwrap();
        let socket = dir.path().join("s");
        drop(bind(&socket).unwrap());
        let again = bind(&socket).unwrap();
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        drop(again);
        fs::remove_file(&socket).unwrap();
        fs::write(&socket, "a file").unwrap();
        assert!(bind(&socket).is_err());
        assert_eq!(fs::read(&socket).unwrap(), b"a file");
    }
}

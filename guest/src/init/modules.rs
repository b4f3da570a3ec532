//! Loads the kernel modules of the initrd.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use super::InitError;

/// Loads the modules that `list` names, in its order.
///
/// A module that is built in, or that drives something this CPU lacks (an accelerated hash),
/// is no failure: what is really missing is missed by the steps that need it.
pub(super) fn load(list: &Path) -> Result<(), InitError> {
    let wrap = |source| InitError::ListModules { path: list.to_owned(), source };
    for path in parse(&fs::read_to_string(list).map_err(wrap)?).map_err(wrap)? {
        let file = File::open(&path)
            .map_err(|source| InitError::LoadModule { path: path.clone(), source })?;
        match finit_module(file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST | Errno::ENODEV) => {}
            Err(errno) => return Err(InitError::LoadModule { path, source: errno.into() }),
        }
        // Its memory is the initrd's; nothing reads the file again.
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

/// A path per line, absolute.
fn parse(list: &str) -> io::Result<Vec<PathBuf>> {
    list.lines()
        .map(|line| match Path::new(line) {
            path if path.is_absolute() => Ok(path.to_owned()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{line:?} is no absolute path"),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_relative_paths_are_refused() {
        let list = parse("/b/dm-mod.ko\n/a/dm-verity.ko\n").unwrap();
        assert_eq!(list, [PathBuf::from("/b/dm-mod.ko"), PathBuf::from("/a/dm-verity.ko")]);
        assert!(parse("").unwrap().is_empty());
        for list in ["a.ko\n", "/a.ko\n\n/b.ko\n"] {
            assert_eq!(parse(list).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_missing_list_and_a_missing_module_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("modules.order");
        assert!(matches!(load(&list), Err(InitError::ListModules { path, .. }) if path == list));
        fs::write(&list, "/nowhere/x.ko\n").unwrap();
        let error = load(&list).unwrap_err();
        assert_eq!(error.to_string(), "cannot load the module /nowhere/x.ko");
    }
}

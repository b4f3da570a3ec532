//! Unpacks Debian source packages, whose files were hashed before.

use std::io::Read;
use std::path::{Component, Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::StageError;
use crate::fetch::Cache;
use crate::lock::{LockedFile, LockedSource};
use crate::recipe::StageName;

/// The bytes of a file of the cache, which must have the hash `expected`.
pub(super) fn verified(
    stage: &StageName,
    name: &str,
    expected: Sha256Hash,
    cache: &Cache,
) -> Result<Vec<u8>, StageError> {
    let path = cache.blob(expected);
    let bytes = std::fs::read(&path).map_err(|source| StageError::File {
        stage: stage.clone(),
        path: path.clone(),
        source,
    })?;
    let found = Sha256Hash::of(&bytes);
    if found == expected {
        return Ok(bytes);
    }
    Err(StageError::Hash { stage: stage.clone(), name: name.to_owned(), expected, found })
}

/// Where the archive `name` of a source package belongs: its own root, a component's folder, or
/// the folder `debian`. `None` for what is no archive of a source package.
fn place(name: &str) -> Option<&str> {
    let (stem, _) = name.rsplit_once(".tar.")?;
    if stem.ends_with(".debian") {
        return Some("debian");
    }
    match stem.rsplit_once(".orig-") {
        Some((_, component)) => Some(component),
        None => Some(""),
    }
}

/// Unpacks the files of `source` to the new folder `to`: the author's archive, its components,
/// Debian's folder. Debian's patches are not applied.
pub(super) fn unpack(
    stage: &StageName,
    source: &LockedSource,
    cache: &Cache,
    to: &Path,
) -> Result<(), StageError> {
    let mut files: Vec<&LockedFile> = source.files.iter().collect();
    // The author's archive first: the others lie inside.
    files.sort_by_key(|file| place(file.name()).map(str::len));
    for file in files {
        let name = file.name();
        let broken =
            |what: String| StageError::Source { stage: stage.clone(), name: name.to_owned(), what };
        let inside = place(name).ok_or_else(|| broken("it is no .tar.* of a source".into()))?;
        let bytes = verified(stage, name, file.sha256, cache)?;
        let reader: Box<dyn Read> = if name.strip_suffix(".xz").is_some() {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(bytes.as_slice()))
        } else if name.strip_suffix(".gz").is_some() {
            Box::new(flate2::bufread::MultiGzDecoder::new(bytes.as_slice()))
        } else {
            return Err(broken("expected .tar.xz or .tar.gz".into()));
        };
        // Debian's archive holds the folder debian itself; the others one folder of any name.
        let dir = if inside == "debian" { to.to_owned() } else { to.join(inside) };
        std::fs::create_dir_all(&dir).map_err(|source| StageError::File {
            stage: stage.clone(),
            path: dir.clone(),
            source,
        })?;
        extract(reader, &dir, inside != "debian").map_err(|error| broken(error.to_string()))?;
    }
    Ok(())
}

/// Unpacks a tar archive into `dir`, without the first part of each path if `strip` says so.
/// Nothing is written outside of `dir`, whatever the archive says.
fn extract(reader: impl Read, dir: &Path, strip: bool) -> std::io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let parts: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        if parts.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(std::io::Error::other(format!("it holds {}", path.display())));
        }
        let inner: PathBuf = parts.components().skip(usize::from(strip)).collect();
        if inner.as_os_str().is_empty() {
            continue;
        }
        // A link of the archive could lead out of the folder; no archive needs to write through one.
        let mut folder = dir.to_owned();
        for part in inner.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            if folder.is_symlink() {
                return Err(std::io::Error::other(format!("{} leads out", path.display())));
            }
        }
        std::fs::create_dir_all(&folder)?;
        let to = dir.join(&inner);
        match entry.header().entry_type() {
            kind if kind.is_dir() => std::fs::create_dir_all(&to)?,
            kind if kind.is_file() => {
                let executable = entry.header().mode()? & 0o100 != 0;
                write(&mut entry, &to, executable)?;
            }
            kind if kind.is_symlink() => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                std::os::unix::fs::symlink(target, &to)?;
            }
            kind if kind.is_pax_global_extensions() => {}
            kind => {
                let what = format!("{} is of the kind {kind:?}", path.display());
                return Err(std::io::Error::other(what));
            }
        }
    }
    Ok(())
}

/// Writes one file. Its time is that of writing, which no command may depend on.
fn write(from: &mut impl Read, to: &Path, executable: bool) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(to)?;
    std::io::copy(from, &mut file)?;
    let mode = if executable { 0o755 } else { 0o644 };
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            // Written as it stands: the archive of an adversary is not built by a careful tool.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            if let Some(target) = text.strip_prefix("-> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name_literal(target).unwrap();
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, std::io::empty()).unwrap();
            } else {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(text.len() as u64);
                header.set_cksum();
                builder.append(&header, text.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_have_their_places() {
        assert_eq!(place("edk2_2025.02.orig.tar.xz"), Some(""));
        assert_eq!(place("edk2_2025.02.orig-openssl.tar.gz"), Some("openssl"));
        assert_eq!(place("edk2_2025.02-8.debian.tar.xz"), Some("debian"));
        assert_eq!(place("native_1.0.tar.xz"), Some(""));
        assert_eq!(place("edk2_2025.02-8.diff.gz"), None);
    }

    #[test]
    fn the_first_folder_is_taken_off() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive(&[("top-1.0/a/b", "one"), ("top-1.0/link", "-> a/b")]);
        extract(bytes.as_slice(), dir.path(), true).unwrap();
        assert_eq!(std::fs::read(dir.path().join("link")).unwrap(), b"one");
        assert!(extract(bytes.as_slice(), dir.path(), true).is_err(), "nothing is overwritten");
    }

    #[test]
    fn nothing_is_written_outside() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("inside");
        for entries in [
            [("top/../../evil", "x"), ("top/fine", "x")],
            [("/top/evil", "x"), ("top/fine", "x")],
            [("top/link", "-> ../.."), ("top/link/evil", "x")],
            [("top/link", "-> /tmp"), ("top/link/evil", "x")],
            [("top/link", "-> .."), ("top/link/new/evil", "x")],
        ] {
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir(&dir).unwrap();
            let bytes = archive(&entries);
            assert!(extract(bytes.as_slice(), &dir, true).is_err(), "{entries:?}");
            assert!(!outer.path().join("evil").exists() && !outer.path().join("new").exists());
        }
    }
}

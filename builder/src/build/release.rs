//! The release's directory: written beside the old one, then put in its place in one step.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Artifact, FILE_NAME, artifact};
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{BuildError, BuildOptions, BuiltArtifact};
use crate::erofs::{self, RootImage};
use crate::merge::Tree;
use crate::progress::Progress;
use crate::steps::{Durability, check_libraries, derived};

/// Facts about a cached image, beside it.
const NOTE: &str = "image.json";

/// What the temporary directory beside a release is called.
const PREFIX: &str = ".casemate-release-";

/// A release in the making.
#[derive(Debug)]
pub(super) struct Release {
    temporary: TempDir,
    /// Tells other builds that `temporary` is in use.
    lock: Flock<File>,
    out: PathBuf,
    files: BTreeMap<String, BuiltArtifact>,
    since: Instant,
}

impl Release {
    /// Makes an empty one that will become `out`.
    pub(super) fn begin(out: &Path) -> Result<Self, BuildError> {
        let wrap = |source| BuildError::Write { path: out.to_owned(), source };
        let out = std::path::absolute(out).map_err(wrap)?;
        check_replaceable(&out)?;
        let parent = out.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(wrap)?;
        sweep(parent, PREFIX, Duration::from_mins(1));
        let temporary = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(wrap)?;
        let lock = lock(temporary.path()).map_err(wrap)?;
        let files = BTreeMap::new();
        Ok(Self { temporary, lock, out, files, since: Instant::now() })
    }

    fn place(&self, name: &str) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// Writes a file.
    pub(super) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), BuildError> {
        let path = self.place(name);
        let write = || -> io::Result<()> {
            let mut file = create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|source| BuildError::Write { path: path.clone(), source })?;
        let seconds = self.since.elapsed().as_secs_f64();
        self.made(name, bytes.len() as u64, Sha256Hash::of(bytes), seconds);
        Ok(())
    }

    /// Notes a file that is there.
    pub(super) fn made(&mut self, name: &str, size: u64, sha256: Sha256Hash, seconds: f64) {
        let name = name.to_owned();
        self.files.insert(name.clone(), BuiltArtifact { name, size, sha256, seconds });
        self.since = Instant::now();
    }

    /// Puts the root image in place: from the cache if its bytes are still what they were when
    /// it was made, else made anew.
    pub(super) fn root_image(
        &mut self,
        tree: &Tree,
        epoch: u32,
        tools: (&Path, &Sha256Hash),
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<RootImage, BuildError> {
        let key = erofs::key(tree, epoch, tools.1);
        let make = |out: &Path| -> Result<(), BuildError> {
            check_libraries(tree)?;
            let image = erofs::root_image(tree, epoch, tools, out, options.jobs)?;
            let note = out.join(NOTE);
            let text = serde_json::to_vec(&image).map_err(io::Error::other);
            let written = text.and_then(|text| std::fs::write(&note, text));
            written.map_err(|source| BuildError::Write { path: note, source })
        };
        let mut cached = PathBuf::new();
        for _ in 0..2 {
            let kind = "images";
            cached = derived(&options.cache, kind, &key, Durability::CheckedOnUse, make)?;
            if let Some(image) = self.take_image(&cached)? {
                return Ok(image);
            }
            let path = cached.display();
            progress.warn(&format!("the cached image {path} is damaged: it is made again"));
            std::fs::remove_dir_all(&cached)
                .map_err(|source| BuildError::Write { path: cached.clone(), source })?;
        }
        Err(BuildError::Damaged { path: cached })
    }

    /// Copies the image in `cached`; `None` if it is not what its note says.
    fn take_image(&self, cached: &Path) -> Result<Option<RootImage>, BuildError> {
        let note = std::fs::read(cached.join(NOTE)).unwrap_or_default();
        let Ok(image) = serde_json::from_slice::<RootImage>(&note) else { return Ok(None) };
        let path = self.place(artifact::ROOT);
        let Ok(from) = File::open(cached.join("root.img")) else { return Ok(None) };
        let copied = copy_hashed(from, &path);
        let (size, sha256) =
            copied.map_err(|source| BuildError::Write { path: path.clone(), source })?;
        Ok((size == image.size && sha256 == image.sha256).then_some(image))
    }

    /// The files so far, for the manifest.
    pub(super) fn artifacts(&self) -> BTreeMap<String, Artifact> {
        let facts = |made: &BuiltArtifact| Artifact { sha256: made.sha256, size: made.size };
        self.files.iter().map(|(name, made)| (name.clone(), facts(made))).collect()
    }

    /// Puts the release in its place. What was there is removed only after.
    pub(super) fn commit(self) -> Result<Vec<BuiltArtifact>, BuildError> {
        let Self { temporary, lock, out, files, .. } = self;
        let wrap = |source| BuildError::Write { path: out.clone(), source };
        let new = temporary.path();
        std::fs::set_permissions(new, Permissions::from_mode(0o755)).map_err(wrap)?;
        File::open(new).and_then(|dir| dir.sync_all()).map_err(wrap)?;
        check_replaceable(&out)?;
        replace(new, &out).map_err(wrap)?;
        if let Some(parent) = out.parent() {
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(wrap)?;
        }
        // What is left in the temporary place is the old release, if there was one.
        drop(temporary);
        drop(lock);
        Ok(files.into_values().collect())
    }
}

/// Removes what builds that were killed left in `dir` under names with `prefix`: what nobody
/// holds a lock on and nobody has touched for `age`.
pub(super) fn sweep(dir: &Path, prefix: &str, age: Duration) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().to_string_lossy().starts_with(prefix);
        let touched = entry.metadata().and_then(|meta| meta.modified()).ok();
        let old = touched.and_then(|then| then.elapsed().ok()).is_some_and(|since| since > age);
        if named && old && lock(&path).is_ok() {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Locks a file or directory for as long as what is returned lives, if nobody else has.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let file = File::open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Refuses to replace what is neither missing, nor empty, nor a release.
fn check_replaceable(out: &Path) -> Result<(), BuildError> {
    let refused = || BuildError::NotARelease { path: out.to_owned() };
    match std::fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(refused()),
        Err(source) => Err(BuildError::Write { path: out.to_owned(), source }),
        Ok(entries) => {
            let known = |name: &str| name == FILE_NAME || artifact::ALL.contains(&name);
            let names = entries
                .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<Vec<_>>>()
                .map_err(|source| BuildError::Write { path: out.to_owned(), source })?;
            let release = names.iter().any(|name| name == FILE_NAME);
            let only = names.iter().all(|name| known(name));
            if names.is_empty() || (release && only) { Ok(()) } else { Err(refused()) }
        }
    }
}

/// Puts `new` where `out` is; a directory that was there is then where `new` was.
fn replace(new: &Path, out: &Path) -> io::Result<()> {
    if !out.exists() {
        return std::fs::rename(new, out);
    }
    let exchanged = renameat2(AT_FDCWD, new, AT_FDCWD, out, RenameFlags::RENAME_EXCHANGE);
    match exchanged {
        Ok(()) => Ok(()),
        // A file system that cannot exchange: the old one steps aside, complete, for a moment.
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOSYS) => {
            let aside = new.with_extension("old");
            std::fs::rename(out, &aside)?;
            std::fs::rename(new, out)?;
            std::fs::remove_dir_all(&aside)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a file that everyone may read, whatever the umask.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

/// Copies and hashes what is copied.
fn copy_hashed(mut from: File, to: &Path) -> io::Result<(u64, Sha256Hash)> {
    let mut file = create(to)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
        size += read as u64;
    }
    file.sync_all()?;
    Ok((size, Sha256Hash::from_bytes(hasher.finalize().into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_old_release_is_replaced_whole_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("deep/release");
        for text in [b"one", b"two"] {
            let mut release = Release::begin(&out).unwrap();
            release.add(FILE_NAME, text).unwrap();
            release.add("cmdline", text).unwrap();
            if text == b"two" {
                assert_eq!(std::fs::read(out.join("cmdline")).unwrap(), b"one");
            }
            let made = release.commit().unwrap();
            assert_eq!(made.len(), 2);
            assert_eq!(std::fs::read(out.join("cmdline")).unwrap(), text);
        }
        assert_eq!(names(out.parent().unwrap()), ["release"]);
        let mode = std::fs::metadata(out.join("cmdline")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn a_release_that_is_given_up_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("release");
        let mut first = Release::begin(&out).unwrap();
        first.add(FILE_NAME, b"one").unwrap();
        first.commit().unwrap();
        let mut second = Release::begin(&out).unwrap();
        second.add(FILE_NAME, b"two").unwrap();
        drop(second);
        assert_eq!(std::fs::read(out.join(FILE_NAME)).unwrap(), b"one");
        assert_eq!(names(dir.path()), ["release"]);
    }

    #[test]
    fn what_killed_builds_left_goes_and_what_is_in_use_stays() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("release");
        let make = |name: &str, age: Duration| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("x"), "").unwrap();
            let then = std::time::SystemTime::now() - age;
            File::open(&path).unwrap().set_modified(then).unwrap();
            path
        };
        make(".casemate-release-dead", Duration::from_mins(2));
        make(".casemate-release-young", Duration::from_secs(2));
        let used = make(".casemate-release-used", Duration::from_mins(2));
        make("other", Duration::from_mins(2));
        let held = lock(&used).unwrap();
        drop(Release::begin(&out).unwrap());
        let left = [".casemate-release-used", ".casemate-release-young", "other"];
        assert_eq!(names(dir.path()), left);
        drop(held);
        drop(Release::begin(&out).unwrap());
        assert_eq!(names(dir.path()), left[1..]);
    }

    #[test]
    fn what_is_no_release_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "").unwrap();
        let file = dir.path().join("thesis.txt");
        assert!(matches!(Release::begin(dir.path()), Err(BuildError::NotARelease { .. })));
        assert!(matches!(Release::begin(&file), Err(BuildError::NotARelease { .. })));
        std::fs::write(dir.path().join(FILE_NAME), "").unwrap();
        assert!(matches!(Release::begin(dir.path()), Err(BuildError::NotARelease { .. })));
    }

    #[test]
    fn a_damaged_image_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let release = Release::begin(&dir.path().join("release")).unwrap();
        let cached = dir.path().join("cached");
        std::fs::create_dir(&cached).unwrap();
        assert!(release.take_image(&cached).unwrap().is_none());
        let image = RootImage {
            sha256: Sha256Hash::of(b"image"),
            size: 5,
            verity: casemate_measurements::verity::Verity {
                root_hash: Sha256Hash::of(b"root"),
                salt: "00".parse().unwrap(),
                data_blocks: 1,
                hash_block: 1,
            },
        };
        std::fs::write(cached.join(NOTE), serde_json::to_vec(&image).unwrap()).unwrap();
        std::fs::write(cached.join("root.img"), b"imagE").unwrap();
        assert!(release.take_image(&cached).unwrap().is_none());
        std::fs::write(cached.join("root.img"), b"image").unwrap();
        assert_eq!(release.take_image(&cached).unwrap(), Some(image));
    }
}

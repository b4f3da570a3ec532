//! Unpacked packages, kept in the cache by the hash of the package they came from.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use casemate_measurements::hash::Sha256Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::archive::{Broken, Parts};
use super::{Control, DebError, Malformed, broken};
use crate::fetch::Cache;
use crate::lock::LockedPackage;
use crate::progress::{Progress, Total};

/// A package whose files lie in the cache as a plain tar archive.
#[derive(Debug, Clone)]
pub struct UnpackedPackage {
    /// The package.
    pub package: LockedPackage,
    /// Its control file.
    pub control: Control,
    /// The tar archive: the package's data member, decompressed.
    pub tar: PathBuf,
    /// The archive's length in bytes.
    pub size: u64,
}

/// What stands beside an unpacked archive. It is written after the archive, so an archive
/// without one is not whole.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    size: u64,
    sha256: Sha256Hash,
    control: String,
    /// The boot of the machine that wrote or last checked the archive. Nothing is synced to
    /// disk here, so after another boot the archive is hashed before it is used again.
    boot: String,
}

/// Unpacks `package`, or finds it unpacked.
///
/// # Errors
///
/// If it is not in the cache, is damaged or malformed, or cannot be written.
pub fn unpack(cache: &Cache, package: &LockedPackage) -> Result<UnpackedPackage, DebError> {
    let boot = boot_id();
    if let Some(found) = find(cache, package, &boot) {
        return Ok(found);
    }
    let blob = cache.blob(package.sha256);
    let file = match File::open(&blob) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(DebError::Missing { package: package.to_string(), path: blob });
        }
        Err(source) => return Err(DebError::Read { path: blob, source }),
    };
    let (tar, _) = places(cache, package);
    let failed = |source| DebError::Write { path: tar.clone(), source };
    let mut temporary =
        tempfile::NamedTempFile::new_in(cache.root().join("tmp")).map_err(failed)?;
    let mut input = Hashing { inner: BufReader::with_capacity(1 << 17, file), hash: Sha256::new() };
    let mut output = Hashing { inner: temporary.as_file_mut(), hash: Sha256::new() };
    let mut read = || -> Result<(String, u64), Broken> {
        let mut parts = Parts::open(&mut input)?;
        let control = parts.control()?;
        let size = parts.data(&mut output)?;
        parts.drain()?;
        Ok((control, size))
    };
    let result = read();
    // Damage is told as damage, not as whatever the decoder made of it.
    if !matches!(result, Err(Broken::Io(_))) {
        let rest = io::copy(&mut input, &mut io::sink());
        rest.map_err(|source| DebError::Read { path: blob.clone(), source })?;
        let found = Sha256Hash::from_bytes(input.hash.finalize().into());
        if found != package.sha256 {
            let (package, expected) = (package.to_string(), package.sha256);
            return Err(DebError::Hash { package, path: blob, expected, found });
        }
    }
    let (control, size) = result.map_err(|error| broken(&blob, error))?;
    let sha256 = Sha256Hash::from_bytes(output.hash.finalize().into());
    let control = check_control(control, package)
        .map_err(|malformed| DebError::Malformed { path: blob.clone(), malformed })?;
    temporary.persist(&tar).map_err(|error| failed(error.error))?;
    let note = Note { size, sha256, control: control.text().to_owned(), boot };
    write_note(cache, package, &note)?;
    Ok(UnpackedPackage { package: package.clone(), control, tar, size })
}

/// Unpacks all `packages` with `jobs` threads, the largest first; the result is in their order.
///
/// # Errors
///
/// The first error of [`unpack`], in the order of `packages` as far as they were reached.
pub fn unpack_all(
    cache: &Cache,
    packages: &[&LockedPackage],
    jobs: usize,
    progress: &dyn Progress,
) -> Result<Vec<UnpackedPackage>, DebError> {
    let phase = progress.phase("unpack", Total::Items(packages.len() as u64));
    let mut order: Vec<usize> = (0..packages.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(packages[index].size));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let done: Mutex<Vec<(usize, Result<UnpackedPackage, DebError>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, packages.len().max(1)) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    phase.detail(packages[index].name.as_str());
                    let result = unpack(cache, packages[index]);
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    phase.advance(1);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, result));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|&(index, _)| index);
    let unpacked: Vec<_> = done.into_iter().map(|(_, result)| result).collect::<Result<_, _>>()?;
    phase.finish(&format!("{} packages", unpacked.len()));
    Ok(unpacked)
}

fn places(cache: &Cache, package: &LockedPackage) -> (PathBuf, PathBuf) {
    let dir = cache.root().join("unpacked");
    (dir.join(format!("{}.tar", package.sha256)), dir.join(format!("{}.json", package.sha256)))
}

/// The unpacked package, if it is there and whole.
fn find(cache: &Cache, package: &LockedPackage, boot: &str) -> Option<UnpackedPackage> {
    let (tar, note) = places(cache, package);
    let mut note: Note = serde_json::from_slice(&std::fs::read(note).ok()?).ok()?;
    if std::fs::metadata(&tar).ok()?.len() != note.size {
        return None;
    }
    let control = check_control(note.control.clone(), package).ok()?;
    if note.boot != boot {
        if hash_file(&tar).ok()? != note.sha256 {
            return None;
        }
        boot.clone_into(&mut note.boot);
        write_note(cache, package, &note).ok()?;
    }
    Some(UnpackedPackage { package: package.clone(), control, tar, size: note.size })
}

fn write_note(cache: &Cache, package: &LockedPackage, note: &Note) -> Result<(), DebError> {
    let (_, path) = places(cache, package);
    let written = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(cache.root().join("tmp"))?;
        serde_json::to_writer(file.as_file_mut(), note)?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    written().map_err(|source| DebError::Write { path: path.clone(), source })
}

/// Takes `text` as the control file of `package`, refusing another package's.
fn check_control(text: String, package: &LockedPackage) -> Result<Control, Malformed> {
    let control = Control::new(text);
    let same = control.package() == package.name.as_str()
        && control.version() == package.version.as_str()
        && control.architecture() == package.architecture.as_str();
    if same {
        return Ok(control);
    }
    let found = format!("{}_{}_{}", control.package(), control.version(), control.architecture());
    Err(Malformed::OtherPackage { found })
}

fn hash_file(path: &Path) -> io::Result<Sha256Hash> {
    let mut reader = Hashing { inner: File::open(path)?, hash: Sha256::new() };
    let mut buffer = vec![0; 1 << 17];
    while reader.read(&mut buffer)? > 0 {}
    Ok(Sha256Hash::from_bytes(reader.hash.finalize().into()))
}

/// Tells this boot of the machine from others. Empty where the kernel does not say, and then
/// archives count as checked in this boot.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Hashes what passes through.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

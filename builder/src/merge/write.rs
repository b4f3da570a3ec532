//! Writes a tree: as one tar archive, or as a directory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::MergeError;
use super::tree::{Content, Kind, Node, Tree};

/// A piece of a file, read without a position that others would share.
#[derive(Debug)]
struct Extent<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Extent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

impl Tree {
    fn reader<'a>(&'a self, content: &'a Content) -> Box<dyn Read + 'a> {
        match content {
            Content::Bytes(bytes) => Box::new(bytes.as_ref()),
            Content::Extent { source, offset, size } => {
                let file = self.sources()[*source].file.as_ref();
                Box::new(Extent { file, offset: *offset, left: *size })
            }
        }
    }
}

/// Files that share bytes because the package had them as hard links.
type Shared<'a> = BTreeMap<(usize, u64), (&'a str, &'a Node)>;

/// The earlier path that `node` is a hard link to, if it is one and nothing else differs.
fn linked<'a>(shared: &mut Shared<'a>, path: &'a str, node: &'a Node) -> Option<&'a str> {
    let Kind::File(Content::Extent { source, offset, size }) = &node.kind else { return None };
    if *size == 0 {
        return None;
    }
    match shared.get(&(*source, *offset)) {
        Some((earlier, other)) if (other.mode, &other.owner) == (node.mode, &node.owner) => {
            Some(earlier)
        }
        Some(_) => None,
        None => {
            shared.insert((*source, *offset), (path, node));
            None
        }
    }
}

/// Writes `tree` as a tar archive, sorted, with `mtime` for all and owners by number.
///
/// # Errors
/// When a package cannot be read or `out` refuses bytes.
pub fn write_tar(tree: &Tree, mtime: u64, out: impl Write) -> io::Result<()> {
    let mut builder = tar::Builder::new(BufWriter::with_capacity(1 << 18, out));
    let header = |kind, mode, uid: u32, gid: u32, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(u64::from(uid));
        header.set_gid(u64::from(gid));
        header.set_mtime(mtime);
        header.set_size(size);
        header
    };
    let mut root = header(tar::EntryType::Directory, 0o755, 0, 0, 0);
    builder.append_data(&mut root, "./", io::empty())?;
    let mut shared = Shared::new();
    for (path, node) in tree.nodes() {
        let (uid, gid) = (node.owner.uid, node.owner.gid);
        let make = |kind, size| header(kind, node.mode, uid, gid, size);
        match &node.kind {
            Kind::Directory => {
                let mut header = make(tar::EntryType::Directory, 0);
                builder.append_data(&mut header, format!("{path}/"), io::empty())?;
            }
            Kind::Symlink(target) => {
                builder.append_link(&mut make(tar::EntryType::Symlink, 0), path, target)?;
            }
            Kind::File(content) => {
                if let Some(earlier) = linked(&mut shared, path, node) {
                    builder.append_link(&mut make(tar::EntryType::Link, 0), path, earlier)?;
                } else {
                    let mut header = make(tar::EntryType::Regular, content.size());
                    builder.append_data(&mut header, path, tree.reader(content))?;
                }
            }
        }
    }
    builder.into_inner()?.flush()
}

/// Writes `tree` into the empty directory `dir` with `jobs` threads, as the caller's own files:
/// owners and set-id bits are left out.
///
/// # Errors
/// When a package cannot be read or the directory cannot be written.
pub fn write_directory(tree: &Tree, dir: &Path, jobs: usize) -> Result<(), MergeError> {
    let place = |path: &str| dir.join(path);
    let wrap = |path: PathBuf| move |source| MergeError::Write { path: path.clone(), source };
    let mut shared = Shared::new();
    let (mut files, mut hard) = (Vec::new(), Vec::new());
    for (path, node) in tree.nodes() {
        let at = place(path);
        match &node.kind {
            Kind::Directory => std::fs::create_dir(&at).map_err(wrap(at))?,
            Kind::Symlink(target) => symlink(target, &at).map_err(wrap(at))?,
            Kind::File(content) => match linked(&mut shared, path, node) {
                Some(earlier) => hard.push((path, earlier)),
                None => files.push((path, node.mode, content)),
            },
        }
    }
    let share = files.len().div_ceil(jobs.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = files
            .chunks(share)
            .map(|files| {
                scope.spawn(move || {
                    files.iter().try_for_each(|(path, mode, content)| {
                        let at = dir.join(path);
                        write_file(tree, &at, *mode, content)
                            .map_err(|source| MergeError::Write { path: at, source })
                    })
                })
            })
            .collect();
        for worker in workers {
            let panicked = |_| MergeError::Write {
                path: dir.to_owned(),
                source: io::Error::other("a writing thread panicked"),
            };
            worker.join().map_err(panicked)??;
        }
        Ok::<_, MergeError>(())
    })?;
    for (path, earlier) in hard {
        let at = place(path);
        std::fs::hard_link(place(earlier), &at).map_err(wrap(at))?;
    }
    Ok(())
}

fn write_file(tree: &Tree, at: &Path, mode: u32, content: &Content) -> io::Result<()> {
    let mode = mode & 0o755 | 0o600;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(at)?;
    io::copy(&mut tree.reader(content), &mut file)?;
    // The umask may have taken bits away.
    file.set_permissions(Permissions::from_mode(mode))
}

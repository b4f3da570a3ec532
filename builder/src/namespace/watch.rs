//! Tells a program that works from one that waits for what never comes, such as mkfs.erofs, whose
//! workers wait for each other once the disk is full.
//!
//! A program works as long as it, or what it started, uses processor time or writes. What is counted
//! is looks, not time: a machine that slept, or a build that was stopped, is no program that waits.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

/// Fewer bytes than these free is a full disk.
const FULL: u64 = 1 << 20;

/// How long a program may do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How long it may use no processor and write nothing.
    pub still: Duration,
    /// The same where a disk that it writes to is full.
    pub full: Duration,
    /// How often it is looked at.
    pub look: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            still: Duration::from_mins(10),
            full: Duration::from_secs(20),
            look: Duration::from_secs(2),
        }
    }
}

/// Why a program was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stuck {
    /// It did nothing for so long.
    Still(Duration),
    /// So did one whose output lies on a full disk.
    Full(PathBuf),
}

/// Watches the process `pid` until `ended` says that it is over. `None` if it worked all the time;
/// else why it must be ended now.
pub(super) fn watch(
    pid: u32,
    outputs: &[PathBuf],
    patience: Patience,
    ended: &Receiver<()>,
) -> Option<Stuck> {
    let (mut time, mut written) = (0, 0);
    let mut still = Duration::ZERO;
    loop {
        match ended.recv_timeout(patience.look) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return None,
        }
        let now = processor_time(pid);
        if now != time {
            (time, still) = (now, Duration::ZERO);
            continue;
        }
        // Only now, as a tree may be large.
        let now = outputs.iter().map(|path| size_of(path)).sum();
        if now != written {
            (written, still) = (now, Duration::ZERO);
            continue;
        }
        still += patience.look;
        let full = (still >= patience.full).then(|| outputs.iter().find(|path| is_full(path)));
        if let Some(path) = full.flatten() {
            return Some(Stuck::Full(path.clone()));
        }
        if still >= patience.still {
            return Some(Stuck::Still(still));
        }
    }
}

/// The ticks that a process, all below it, and those that they waited for have used.
fn processor_time(pid: u32) -> u64 {
    let mut children: BTreeMap<u32, Vec<(u32, u64)>> = BTreeMap::new();
    let mut total = 0;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that is gone meanwhile counts with who waited for it.
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((parent, ticks)) = parent_and_ticks(&stat) else { continue };
        if process == pid {
            total += ticks;
        }
        children.entry(parent).or_default().push((process, ticks));
    }
    let mut below = vec![pid];
    while let Some(parent) = below.pop() {
        for (child, ticks) in children.remove(&parent).unwrap_or_default() {
            total += ticks;
            below.push(child);
        }
    }
    total
}

/// Of a line of `/proc/PID/stat` (`proc_pid_stat(5)`): the parent, and utime, stime, cutime and cstime
/// together.
fn parent_and_ticks(stat: &str) -> Option<(u32, u64)> {
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let times = fields.get(11..15)?.iter();
    Some((parent, times.map(|field| field.parse::<u64>().unwrap_or(0)).sum()))
}

/// The bytes of all files at and below `path`, by length and by what is allocated.
fn size_of(path: &Path) -> u64 {
    let of = |meta: &Metadata| meta.len() + meta.blocks() * 512;
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    if !meta.is_dir() {
        return of(&meta);
    }
    let below = std::fs::read_dir(path).into_iter().flatten().flatten();
    below.map(|entry| size_of(&entry.path())).fold(of(&meta), u64::wrapping_add)
}

fn is_full(path: &Path) -> bool {
    free_bytes(path).is_some_and(|free| free < FULL)
}

/// How much may still be written where `path` lies, in bytes.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    let stat = statvfs(path).ok()?;
    Some(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194304 1 2 0 0 10 20 30 40 20 0 1 0 5 6 7";
        assert_eq!(parent_and_ticks(line), Some((3, 100)));
        assert_eq!(parent_and_ticks("7 (a) S 3 1"), None);
        assert_eq!(parent_and_ticks(""), None);
    }

    #[test]
    fn what_grows_below_a_folder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let before = size_of(dir.path());
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), "x").unwrap();
        let after = size_of(dir.path());
        assert!(after > before);
        std::fs::write(dir.path().join("a/b"), "xy").unwrap();
        assert_ne!(size_of(dir.path()), after);
        assert_eq!(size_of(&dir.path().join("gone")), 0);
    }
}

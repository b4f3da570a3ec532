//! Killed at every step of a push and of a pull, a store stays readable and the next run continues.

use std::io::Read;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::manifest::{Entry, ManifestBytes};
use casemate_registry::reference::{Selector, Tag};
use casemate_registry::store::{Expected, Options, Store, StoreError};

use crate::stores::{opened, published, pulled, read, tag, version_1, version_2};

/// What the child is told to do: push or pull, after how many steps to die, and where.
const JOB: &str = "CASEMATE_TEST_INTERRUPTED";

/// A store whose process is killed after so many steps.
#[derive(Debug)]
struct Dying {
    inner: Box<dyn Store>,
    left: AtomicUsize,
}

impl Dying {
    fn step(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            // Nothing is flushed, closed or cleaned up.
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
            std::thread::park();
        }
    }
}

impl Store for Dying {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn has(&self, blob: &Blob) -> Result<bool, StoreError> {
        self.inner.has(blob)
    }

    fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError> {
        self.step();
        self.inner.put(blob, bytes)
    }

    fn read(&self, blob: &Blob, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.step();
        self.inner.read(blob, from)
    }

    fn manifest(&self, selector: &Selector) -> Result<Option<ManifestBytes>, StoreError> {
        self.step();
        self.inner.manifest(selector)
    }

    fn commit(
        &self,
        manifest: &ManifestBytes,
        referrers: &[ManifestBytes],
        tag: Option<(&Tag, Expected)>,
    ) -> Result<(), StoreError> {
        self.step();
        self.inner.commit(manifest, referrers, tag)?;
        self.step();
        Ok(())
    }

    fn referrers(&self, subject: &Entry) -> Result<Vec<Entry>, StoreError> {
        self.step();
        self.inner.referrers(subject)
    }

    fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        self.inner.tags()
    }
}

fn store(dir: &Path) -> Box<dyn Store> {
    opened(&format!("file://{}/store", dir.display()), &Options::default())
}

/// Does nothing unless it is the child of one of the tests below.
#[test]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.splitn(3, ' ').collect();
    let [what, steps, dir] = words[..] else { panic!("{job}") };
    let dir = Path::new(dir);
    let dying = Dying { inner: store(dir), left: AtomicUsize::new(steps.parse().unwrap()) };
    match what {
        "push" => drop(published(&dying, &dir.join("two"), "v", Expected::Any).unwrap()),
        _ => drop(pulled(&dying, &Selector::Tag(tag("v")), &dir.join("out")).unwrap()),
    }
}

/// Runs the child; whether it came to its end.
fn run_child(what: &str, steps: usize, dir: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "interrupted::child"]);
    command.env(JOB, format!("{what} {steps} {}", dir.display()));
    let output = command.output().unwrap();
    let killed = output.status.signal() == Some(9);
    assert!(killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    !killed
}

fn current(dir: &Path) -> Sha256Hash {
    let found = store(dir).manifest(&Selector::Tag(tag("v"))).unwrap().unwrap();
    *found.sha256()
}

#[test]
fn a_killed_push_leaves_the_old_release_or_the_new() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (one, two, out) = (dir.join("one"), dir.join("two"), dir.join("out"));
    version_1(&one);
    version_2(&two);
    let old = published(store(dir).as_ref(), &one, "v", Expected::Any).unwrap().manifest;
    let (mut deaths, mut steps) = (0, 0);
    // Each run sends what the runs before did not: it gets further than they.
    while !run_child("push", steps, dir) {
        deaths += 1;
        steps += 1;
        let selector = Selector::Tag(tag("v"));
        let is_old = current(dir) == old;
        pulled(store(dir).as_ref(), &selector, &out).unwrap();
        assert!(read(&out) == read(if is_old { &one } else { &two }), "after {steps} steps");
        assert!(deaths < 200);
    }
    assert!(deaths > 3, "{deaths}");
    assert_ne!(current(dir), old);
    pulled(store(dir).as_ref(), &Selector::Tag(tag("v")), &out).unwrap();
    assert!(read(&out) == read(&two));
}

#[test]
fn a_killed_pull_leaves_what_was_there_and_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (one, two, out) = (dir.join("one"), dir.join("two"), dir.join("out"));
    version_1(&one);
    version_2(&two);
    published(store(dir).as_ref(), &one, "v", Expected::Any).unwrap();
    pulled(store(dir).as_ref(), &Selector::Tag(tag("v")), &out).unwrap();
    let new = published(store(dir).as_ref(), &two, "v", Expected::Any).unwrap();
    let (mut deaths, mut steps) = (0, 0);
    while !run_child("pull", steps, dir) {
        deaths += 1;
        // What was fetched before death is on the disk: fewer steps than chunks are left each time.
        steps += 2;
        assert!(read(&out) == read(&one) || read(&out) == read(&two), "after {steps} steps");
        assert!(deaths < 200);
    }
    let chunks: usize = new.descriptor.files().values().map(|file| file.chunks().count()).sum();
    assert!(deaths > 5 && steps < chunks, "{deaths} deaths, {steps} steps, {chunks} chunks");
    assert!(read(&out) == read(&two));
    let left = std::fs::read_dir(dir).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().contains("casemate-pull")
    });
    assert_eq!(left.count(), 0);
}

/// Two publishers at once: both tags are there, and every release is whole.
#[test]
fn publishers_do_not_lose_each_others_tags() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let one = dir.join("one");
    version_1(&one);
    let tags: Vec<String> = (0..8).map(|number| format!("t{number}")).collect();
    std::thread::scope(|scope| {
        for name in &tags {
            let one = &one;
            scope.spawn(move || {
                published(store(dir).as_ref(), one, name, Expected::Absent).unwrap()
            });
        }
    });
    let found: Vec<String> = store(dir).tags().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(found, tags);
}

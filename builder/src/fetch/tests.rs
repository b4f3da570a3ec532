//! Downloads over real connections: what a mirror does wrong is told, survived if another mirror
//! does better, and never ends up in the cache.

use std::path::PathBuf;

use casemate_measurements::hash::Sha256Hash;

use super::test_server::{Answer, Server};
use super::*;
use crate::lock::Closure;
use crate::progress::{Phase, Silent};

#[derive(Debug, Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn phase(&self, _name: &str, _total: Total) -> Box<dyn Phase> {
        Box::new(Silent)
    }

    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    cache: Cache,
    mirrors: Mirrors,
    servers: Vec<Server>,
    warnings: Warnings,
}

const PATH: &str = "pool/s/small_1%3a2_all.deb";
const OPTIONS: FetchOptions = FetchOptions {
    offline: false,
    jobs: 4,
    timeout: Duration::from_secs(5),
    patience: Patience { rounds: 3, pause: Duration::from_millis(1) },
};

fn bytes() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn package(bytes: &[u8]) -> LockedPackage {
    LockedPackage {
        name: "small".parse().unwrap(),
        version: "1:2".parse().unwrap(),
        architecture: "all".parse().unwrap(),
        archive: "debian".parse().unwrap(),
        suite: "trixie".parse().unwrap(),
        path: PATH.parse().unwrap(),
        size: bytes.len() as u64,
        sha256: Sha256Hash::of(bytes),
        closures: vec![Closure::Guest],
    }
}

impl Bench {
    /// A cache and as many mirrors.
    fn new(mirrors: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let servers: Vec<Server> = (0..mirrors).map(|_| Server::start()).collect();
        let mut list = Mirrors::default();
        for server in &servers {
            list.set("test", &format!("debian={}", server.url("/debian/"))).unwrap();
        }
        Self { _dir: dir, cache, mirrors: list, servers, warnings: Warnings::default() }
    }

    fn answer(&self, mirror: usize, answers: Vec<Answer>) {
        self.servers[mirror].answer(&format!("/debian/{PATH}"), answers);
    }

    fn fetch(&self) -> Result<FetchSummary, FetchError> {
        fetch([&package(&bytes())], &self.cache, &self.mirrors, &OPTIONS, &self.warnings)
    }

    fn warnings(&self) -> String {
        self.warnings.0.lock().unwrap().join("\n")
    }

    fn blob(&self) -> PathBuf {
        self.cache.blob(package(&bytes()).sha256)
    }

    fn ranges(&self, mirror: usize) -> Vec<Option<usize>> {
        self.servers[mirror].asked().into_iter().map(|(_, range)| range).collect()
    }

    /// The file is in the cache, and nothing half-done beside it.
    fn assert_whole(&self) {
        assert_eq!(std::fs::read(self.blob()).unwrap(), bytes());
        assert_eq!(std::fs::read_dir(self.blob().parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn a_file_is_fetched_once() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(bytes())]);
    let summary = bench.fetch().unwrap();
    assert_eq!(summary, FetchSummary { cached: 0, fetched: 1, bytes: 800_000 });
    bench.assert_whole();
    let summary = bench.fetch().unwrap();
    assert_eq!(summary, FetchSummary { cached: 1, fetched: 0, bytes: 0 });
    assert_eq!(bench.ranges(0), [None]);
}

#[test]
fn a_mirror_with_other_bytes_is_named_and_the_next_one_tried() {
    let bench = Bench::new(2);
    let mut other = bytes();
    other[100] ^= 1;
    bench.answer(0, vec![Answer::File(other.clone())]);
    bench.answer(1, vec![Answer::File(bytes())]);
    bench.fetch().unwrap();
    bench.assert_whole();
    let warnings = bench.warnings();
    assert!(warnings.contains(bench.servers[0].url("/debian/pool").as_str()), "{warnings}");
    assert!(warnings.contains("it sent other bytes: SHA-256"), "{warnings}");
    let alone = Bench::new(1);
    alone.answer(0, vec![Answer::File(other)]);
    let error = alone.fetch().unwrap_err().to_string();
    assert!(error.starts_with("could not fetch small_1:2_all:\n"), "{error}");
    assert!(error.contains(&package(&bytes()).sha256.to_string()), "{error}");
    assert!(!alone.blob().exists());
    assert_eq!(alone.ranges(0), [None], "a wrong file is not asked for again");
}

#[test]
fn a_truncated_download_is_resumed() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::Truncated(bytes(), 300_000), Answer::File(bytes())]);
    bench.fetch().unwrap();
    bench.assert_whole();
    assert_eq!(bench.ranges(0), [None, Some(300_000)]);
    assert!(bench.warnings().contains("after 300000"), "{}", bench.warnings());
}

#[test]
fn a_killed_download_is_resumed_by_the_next_run() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(bytes())]);
    let part = bench.cache.part(package(&bytes()).sha256);
    std::fs::write(&part, &bytes()[..500_000]).unwrap();
    bench.fetch().unwrap();
    bench.assert_whole();
    assert_eq!(bench.ranges(0), [Some(500_000)]);
}

#[test]
fn a_partial_file_of_wrong_bytes_does_no_harm() {
    for (length, expected) in [(500_000, vec![Some(500_000), None]), (800_000, vec![None])] {
        let bench = Bench::new(1);
        bench.answer(0, vec![Answer::File(bytes())]);
        std::fs::write(bench.cache.part(package(&bytes()).sha256), vec![1; length]).unwrap();
        bench.fetch().unwrap();
        bench.assert_whole();
        assert_eq!(bench.ranges(0), expected);
    }
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(bytes())]);
    std::fs::write(bench.cache.part(package(&bytes()).sha256), vec![1; 900_000]).unwrap();
    bench.fetch().unwrap();
    bench.assert_whole();
}

#[test]
fn a_mirror_that_does_not_resume_starts_again() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::NoRanges(bytes())]);
    std::fs::write(bench.cache.part(package(&bytes()).sha256), &bytes()[..500_000]).unwrap();
    bench.fetch().unwrap();
    bench.assert_whole();
}

#[test]
fn a_wrong_length_is_refused_before_it_is_read() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(vec![0; 5])]);
    let error = bench.fetch().unwrap_err().to_string();
    assert!(error.contains("its file has 5 bytes, expected 800000"), "{error}");
}

#[test]
fn a_mirror_in_trouble_is_asked_again_and_then_passed_over() {
    let bench = Bench::new(2);
    bench.answer(0, vec![Answer::Status(503)]);
    bench.answer(1, vec![Answer::HangUp, Answer::Status(500), Answer::File(bytes())]);
    bench.fetch().unwrap();
    bench.assert_whole();
    assert_eq!(bench.ranges(0).len(), 3);
}

#[test]
fn a_mirror_that_is_gone_is_named() {
    let mut bench = Bench::new(0);
    // A port that was just closed.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}/debian");
    bench.mirrors.set("test", &format!("debian={base}")).unwrap();
    let error = bench.fetch().unwrap_err().to_string();
    assert!(error.starts_with("could not fetch small_1:2_all:"), "{error}");
    assert!(error.contains(&base), "{error}");
}

#[test]
fn what_comes_from_nowhere_names_its_archive_and_the_mend_before_anything_is_fetched() {
    let bench = Bench::new(1);
    let mut other = package(b"other");
    other.archive = "debian-security".parse().unwrap();
    let all = [package(&bytes()), other];
    let error = fetch(&all, &bench.cache, &bench.mirrors, &OPTIONS, &Silent).unwrap_err();
    assert_eq!(error.to_string(), "no mirror is known for small_1:2_all");
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("archive debian-security is known; looked at:"), "{why}");
    assert!(why.contains("--mirror debian-security="), "{why}");
    assert!(bench.ranges(0).is_empty(), "nothing was asked for");
    // What is in the cache already needs no mirror.
    bench.cache.put(b"other").unwrap();
    bench.servers[0].file(&format!("/debian/{PATH}"), &bytes());
    fetch(&all, &bench.cache, &bench.mirrors, &OPTIONS, &Silent).unwrap();
}

#[test]
fn packages_in_no_mirror_are_all_named_with_a_way_out() {
    let bench = Bench::new(2);
    let mut other = package(b"other");
    other.name = "other".parse().unwrap();
    other.path = "pool/o/other.deb".parse().unwrap();
    let mut third = package(b"third");
    third.path = "pool/t/third.deb".parse().unwrap();
    bench.servers[1].file("/debian/pool/t/third.deb", b"third");
    let all = [package(&bytes()), other, third.clone()];
    let error = fetch(&all, &bench.cache, &bench.mirrors, &OPTIONS, &Silent).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no mirror has small_1:2_all"), "{text}");
    assert!(text.contains("no mirror has other_1:2_all"), "{text}");
    assert!(text.contains("casemate image lock <dir> --update small --update other"), "{text}");
    assert!(bench.cache.has(third.sha256, None), "the others are fetched all the same");
}

#[test]
fn a_store_by_hash_helps_out() {
    let mut bench = Bench::new(1);
    let store = tempfile::tempdir().unwrap();
    std::fs::write(store.path().join(package(&bytes()).sha256.to_string()), bytes()).unwrap();
    bench.mirrors.set("test", &format!("store=file://{}", store.path().display())).unwrap();
    bench.fetch().unwrap();
    bench.assert_whole();
}

#[test]
fn offline_names_what_is_missing_and_asks_nobody() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(bytes())]);
    let options = FetchOptions { offline: true, ..OPTIONS };
    let packages = [package(&bytes())];
    let error = fetch(&packages, &bench.cache, &bench.mirrors, &options, &Silent).unwrap_err();
    assert_eq!(error.to_string(), "not in the cache, and fetching offline:\n    small_1:2_all");
    assert!(bench.servers[0].asked().is_empty());
    bench.fetch().unwrap();
    fetch(&packages, &bench.cache, &bench.mirrors, &options, &Silent).unwrap();
}

#[test]
fn a_full_disk_is_told_at_once() {
    let bench = Bench::new(2);
    bench.answer(0, vec![Answer::File(bytes())]);
    let part = bench.cache.part(package(&bytes()).sha256);
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = bench.fetch().unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    assert!(text.contains("cannot write") && text.contains("No space left"), "{text}");
    assert!(!bench.blob().exists());
    assert!(bench.servers[1].asked().is_empty(), "another mirror would not help");
}

#[test]
fn two_fetches_at_once_share_the_work() {
    let bench = Bench::new(1);
    bench.answer(0, vec![Answer::File(bytes())]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| bench.fetch().unwrap());
        }
    });
    bench.assert_whole();
    assert_eq!(bench.ranges(0), [None]);
}

#[test]
fn crates_come_from_cargo_then_from_a_mirror() {
    let bench = Bench::new(1);
    let home = tempfile::tempdir().unwrap();
    let registry = home.path().join("registry/cache/index-1");
    std::fs::create_dir_all(&registry).unwrap();
    let entry = |name: &str, bytes: &[u8]| LockedCrate {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        sha256: Sha256Hash::of(bytes),
    };
    let all = [entry("a", b"crate a"), entry("b", b"crate b"), entry("c", b"crate c")];
    std::fs::write(registry.join("a-1.0.0.crate"), b"crate a").unwrap();
    std::fs::write(registry.join("b-1.0.0.crate"), b"another b").unwrap();
    bench.servers[0].file("/crates/b/b-1.0.0.crate", b"crate b");
    bench.servers[0].file("/crates/c/c-1.0.0.crate", b"crate c");
    let from = CrateSources {
        workspace: home.path().to_owned(),
        cargo_home: Some(home.path().to_owned()),
        run_cargo: false,
    };
    let get = |mirrors: &Mirrors, options: &FetchOptions| {
        fetch_crates(&all, &bench.cache, &from, mirrors, options, &Silent)
    };
    let offline = FetchOptions { offline: true, ..OPTIONS };
    let error = get(&Mirrors::default(), &offline).unwrap_err().to_string();
    assert!(error.ends_with("offline:\n    b-1.0.0.crate\n    c-1.0.0.crate"), "{error}");
    let error = get(&Mirrors::default(), &OPTIONS).unwrap_err().to_string();
    assert!(error.contains("no source has crates"), "{error}");
    let mut mirrors = Mirrors::default();
    mirrors.set("test", &format!("crates={}", bench.servers[0].url("/crates"))).unwrap();
    let summary = get(&mirrors, &OPTIONS).unwrap();
    assert_eq!((summary.cached, summary.fetched), (1, 2));
    for entry in &all {
        assert!(bench.cache.has(entry.sha256, None), "{entry}");
    }
}

//! One lock has one text, and a text that is not one is told by line and field.

use std::path::Path;

use super::*;

fn package(name: &str, version: &str, closures: &[Closure]) -> LockedPackage {
    LockedPackage {
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
        architecture: "amd64".parse().unwrap(),
        archive: "debian".parse().unwrap(),
        suite: "trixie".parse().unwrap(),
        path: format!("pool/main/x/{name}_{version}_amd64.deb").parse().unwrap(),
        size: 7,
        sha256: Sha256Hash::of(format!("{name}{version}").as_bytes()),
        closures: closures.to_vec(),
    }
}

fn lock() -> Lock {
    let suite = LockedSuite {
        archive: "debian".parse().unwrap(),
        name: "trixie".parse().unwrap(),
        date: "Sat, 12 Sep 2026 07:55:41 UTC".to_owned(),
        release_sha256: Sha256Hash::of(b"release"),
        signer: "4CB50190207B4758A3F73A796ED0E7B82643E131".parse().unwrap(),
    };
    Lock::new(
        Sha256Hash::of(b"request"),
        vec![suite],
        vec![
            package("zlib1g", "1:1.3-1", &[Closure::Tools]),
            package("bash", "5.2-1", &[Closure::Tools]),
            package("bash", "5.2-1", &[Closure::Guest]),
        ],
    )
}

fn parse(text: &str) -> Result<Lock, LockError> {
    Lock::parse(Path::new("images/small/image.lock"), text)
}

#[test]
fn it_is_sorted_merged_and_read_back() {
    let lock = lock();
    let names: Vec<_> = lock.packages().iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["bash", "zlib1g"]);
    assert_eq!(lock.packages()[0].closures, [Closure::Guest, Closure::Tools]);
    assert_eq!(lock.closure(&Closure::Guest).count(), 1);
    assert_eq!(lock.closure(&Closure::Tools).count(), 2);
    assert_eq!(parse(&lock.to_text()).unwrap(), lock);
}

#[test]
fn it_is_saved_whole_and_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Lock::load(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("casemate image lock"), "{missing}");
    lock().save(dir.path()).unwrap();
    lock().save(dir.path()).unwrap();
    assert_eq!(Lock::load(dir.path()).unwrap(), lock());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn mistakes_name_line_and_field() {
    let good = lock().to_text();
    let hash = package("bash", "5.2-1", &[]).sha256.to_string();
    for (from, to, expected) in [
        ("schema = 1", "schema = 9", "image.lock:2:10: schema: schema 9 is unknown"),
        (
            "name = \"bash\"",
            "name = \"zz\"",
            "package[1].name: zlib1g_1:1.3-1_amd64 is out of order",
        ),
        ("size = 7\n", "size = \"7\"\n", "package[0].size: "),
        (hash.as_str(), "00", "image.lock:20:10: package[0].sha256: \"00\" is not a SHA-256"),
        ("pool/main/x/bash", "../x/bash", "package[0].path: "),
        ("\"guest\", \"tools\"", "\"tools\", \"guest\"", "package[0].closures: expected one"),
        ("\"guest\", \"tools\"", "\"cloud\"", "package[0].closures[0]: \"cloud\" is not a closure"),
        ("signer = ", "signed = ", "suite[0].signed: unknown field"),
    ] {
        let error = parse(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
    let other = package("zlib1g", "1:1.3-1", &[]).sha256.to_string();
    let error = parse(&good.replace(&other, &hash)).unwrap_err().to_string();
    assert!(error.contains("package[1].sha256: two packages with one hash"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(at in 0_usize..2000, to in "(?s).{0,8}") {
        let mut text = lock().to_text();
        let at = at % text.len();
        text.replace_range(at..=at, &to);
        let _ = parse(&text);
    }
}

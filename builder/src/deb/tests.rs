//! Packages of every compression are unpacked; what is broken, damaged or another package is
//! refused, and no bytes make the reader panic.

use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::fetch::Cache;
use crate::lock::{Closure, LockedPackage};
use crate::progress::Silent;

const CONTROL: &str = "Package: small\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@b>\n";

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn pack(kind: &str, bytes: &[u8]) -> Vec<u8> {
    match kind {
        "" => bytes.to_vec(),
        ".gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

fn member(out: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    writeln!(out, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, bytes.len()).unwrap();
    out.extend_from_slice(bytes);
    if bytes.len() % 2 == 1 {
        out.push(b'\n');
    }
}

pub(crate) fn deb(kind: &str, control: &str, data: &[u8]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    member(&mut out, "debian-binary", b"2.0\n");
    let control = tar_of(&[("./control", control.as_bytes())]);
    member(&mut out, &format!("control.tar{kind}"), &pack(kind, &control));
    member(&mut out, &format!("data.tar{kind}"), &pack(kind, data));
    out
}

fn locked(bytes: &[u8]) -> LockedPackage {
    LockedPackage {
        name: "small".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        architecture: "all".parse().unwrap(),
        archive: "debian".parse().unwrap(),
        suite: "trixie".parse().unwrap(),
        path: "pool/s/small.deb".parse().unwrap(),
        size: bytes.len() as u64,
        sha256: Sha256Hash::of(bytes),
        closures: vec![Closure::Guest],
    }
}

fn cache() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path()).unwrap();
    (dir, cache)
}

#[test]
fn every_compression_is_unpacked() {
    let data = tar_of(&[("./usr/x", &vec![7; 100_000])]);
    let (_dir, cache) = cache();
    for kind in ["", ".gz", ".xz", ".zst"] {
        let bytes = deb(kind, CONTROL, &data);
        cache.put(&bytes).unwrap();
        let package = locked(&bytes);
        let unpacked = unpack_all(&cache, &[&package], 2, &Silent).unwrap().remove(0);
        assert_eq!(std::fs::read(&unpacked.tar).unwrap(), data, "{kind}");
        assert_eq!(unpacked.size, data.len() as u64);
        assert_eq!(unpacked.control.maintainer(), "A <a@b>");
        assert_eq!(read_control(&cache.blob(package.sha256)).unwrap(), unpacked.control);
        // A second time it is found, even without the package itself.
        std::fs::remove_file(cache.blob(package.sha256)).unwrap();
        assert_eq!(unpack(&cache, &package).unwrap().tar, unpacked.tar);
    }
    assert_eq!(std::fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn an_unpacked_archive_is_checked_after_another_boot() {
    let data = tar_of(&[("./usr/x", b"text")]);
    let bytes = deb(".xz", CONTROL, &data);
    let (_dir, cache) = cache();
    cache.put(&bytes).unwrap();
    let package = locked(&bytes);
    let tar = unpack(&cache, &package).unwrap().tar;
    let note = tar.with_extension("json");
    let text = std::fs::read_to_string(&note).unwrap();
    let boot = text.split("\"boot\":\"").nth(1).unwrap().trim_end_matches("\"}").to_owned();
    std::fs::write(&note, text.replace(&boot, "another")).unwrap();
    // The right length, as a file system may leave it after power loss, but other bytes.
    std::fs::write(&tar, vec![0; data.len()]).unwrap();
    assert_eq!(std::fs::read(unpack(&cache, &package).unwrap().tar).unwrap(), data);
    // A note without an archive, and an archive without a note.
    std::fs::write(&tar, b"half").unwrap();
    assert_eq!(std::fs::read(unpack(&cache, &package).unwrap().tar).unwrap(), data);
    std::fs::remove_file(&note).unwrap();
    std::fs::write(&tar, b"half").unwrap();
    assert_eq!(std::fs::read(unpack(&cache, &package).unwrap().tar).unwrap(), data);
}

#[test]
fn what_is_not_the_locked_package_is_refused() {
    let (_dir, cache) = cache();
    let bytes = deb(".xz", CONTROL, &tar_of(&[]));
    let package = locked(&bytes);
    let error = unpack(&cache, &package).unwrap_err().to_string();
    assert!(error.starts_with("small_1.0_all is not in the cache"), "{error}");
    let mut damaged = bytes.clone();
    let last = damaged.len() - 20;
    damaged[last] ^= 1;
    std::fs::write(cache.blob(package.sha256), &damaged).unwrap();
    let error = unpack(&cache, &package).unwrap_err().to_string();
    assert!(error.contains("is damaged") && error.contains(&package.sha256.to_string()), "{error}");
    let other = deb(".xz", &CONTROL.replace("1.0", "2.0"), &tar_of(&[]));
    cache.put(&other).unwrap();
    let error = unpack(&cache, &locked(&other)).unwrap_err().to_string();
    assert!(error.ends_with("it says that it is small_2.0_all"), "{error}");
    assert!(!cache.root().join("unpacked").read_dir().unwrap().any(|_| true));
}

#[test]
fn malformed_packages_are_refused() {
    let (_dir, cache) = cache();
    let whole = deb(".gz", CONTROL, &tar_of(&[("./x", b"y")]));
    let try_one = |bytes: &[u8]| {
        cache.put(bytes).unwrap();
        unpack(&cache, &locked(bytes)).unwrap_err().to_string()
    };
    assert!(try_one(b"!<arch>X").ends_with("it is no ar archive"));
    for cut in [3, 30, 70, 100, whole.len() / 2, whole.len() - 30] {
        let error = try_one(&whole[..cut]);
        assert!(
            error.ends_with("it ends too early") || error.contains("does not decompress"),
            "{cut}: {error}"
        );
    }
    let text = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        try_one(&bytes)
    };
    assert!(text("2.0\n", "3.0\n").ends_with("its format version is \"3.0\", expected 2.x"));
    assert!(text("control.tar.gz", "control.tar.lz").contains("control.tar was expected"));
    assert!(text("data.tar.gz", "data.tar.xz").contains("does not decompress"));
    assert!(text("4         `\n", "-4        `\n").ends_with("a member is broken"));
    let mut no_control = b"!<arch>\n".to_vec();
    member(&mut no_control, "debian-binary", b"2.0\n");
    member(&mut no_control, "control.tar", &tar_of(&[("./md5sums", b"")]));
    assert!(try_one(&no_control).ends_with("it has no control file"));
}

proptest! {
    #[test]
    fn no_bytes_panic(at in 0_usize..1200, byte: u8, kind in 0_usize..4, cut in 0_usize..1200) {
        let kind = ["", ".gz", ".xz", ".zst"][kind];
        let mut bytes = deb(kind, CONTROL, &tar_of(&[("./x", b"y")]));
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        let mut sink = Vec::new();
        let _ = Parts::open(bytes.as_slice()).and_then(|mut parts| {
            let _ = parts.control()?;
            parts.data(&mut sink)
        });
    }

    #[test]
    fn no_random_bytes_panic(bytes: Vec<u8>) {
        let mut with_magic = b"!<arch>\n".to_vec();
        with_magic.extend_from_slice(&bytes);
        let _ = Parts::open(with_magic.as_slice()).and_then(|mut parts| parts.control());
    }
}

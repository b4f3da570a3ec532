use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use super::*;

/// Writes a package; an entry is `d path`, `f path text`, `l path target`, `h path target`, with
/// an optional mode in front of the path.
fn package(dir: &tempfile::TempDir, name: &str, entries: &str) -> Package {
    let tar = dir.path().join(format!("{name}.tar"));
    let mut builder = tar::Builder::new(std::fs::File::create(&tar).unwrap());
    for entry in entries.lines().map(str::trim).filter(|e| !e.is_empty()) {
        let mut words: Vec<&str> = entry.split(' ').collect();
        let mode = u32::from_str_radix(words[1], 8).ok();
        if mode.is_some() {
            words.remove(1);
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode.unwrap_or(if words[0] == "d" { 0o755 } else { 0o644 }));
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(77);
        header.set_username("root").unwrap();
        header.set_groupname("root").unwrap();
        header.set_size(0);
        let path = format!("./{}", words[1]);
        match words[0] {
            "d" => {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            "f" => {
                header.set_size(words[2].len() as u64);
                builder.append_data(&mut header, path, words[2].as_bytes()).unwrap();
            }
            "l" | "h" => {
                let hard = words[0] == "h";
                let kind = if hard { tar::EntryType::Link } else { tar::EntryType::Symlink };
                header.set_entry_type(kind);
                builder.append_link(&mut header, path, words[2]).unwrap();
            }
            "c" => {
                header.set_entry_type(tar::EntryType::Char);
                builder.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            other => panic!("{other}"),
        }
    }
    builder.into_inner().unwrap().flush().unwrap();
    Package { name: name.to_owned(), sha256: Sha256Hash::of(entries.as_bytes()), tar }
}

fn sample(dir: &tempfile::TempDir) -> Vec<Package> {
    let long = "x".repeat(180);
    vec![
        package(dir, "base", "d .\nl bin usr/bin\nl lib usr/lib\nd usr\nd usr/bin\nd 1777 tmp"),
        package(dir, "perl", "f 755 usr/bin/perl elf\nh 755 usr/bin/perl5 ./usr/bin/perl"),
        package(dir, "old", "d lib\nd lib/x\nf lib/x/a alpha\nf 4755 bin/su sh\nd usr"),
        package(dir, "long", &format!("f usr/lib/{long}/{long} deep")),
    ]
}

fn tar_of(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tar(tree, 5, &mut bytes).unwrap();
    bytes
}

#[test]
fn the_order_of_packages_and_threads_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let packages = sample(&dir);
    let first = merge(&packages, 1, 0).unwrap();
    for seed in 1..20 {
        let tree = merge(&packages, 3, seed).unwrap();
        assert_eq!(tree.digest(), first.digest());
        assert_eq!(tar_of(&tree), tar_of(&first));
    }
    assert_ne!(shuffled(9, 1), shuffled(9, 2));
    assert_eq!(shuffled(3, 0), [0, 1, 2]);
}

#[test]
fn aliases_go_below_usr_and_parents_exist() {
    let dir = tempfile::tempdir().unwrap();
    let tree = merge(&sample(&dir), 2, 0).unwrap();
    assert_eq!(tree.get("lib").unwrap().kind, Kind::Symlink("usr/lib".into()));
    assert_eq!(tree.read("usr/lib/x/a", "").unwrap(), b"alpha");
    assert_eq!(tree.get("usr/bin/su").unwrap().mode, 0o4755);
    assert!(tree.get("bin/su").is_none());
    let long = format!("usr/lib/{}", "x".repeat(180));
    assert_eq!(tree.get(&long).unwrap().kind, Kind::Directory);
    let below: Vec<_> = tree.below("usr/bin").map(|(p, _)| p).collect();
    assert_eq!(below, ["usr/bin", "usr/bin/perl", "usr/bin/perl5", "usr/bin/su"]);
}

#[test]
fn the_archive_is_sorted_with_one_time_and_its_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = tar_of(&merge(&sample(&dir), 2, 0).unwrap());
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 5);
        let path = entry.path().unwrap().to_string_lossy().trim_end_matches('/').to_owned();
        let link = entry.link_name().unwrap().map(|l| l.to_string_lossy().into_owned());
        seen.push((path, link));
    }
    assert!(seen.is_sorted(), "{seen:?}");
    assert!(seen.contains(&("usr/bin/perl5".into(), Some("usr/bin/perl".into()))), "{seen:?}");
    assert!(seen.contains(&("bin".into(), Some("usr/bin".into()))));
}

#[test]
fn a_directory_is_written_as_the_callers_own() {
    let dir = tempfile::tempdir().unwrap();
    let tree = merge(&sample(&dir), 2, 0).unwrap();
    let out = tempfile::tempdir().unwrap();
    write_directory(&tree, out.path(), 3).unwrap();
    let meta = std::fs::metadata(out.path().join("bin/su")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    assert_eq!(std::fs::read(out.path().join("usr/bin/perl5")).unwrap(), b"elf");
    assert_eq!(std::fs::metadata(out.path().join("usr/bin/perl5")).unwrap().nlink(), 2);
}

#[test]
fn overlaps_name_both_packages_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    for (a, b) in [
        ("f usr/x one", "f usr/x one"),
        ("f usr/x one", "d usr/x"),
        ("d 755 usr/x", "d 1777 usr/x"),
        ("f bin/x one", "f usr/bin/x one"),
    ] {
        let packages = [package(&dir, "beta", b), package(&dir, "alpha", a)];
        for seed in 0..4 {
            let error = merge(&packages, 2, seed).unwrap_err().to_string();
            assert!(error.contains("alpha and beta both hold /usr/"), "{error}");
        }
    }
}

#[test]
fn what_has_no_place_in_an_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (entries, wanted) in [
        ("c dev/sda", "no file, directory or link"),
        ("h usr/y usr/gone", "hard link"),
        ("f usr/x one\nf usr/x/y two", "no directory"),
        ("h usr/y ../../etc/shadow", "climbs"),
    ] {
        let error = merge(&[package(&dir, "bad", entries)], 1, 0).unwrap_err().to_string();
        assert!(error.contains(wanted), "{entries}: {error}");
    }
    let cut = package(&dir, "cut", "f usr/x one");
    std::fs::write(&cut.tar, &std::fs::read(&cut.tar).unwrap()[..513]).unwrap();
    let tree = merge(&[cut], 1, 0).unwrap();
    assert!(matches!(tree.read("usr/x", ""), Err(MergeError::Read { .. })));
}

#[test]
fn later_steps_replace_files_but_never_what_holds_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut tree = merge(&sample(&dir), 1, 0).unwrap();
    let before = tree.digest();
    tree.put_file("usr/bin/perl", 0o755, b"none").unwrap();
    assert_ne!(tree.digest(), before);
    assert!(tree.put_file("usr/bin", 0o644, b"").is_err());
    assert!(tree.put_file("bin/x", 0o644, b"").is_err());
    tree.put_link("etc/deep/link", "../x").unwrap();
    assert_eq!(tree.get("etc/deep").unwrap().kind, Kind::Directory);
}

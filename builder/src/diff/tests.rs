use super::*;
use crate::initrd::cpio::{Archive, Node};

fn initrd(mtime: u32, files: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut archive = Archive::default();
    for (path, mode, text) in files {
        let bytes = text.as_bytes().to_vec();
        archive.add(path, Node::File { mode: *mode, bytes }).unwrap();
    }
    let mut bytes = Vec::new();
    archive.write(mtime, &mut bytes).unwrap();
    bytes
}

fn release(dir: &Path, files: &[(&str, &[u8])]) {
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join(FILE_NAME), b"{}").unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

fn compare(first: &[(&str, &[u8])], second: &[(&str, &[u8])]) -> DiffReport {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    release(&a, first);
    release(&b, second);
    diff(&a, &b).unwrap()
}

#[test]
fn equal_releases_are_identical() {
    let files: &[(&str, &[u8])] = &[("vmlinuz", b"kernel"), ("initrd", b"x")];
    let report = compare(files, files);
    assert!(report.identical());
    assert_eq!(report.same, ["initrd", "vmlinuz", "manifest.json"]);
}

#[test]
fn the_first_differing_file_inside_an_initrd_is_named() {
    let files =
        [("etc/a", 0o644, "one"), ("etc/b", 0o644, "built 2025-01-01"), ("init", 0o755, "")];
    let base = initrd(7, &files);
    for (mtime, changed, what, path, cause) in [
        (7, ("etc/b", 0o644, "built 2026-11-22"), "content", "etc/b", Cause::Timestamp),
        (7, ("etc/b", 0o640, "built 2025-01-01"), "mode", "etc/b", Cause::Mode),
        (8, files[1], "time", "etc", Cause::Time),
        (7, ("etc/c", 0o644, ""), "presence", "etc/b", Cause::Presence),
    ] {
        let other = initrd(mtime, &[files[0], changed, files[2]]);
        let report = compare(&[("initrd", &base)], &[("initrd", &other)]);
        let [found] = report.differences.as_slice() else { panic!("{report:?}") };
        assert_eq!(found.artifact, "initrd");
        assert_eq!((found.what, found.path.as_deref()), (what, Some(path)), "{found:?}");
        assert_eq!(found.cause, cause);
    }
    let other = initrd(7, &[files[0], ("etc/b", 0o644, "built 2026-11-22"), files[2]]);
    let report = compare(&[("initrd", &base)], &[("initrd", &other)]);
    assert_eq!(report.differences[0].offset, Some(9));
    let text = report.to_string();
    assert!(
        text.contains("differs  initrd: /etc/b: content") && text.contains("at byte 9"),
        "{text}"
    );
    assert!(text.contains("2026-11-22"), "{text}");
}

#[test]
fn a_damaged_file_system_is_not_called_the_same() {
    let whole = initrd(7, &[("etc/a", 0o644, "one")]);
    let mut damaged = whole.clone();
    damaged[0] ^= 1;
    let report = compare(&[("initrd", &whole)], &[("initrd", &damaged)]);
    assert_eq!(report.differences[0].cause, Cause::Unreadable);
    let mut padded = whole.clone();
    padded.push(0);
    let report = compare(&[("initrd", &whole)], &[("initrd", &padded)]);
    assert_eq!(report.differences[0].cause, Cause::Container);
}

#[test]
fn causes_are_told_from_contents() {
    let gzip = |time: u8| [0x1f, 0x8b, 8, 0, time, 0, 0, 0, 0, 3];
    for (a, b, cause) in [
        (&b"b\na\nc\n"[..], &b"a\nb\nc\n"[..], Cause::Order),
        (b"see /tmp/x1/main.c", b"see /tmp/x2/main.c", Cause::BuildPath),
        (b"at 1735689600.", b"at 1735689601.", Cause::Timestamp),
        (b"made 12:30:01", b"made 12:31:01", Cause::Timestamp),
        (b"built", b"built on Sun Nov 22", Cause::Timestamp),
        (b"\x00\x01\x02", b"\x00\x01\x03", Cause::Unknown),
        (&gzip(1), &gzip(2), Cause::GzipTime),
    ] {
        let report = compare(&[("vmlinuz", a)], &[("vmlinuz", b)]);
        assert_eq!(report.differences[0].cause, cause, "{report}");
    }
}

#[test]
fn a_missing_file_and_one_of_another_length_are_told() {
    let report = compare(&[("vmlinuz", b"kernel")], &[]);
    assert_eq!(report.differences[0].what, "presence");
    assert_eq!(report.differences[0].second, "missing");
    let report = compare(&[("vmlinuz", b"kernel")], &[("vmlinuz", b"kernel and more")]);
    assert_eq!(report.differences[0].offset, Some(6));
    let report = compare(&[("note", b"1")], &[("note", b"2")]);
    assert_eq!(report.differences[0].artifact, "note");
}

#[test]
fn what_follows_from_other_files_is_told_last() {
    let report = compare(
        &[("root.img", b"a"), ("cmdline", b"hash=1"), ("sbom.json", b"{}")],
        &[("root.img", b"b"), ("cmdline", b"hash=2"), ("sbom.json", b"{}")],
    );
    let names: Vec<_> = report.differences.iter().map(|d| d.artifact.as_str()).collect();
    assert_eq!(names, ["root.img", "cmdline"]);
    assert_eq!(report.differences[1].cause, Cause::Follows);
}

#[test]
fn only_releases_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let error = diff(dir.path(), dir.path()).unwrap_err();
    assert!(matches!(error, DiffError::NotARelease { .. }), "{error}");
}

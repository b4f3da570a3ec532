//! Locks made from a signed archive with apt's own solver.

use std::sync::Mutex;

use super::fake_archive::{Archive, Key};
use super::{Lock, ResolveError};
use crate::fetch::test_server::{Answer, Server};
use crate::progress::{Phase, Progress, Silent, Total};

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

/// An archive with what every recipe of these tests needs.
fn archive() -> Archive {
    let mut archive = Archive::new();
    archive.offer("trixie", "libc", "2.1", "");
    archive.offer("trixie", "shell", "5.0", "Essential: yes\nDepends: libc (>= 2.0)\n");
    archive.offer("trixie", "dpkg", "1.22", "Essential: yes\nDepends: tar-tool\n");
    archive.offer("trixie", "tar-tool", "1.0", "");
    archive.offer("trixie", "linux-image-cloud", "6.2", "Depends: linux-image-6.2 (= 6.2-1)\n");
    archive.offer("trixie", "linux-image-6.2", "6.2-1", "Depends: initramfs\n");
    archive.offer("trixie", "compiler", "1.0", "");
    archive.offer("forky", "compiler", "2.0", "Depends: libc, runtime (= 2.0)\n");
    archive.offer("forky", "runtime", "2.0", "");
    archive.offer("forky", "ovmf", "2026.08", "Depends: not-there\n");
    archive.offer("trixie", "server", "1.0", "Depends: libserver (>= 1.0), dpkg\n");
    archive.offer("trixie", "libserver", "1.0", "Depends: helper | other\nRecommends: manual\n");
    archive.offer("trixie", "helper", "1.0", "");
    archive.offer("trixie", "other", "1.0", "");
    archive.offer("trixie", "manual", "1.0", "");
    archive.offer("forky", "shell", "9.0", "Essential: yes\n");
    archive.recipe(&["server"], &["dpkg"]);
    archive.publish();
    archive
}

fn error(archive: &Archive) -> String {
    archive.lock(None, &Silent).unwrap_err().to_string()
}

const LOCKED: [&str; 9] = [
    "compiler 2.0 tools",
    "helper 1.0 guest",
    "libc 2.1 guest+tools",
    "libserver 1.0 guest",
    "linux-image-6.2 6.2-1 kernel",
    "ovmf 2026.08 firmware",
    "runtime 2.0 tools",
    "server 1.0 guest",
    "shell 5.0 guest",
];

#[test]
fn closures_are_resolved_without_excluded_packages_and_recommendations() {
    let archive = archive();
    let summary = archive.lock(None, &Silent).unwrap();
    assert_eq!(archive.locked(), LOCKED);
    assert_eq!(summary.added.len(), LOCKED.len());
    assert_eq!(summary.notes, [""; 0]);
    let first = std::fs::read(archive.path().join("image.lock")).unwrap();
    let again = archive.lock(None, &Silent).unwrap();
    assert!(again.is_unchanged());
    assert_eq!(std::fs::read(archive.path().join("image.lock")).unwrap(), first);
    let lock = Lock::load(archive.path()).unwrap();
    assert_eq!(lock.suites().len(), 2);
    assert_eq!(lock.suites()[1].signer.as_str(), archive.key.fingerprint);
    lock.check_made_for(&crate::recipe::Recipe::load(archive.path()).unwrap()).unwrap();
    archive.recipe(&["server", "other"], &["dpkg"]);
    let recipe = crate::recipe::Recipe::load(archive.path()).unwrap();
    let error = lock.check_made_for(&recipe).unwrap_err().to_string();
    assert!(error.contains("casemate image lock"), "{error}");
}

#[test]
fn an_update_moves_one_package_and_what_must_move_with_it() {
    let mut archive = archive();
    archive.lock(None, &Silent).unwrap();
    archive.offer("trixie", "libc", "2.2", "");
    archive.offer("trixie", "shell", "5.1", "Essential: yes\nDepends: libc (>= 2.0)\n");
    archive.offer("trixie", "server", "1.1", "Depends: libserver (>= 1.1)\n");
    archive.offer("trixie", "libserver", "1.1", "Depends: other\n");
    archive.publish();
    let summary = archive.lock(Some(&["server"]), &Silent).unwrap();
    let text = summary.to_string();
    assert_eq!(
        text,
        "+ other 1.0\n- helper 1.0\n~ libserver 1.0 -> 1.1\n~ server 1.0 -> 1.1\n\
         1 added, 1 removed, 2 moved, 6 unchanged"
    );
    let locked = archive.locked();
    assert!(locked.contains(&"shell 5.0 guest".to_owned()), "{locked:?}");
    assert!(locked.contains(&"libc 2.1 guest+tools".to_owned()), "{locked:?}");
    let summary = archive.lock(None, &Silent).unwrap();
    assert_eq!(summary.moved.len(), 2, "{summary}");
    let missing = archive.lock(Some(&["nothing"]), &Silent).unwrap_err();
    assert!(matches!(missing, ResolveError::NotLocked { .. }));
}

#[test]
fn an_update_of_nothing_adds_what_the_recipe_asks_for_anew() {
    let mut archive = archive();
    archive.lock(None, &Silent).unwrap();
    archive.offer("trixie", "libc", "2.2", "");
    archive.offer("trixie", "server", "1.1", "Depends: libserver (>= 1.0)\n");
    archive.publish();
    archive.recipe(&["server", "manual"], &["dpkg"]);
    let summary = archive.lock(Some(&[]), &Silent).unwrap();
    let text = summary.to_string();
    assert!(text.starts_with("+ manual 1.0\n1 added, 0 removed, 0 moved"), "{text}");
}

#[test]
fn an_update_keeps_versions_that_the_archive_has_no_more() {
    let mut archive = archive();
    archive.lock(None, &Silent).unwrap();
    let server = Archive::deb("server", "1.0", "Depends: libserver (>= 1.0), dpkg\n");
    archive.withdraw("trixie", "server", "1.0");
    archive.withdraw("trixie", "shell", "5.0");
    archive.offer("trixie", "server", "1.2", "Depends: libserver (>= 1.0)\n");
    archive.offer("trixie", "shell", "5.2", "Essential: yes\nDepends: libc (>= 2.0)\n");
    archive.offer("trixie", "helper", "1.1", "");
    archive.publish();
    // server is in the cache and can stay; of shell nothing is known any more, so it moves.
    archive.cache().put(&server).unwrap();
    let summary = archive.lock(Some(&["helper"]), &Silent).unwrap();
    let moved: Vec<_> =
        summary.moved.iter().map(|(_, new)| format!("{} {}", new.name, new.version)).collect();
    assert_eq!(moved, ["helper 1.1", "shell 5.2"], "{summary}");
    assert!(archive.locked().contains(&"server 1.0 guest".to_owned()));
}

#[test]
fn what_cannot_be_had_is_named() {
    let mut archive = archive();
    for (guest, expected) in [
        ("nothing", "guest.packages: no suite of the recipe has nothing"),
        ("runtime", "has runtime; there is 2.0 in forky"),
        ("server=7", "has server=7; there is 1.0 in trixie"),
        ("server/forky", "has server/forky; there is 1.0 in trixie"),
    ] {
        archive.recipe(&[guest], &["dpkg"]);
        let error = error(&archive);
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
    archive.recipe(&["server"], &["gone"]);
    let text = error(&archive);
    assert!(text.contains("guest.exclude: no suite of the recipe has gone"), "{text}");
    archive.offer("trixie", "broken", "1.0", "Depends: nowhere (>= 3)\n");
    archive.publish();
    archive.recipe(&["broken"], &["dpkg"]);
    let text = error(&archive);
    assert!(text.starts_with("apt finds no solution for the guest closure:\n"), "{text}");
    assert!(text.contains("nowhere"), "{text}");
}

#[test]
fn nothing_comes_from_a_suite_that_was_not_asked_for() {
    let mut archive = archive();
    // The newest version of other is in forky, and only forky has what it needs.
    archive.offer("forky", "other", "2.0", "Depends: runtime\n");
    archive.offer("trixie", "wants", "1.0", "Depends: other\n");
    archive.publish();
    archive.recipe(&["wants", "compiler/forky"], &["dpkg"]);
    archive.lock(None, &Silent).unwrap();
    let locked = archive.locked();
    assert!(locked.contains(&"other 1.0 guest".to_owned()), "{locked:?}");
    assert!(locked.contains(&"compiler 2.0 guest+tools".to_owned()), "{locked:?}");
}

#[test]
fn only_named_keys_are_believed() {
    let archive = archive();
    let other = Key::make();
    let (text, _) = archive.release("trixie");
    let at = "/debian/dists/trixie/InRelease";
    let signed = archive.key.sign(&text);
    let mut changed = signed.clone();
    let date = changed.windows(4).position(|w| w == b"2026").unwrap();
    changed[date + 3] = b'5';
    for (bytes, expected) in [
        (text.clone().into_bytes(), "not one signed text"),
        (other.sign(&text), "no good signature of a key that the recipe names"),
        (changed, "is false: the text was changed"),
        ([text.as_bytes(), &signed].concat(), "not one signed text"),
        ([signed.as_slice(), &signed].concat(), "not one signed text"),
        (archive.key.sign(&text.replace("Codename: trixie", "Codename: sid")), "it is for sid"),
    ] {
        archive.server.file(at, &bytes);
        let error = error(&archive);
        assert!(error.contains("no mirror has a good Release file of debian/trixie"), "{error}");
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
    assert!(!archive.path().join("image.lock").exists());
    // The next mirror may do better, and a good signature beside an unknown one is good.
    let mut archive = archive;
    let second = Server::start();
    archive.server.answer(at, vec![Answer::Status(500)]);
    second.file(at, &signed);
    archive.mirrors.set("test", &format!("debian={}", second.url("/debian"))).unwrap();
    let warnings = Warnings::default();
    archive.lock(None, &warnings).unwrap();
    let warnings = warnings.0.lock().unwrap().join("\n");
    assert!(warnings.contains("HTTP status 500"), "{warnings}");
}

#[test]
fn an_index_that_the_release_file_does_not_vouch_for_is_refused() {
    let archive = archive();
    let (_, mut index) = archive.release("trixie");
    let last = index.len() - 1;
    index[last] ^= 1;
    archive.server.file("/debian/dists/trixie/main/binary-amd64/Packages.gz", &index);
    let error = error(&archive);
    assert!(error.contains("could not fetch debian/trixie main/binary-amd64/Packages"), "{error}");
    assert!(error.contains("it sent other bytes"), "{error}");
}

#[test]
fn stale_and_older_archives_are_refused() {
    let mut archive = archive();
    archive.lock(None, &Silent).unwrap();
    archive.date = "Fri, 11 Sep 2026 07:55:41 UTC";
    archive.publish();
    let text = error(&archive);
    assert!(text.contains("older than Sat, 12 Sep 2026 07:55:41 UTC of the lock"), "{text}");
    std::fs::remove_file(archive.path().join("image.lock")).unwrap();
    archive.lock(None, &Silent).unwrap();
    archive.suites.get_mut("forky").unwrap().valid_until = Some("Sat, 19 Sep 2026 00:00:00 UTC");
    archive.publish();
    let text = error(&archive);
    assert!(text.contains("it was valid until Sat, 19 Sep 2026"), "{text}");
    assert!(text.contains("expired_ok"), "{text}");
}

#[test]
fn a_malformed_recipe_or_lock_is_told_by_line() {
    let archive = archive();
    archive.lock(None, &Silent).unwrap();
    let lock = archive.path().join("image.lock");
    let text = std::fs::read_to_string(&lock).unwrap();
    std::fs::write(&lock, text.replacen("size = ", "length = ", 1)).unwrap();
    let error = archive.lock(Some(&["libc"]), &Silent).unwrap_err().to_string();
    assert!(error.contains("package[0].length: unknown field"), "{error}");
    // A new lock needs nothing of the old one.
    assert_eq!(archive.lock(None, &Silent).unwrap().added.len(), LOCKED.len());
    let recipe = archive.path().join("image.toml");
    let text = std::fs::read_to_string(&recipe).unwrap();
    std::fs::write(&recipe, text.replace("epoch = 1", "epoch = \"x\"")).unwrap();
    let error = archive.lock(None, &Silent).unwrap_err().to_string();
    assert!(error.contains("image.toml:4:9: epoch: invalid type"), "{error}");
}

/// A recipe beside the one of `archive` that extends it by `text`.
fn child(archive: &Archive, text: &str) -> std::path::PathBuf {
    let dir = archive.path().join("child");
    std::fs::create_dir_all(&dir).unwrap();
    let head = "schema = 1\nextends = \"..\"\nname = \"child\"\nversion = \"0.1.0\"\n";
    std::fs::write(dir.join("image.toml"), format!("{head}{text}")).unwrap();
    dir
}

#[test]
fn a_lock_of_an_extended_recipe_starts_from_its_base() {
    let mut archive = archive();
    archive.lock(None, &Silent).unwrap();
    archive.offer("trixie", "libc", "2.2", "");
    archive.offer("trixie", "linux-image-cloud", "6.3", "Depends: linux-image-6.3 (= 6.3-1)\n");
    archive.offer("trixie", "linux-image-6.3", "6.3-1", "");
    archive.offer("forky", "compiler", "2.1", "Depends: libc, runtime (= 2.0)\n");
    archive.offer("trixie", "manual", "1.1", "");
    archive.publish();
    // What the base leaves out comes with what it needs, what the base has is dropped.
    let text = "[remove]\npackages = [\"server\"]\nexclude = [\"dpkg\"]\n\
                [guest]\npackages = [\"manual\"]\n[[guest.exclude]]\npackage = \"shell\"\n\
                reason = \"test\"\n";
    let dir = child(&archive, text);
    let lock = |update, newest| archive.lock_at(&dir, update, newest, &Silent).unwrap();
    let summary = lock(None, false);
    let kept = [
        "compiler 2.0 tools",
        "dpkg 1.22 guest",
        "libc 2.1 tools",
        "linux-image-6.2 6.2-1 kernel",
        "manual 1.1 guest",
        "ovmf 2026.08 firmware",
        "runtime 2.0 tools",
        "tar-tool 1.0 guest",
    ];
    assert_eq!(Archive::locked_at(&dir), kept);
    // It is compared with the base, and says where the versions are from.
    assert_eq!(summary.moved.len(), 0, "{summary}");
    let added: Vec<_> = summary.added.iter().map(|package| package.name.as_str()).collect();
    assert_eq!(added, ["dpkg", "manual", "tar-tool"]);
    assert!(summary.notes.last().unwrap().contains("image.lock has stays as it is"), "{summary}");
    // Again, nothing moves; an update moves one, `newest` all.
    assert!(lock(None, false).is_unchanged());
    assert_eq!(lock(Some(&["libc"]), false).moved.len(), 1);
    lock(None, true);
    let moved = Archive::locked_at(&dir);
    for package in ["compiler 2.1 tools", "libc 2.2 tools", "linux-image-6.3 6.3-1 kernel"] {
        assert!(moved.contains(&package.to_owned()), "{moved:?}");
    }
    // Another kernel that is asked for is not the base's.
    let text = "[kernel]\npackage = \"linux-image-6.3\"\n";
    archive.lock_at(&child(&archive, text), None, false, &Silent).unwrap();
    let locked = Archive::locked_at(&dir);
    assert!(locked.contains(&"linux-image-6.3 6.3-1 kernel".to_owned()), "{locked:?}");
    assert!(locked.contains(&"compiler 2.0 tools".to_owned()), "{locked:?}");
}

#[test]
fn a_kernel_moves_with_the_headers_of_a_stage_that_its_base_has_not() {
    let mut archive = archive();
    archive.offer("trixie", "linux-headers-cloud", "6.2", "Depends: linux-headers-6.2 (= 6.2-1)\n");
    archive.offer("trixie", "linux-headers-6.2", "6.2-1", "");
    archive.publish();
    archive.lock(None, &Silent).unwrap();
    let stage = "[[stage]]\nname = \"driver\"\npackages = [\"linux-headers-cloud\"]\n\
                 command = \"true\"\n[[stage.output]]\nfile = \"x.ko\"\nto = \"module\"\n";
    let dir = child(&archive, stage);
    archive.lock_at(&dir, None, false, &Silent).unwrap();
    assert!(Archive::locked_at(&dir).contains(&"linux-image-6.2 6.2-1 kernel".to_owned()));
    for name in ["image", "headers"] {
        let needs = format!("Depends: linux-{name}-6.3 (= 6.3-1)\n");
        archive.offer("trixie", &format!("linux-{name}-cloud"), "6.3", &needs);
        archive.offer("trixie", &format!("linux-{name}-6.3"), "6.3-1", "");
    }
    archive.publish();
    let summary = archive.lock_at(&dir, None, false, &Silent).unwrap();
    let locked = Archive::locked_at(&dir);
    assert!(locked.contains(&"linux-image-6.3 6.3-1 kernel".to_owned()), "{locked:?}");
    assert!(summary.notes[0].contains("the kernel moves from 6.2-1 to 6.3-1"), "{summary}");
}

/// Adds `text` to the recipe of `archive`.
fn extend_recipe(archive: &Archive, text: &str) {
    let path = archive.path().join("image.toml");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, format!("{old}\n{text}")).unwrap();
}

const STAGE: &str = "[[stage]]\nname = \"fw\"\npackages = [\"server\"]\ncommand = \"true\"\n\
    [[stage.exclude]]\npackage = \"dpkg\"\nreason = \"test\"\n\
    [[stage.source]]\npackage = \"edk\"\n\
    [[stage.source]]\npackage = \"spdm/forky\"\nupstream = true\n\
    [[stage.output]]\nfile = \"x\"\nto = \"/x\"\n";

#[test]
fn stages_have_their_own_closure_and_sources() {
    let mut archive = archive();
    archive.offer_source("trixie", "edk", "2025.01-1");
    archive.offer_source("trixie", "edk", "2025.02-8");
    archive.offer_source("forky", "edk", "2026.08-2");
    archive.offer_source("forky", "spdm", "3.8-1");
    archive.publish();
    extend_recipe(&archive, STAGE);
    archive.lock(None, &Silent).unwrap();
    let locked = archive.locked();
    assert!(locked.contains(&"libserver 1.0 guest+stage:fw".to_owned()), "{locked:?}");
    let lock = Lock::load(archive.path()).unwrap();
    let files = |name: &str| -> Vec<String> {
        let source = lock.sources().iter().find(|s| s.name.as_str() == name).unwrap();
        let paths = source.files.iter().map(|file| file.path.to_string());
        paths.chain([source.version.to_string()]).collect()
    };
    let edk = ["pool/edk/edk_2025.02-8.debian.tar.xz", "pool/edk/edk_2025.02.orig.tar.xz"];
    assert_eq!(files("edk"), [edk[0], edk[1], "2025.02-8"]);
    assert_eq!(files("spdm"), ["pool/spdm/spdm_3.8.orig.tar.xz", "3.8-1"]);
    assert_eq!(Lock::load(archive.path()).unwrap().to_text(), lock.to_text());
    // An update of something else leaves the source where it is, one of it moves it.
    archive.offer_source("trixie", "edk", "2025.05-1");
    archive.publish();
    for (name, expected) in [("server", "2025.02-8"), ("edk", "2025.05-1")] {
        archive.lock(Some(&[name]), &Silent).unwrap();
        let lock = Lock::load(archive.path()).unwrap();
        assert_eq!(lock.sources()[0].version.as_str(), expected, "after an update of {name}");
    }
    archive.recipe(&["server"], &["dpkg"]);
    extend_recipe(&archive, &STAGE.replace("\"edk\"", "\"gone\""));
    let text = error(&archive);
    assert!(text.contains("has gone"), "{text}");
}

/// The way to NVIDIA's own archive: flat, with a key of its own, served where the machine says.
#[test]
fn a_second_archive_is_believed_for_its_own_key() {
    let mut archive = archive();
    let (vendor, stranger) = (Key::make(), Key::make());
    let driver = Archive::stanza("driver", "580.95", "Depends: libc (>= 2.0)\n");
    // What the vendor offers of Debian's packages is not taken: nothing asks for it from there.
    let shell = Archive::stanza("shell", "99.0", "Essential: yes\n");
    archive.publish_flat("/vendor", &vendor, &format!("{driver}\n{shell}"));
    archive.recipe(&["server", "driver/cuda"], &["dpkg"]);
    let section = format!(
        "[archive.nvidia]\nflat = true\nsuites = []\non_request = [\"cuda\"]\nkeys = [\"{}\"]\n",
        vendor.fingerprint
    );
    extend_recipe(&archive, &section);
    let text = error(&archive);
    assert!(text.contains("name one with --mirror nvidia=URL"), "{text}");
    let url = archive.server.url("/vendor");
    archive.mirrors.set("test", &format!("nvidia={url}")).unwrap();
    let text = error(&archive);
    assert!(text.contains("no mirror has a good Release file of nvidia/cuda"), "{text}");
    archive.more_keyrings.push(vendor.export());
    archive.lock(None, &Silent).unwrap();
    let locked = archive.locked();
    assert!(locked.contains(&"driver 580.95 guest".to_owned()), "{locked:?}");
    assert!(locked.contains(&"shell 5.0 guest".to_owned()), "{locked:?}");
    let lock = Lock::load(archive.path()).unwrap();
    let driver = lock.packages().iter().find(|p| p.name.as_str() == "driver").unwrap();
    assert_eq!((driver.archive.as_str(), driver.suite.as_str()), ("nvidia", "cuda"));
    assert_eq!(driver.path.as_str(), "pool/driver_580.95.deb");
    // Debian's key, or any other, does not open the vendor's archive.
    for key in [&archive.key, &stranger] {
        archive.publish_flat("/vendor", key, "");
        assert!(error(&archive).contains("nvidia/cuda"));
    }
}

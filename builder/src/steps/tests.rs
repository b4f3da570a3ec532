use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::Arc;

use super::*;
use crate::merge::{Kind, Owner, Tree};
use crate::recipe::{Concat, FileFix, Group, Link, PathPattern, Units, User};

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (path, text) in files {
        tree.put_file(path, 0o644, text.as_bytes()).unwrap();
    }
    tree
}

fn text(tree: &Tree, path: &str) -> String {
    String::from_utf8(tree.read(path, "a test").unwrap()).unwrap()
}

fn target(tree: &Tree, path: &str) -> String {
    match tree.get(path).map(|n| &n.kind) {
        Some(Kind::Symlink(target)) => target.clone(),
        other => panic!("{path}: {other:?}"),
    }
}

fn patterns(list: &[&str]) -> Vec<PathPattern> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn toml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    toml::from_str(text).unwrap()
}

const MASTERS: [(&str, &str); 2] = [
    (
        "usr/share/base-passwd/passwd.master",
        "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("usr/share/base-passwd/group.master", "root:*:0:\nmail:*:8:\nnogroup:*:65534:\n"),
];

fn sandbox() -> User {
    toml(
        "name = \"sandbox\"\nuid = 1000\ngid = 1000\nhome = \"/home/sandbox\"\n\
         shell = \"/bin/bash\"\nsubids = \"100000:65536\"\ngroups = [\"mail\"]",
    )
}

fn accounts(tree: &Tree) -> Accounts {
    Accounts::new(tree, &[sandbox()], &[toml::<Group>("name = \"kvm\"\ngid = 108")]).unwrap()
}

#[test]
fn dropping_takes_what_is_below_and_spares_what_is_kept() {
    let mut tree = tree(&[
        ("usr/share/doc/a/copyright", ""),
        ("usr/share/doc/b/x", ""),
        ("usr/share/doc-base/x", ""),
        ("var/lib/x", ""),
    ]);
    let drop = patterns(&["/usr/share/doc/**", "/var", "/usr/share/man/**"]);
    let unmatched = drop_paths(&mut tree, &drop, &patterns(&["/usr/share/doc/*/copyright"]));
    assert_eq!(unmatched, ["/usr/share/man/**"]);
    let left: Vec<_> = tree.nodes().map(|(path, _)| path).collect();
    let wanted = [
        "usr",
        "usr/share",
        "usr/share/doc",
        "usr/share/doc-base",
        "usr/share/doc-base/x",
        "usr/share/doc/a",
        "usr/share/doc/a/copyright",
    ];
    assert_eq!(left, wanted);
}

#[test]
fn accounts_are_the_fixed_and_the_pinned_ones() {
    let mut tree = tree(&MASTERS);
    let accounts = accounts(&tree);
    accounts.write(&mut tree, 1_735_689_600).unwrap();
    assert_eq!(
        text(&tree, "etc/passwd"),
        "root:x:0:0:root:/root:/bin/bash\nsandbox:x:1000:1000::/home/sandbox:/bin/bash\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    );
    assert_eq!(
        text(&tree, "etc/group"),
        "root:x:0:\nmail:x:8:sandbox\nkvm:x:108:\nsandbox:x:1000:\nnogroup:x:65534:\n"
    );
    assert!(text(&tree, "etc/shadow").contains("sandbox:*:20089:0:99999:7:::\n"));
    assert!(text(&tree, "etc/gshadow").contains("mail:*::sandbox\n"));
    assert_eq!(text(&tree, "etc/subuid"), "sandbox:100000:65536\n");
    assert_eq!(tree.get("etc/shadow").unwrap().mode, 0o600);
}

#[test]
fn what_packages_ask_for_must_be_pinned() {
    for (line, wanted) in [
        ("u root 0:0 - /root\n# u x -\n\ng kvm -\nu! sandbox 1000\nm sandbox kvm\nr - 1-9", None),
        ("u messagebus - -", Some("user \"messagebus\"")),
        ("g render -", Some("group \"render\"")),
        ("g kvm 7", Some("number 7, pinned is 108")),
        ("m sandbox audio", Some("group \"audio\"")),
    ] {
        let mut tree = tree(&MASTERS);
        tree.put_file("usr/lib/sysusers.d/x.conf", 0o644, line.as_bytes()).unwrap();
        let checked = accounts(&tree).check_sysusers(&tree).map_err(|e| e.to_string());
        match wanted {
            None => assert_eq!(checked, Ok(())),
            Some(wanted) => {
                let error = checked.unwrap_err();
                assert!(error.contains(wanted) && error.contains("x.conf"), "{error}");
            }
        }
    }
}

#[test]
fn owners_must_be_pinned_with_their_numbers() {
    for (uid, user, gid, group, good) in [
        (0, "root", 8, "mail", true),
        (0, "root", 42, "shadow", false),
        (0, "root", 9, "mail", false),
        (7, "lp", 0, "root", false),
    ] {
        let mut tree = tree(&MASTERS);
        tree.put_file("usr/x", 0o644, b"").unwrap();
        let owner = Owner { uid, gid, user: user.into(), group: group.into() };
        tree.get_mut("usr/x").unwrap().owner = Arc::new(owner);
        assert_eq!(check_owners(&tree, &accounts(&tree)).is_ok(), good, "{user}:{group}");
    }
}

#[test]
fn two_accounts_with_one_number_are_refused() {
    let tree = tree(&MASTERS);
    let mut other = sandbox();
    other.uid = 65_534;
    assert!(matches!(
        Accounts::new(&tree, &[other], &[]),
        Err(StepError::AccountTwice { kind: "user", .. })
    ));
    let group = toml::<Group>("name = \"x\"\ngid = 8");
    assert!(matches!(
        Accounts::new(&tree, &[], &[group]),
        Err(StepError::AccountTwice { kind: "group", .. })
    ));
}

#[test]
fn files_links_and_concatenations() {
    let mut tree = tree(&[("usr/c/b.crt", "B"), ("usr/c/a.crt", "A\n"), ("usr/c/a.txt", "x")]);
    tree.put_file("usr/su", 0o4755, b"").unwrap();
    let concat: Concat = toml("path = \"/etc/all\"\nsources = [\"/usr/**/*.crt\"]");
    concatenate(&mut tree, &[concat]).unwrap();
    assert_eq!(text(&tree, "etc/all"), "A\nB\n");
    let concat: Concat = toml("path = \"/etc/all\"\nsources = [\"/usr/**/*.pem\"]");
    assert!(matches!(concatenate(&mut tree, &[concat]), Err(StepError::Unmatched { .. })));

    link(&mut tree, &[toml::<Link>("path = \"/etc/mtab\"\ntarget = \"../proc/mounts\"")]).unwrap();
    assert_eq!(target(&tree, "etc/mtab"), "../proc/mounts");
    machine_id(&mut tree).unwrap();
    assert_eq!(text(&tree, "etc/machine-id"), "");

    for (path, text) in MASTERS {
        tree.put_file(path, 0o644, text.as_bytes()).unwrap();
    }
    let accounts = accounts(&tree);
    let fix: FileFix = toml("path = \"/usr/su\"\nmode = \"0755\"\nowner = \"root:mail\"");
    fix_files(&mut tree, &[fix], &accounts).unwrap();
    let node = tree.get("usr/su").unwrap();
    assert_eq!((node.mode, node.owner.gid), (0o755, 8));
    let fix: FileFix = toml("path = \"/usr/gone\"\nmode = \"0755\"");
    let error = fix_files(&mut tree, &[fix], &accounts).unwrap_err().to_string();
    assert!(error.contains("/usr/gone"), "{error}");
    let fix: FileFix = toml("path = \"/usr/su\"\nowner = \"root:ssh\"");
    assert!(matches!(
        fix_files(&mut tree, &[fix], &accounts),
        Err(StepError::Unpinned { kind: "group", .. })
    ));
}

const NETWORKD: &str = "[Unit]\nWantedBy=wrong.target\n[Install]\nWantedBy=multi-user.target \\\n \
                        other.target\nAlias=dbus-net.service\nAlso=net.socket wait.service gone.socket\n";

fn unit_tree() -> Tree {
    tree(&[
        ("usr/lib/systemd/system/net.service", NETWORKD),
        ("usr/lib/systemd/system/net.socket", "[Install]\nWantedBy=sockets.target\n"),
        ("usr/lib/systemd/system/wait.service", "[Install]\nRequiredBy=online.target\n"),
        ("usr/lib/systemd/system/static.service", "[Service]\nExecStart=/x\n"),
        (
            "usr/lib/systemd/system/t@.service",
            "[Install]\nWantedBy=t-%i.target\nDefaultInstance=one\n",
        ),
        ("usr/lib/systemd/system/multi-user.target", "[Unit]\n"),
        ("etc/systemd/system/own.service", "[Install]\nWantedBy=multi-user.target\n"),
    ])
}

#[test]
fn units_are_enabled_as_their_install_sections_say() {
    let mut tree = unit_tree();
    let units: Units = toml(
        "enable = [\"net.service\", \"own.service\", \"t@.service\", \"t@two.service\"]\n\
         mask = [\"wait.service\", \"getty@.service\"]\ndefault = \"multi-user.target\"",
    );
    enable_units(&mut tree, &units).unwrap();
    let lib = "/usr/lib/systemd/system";
    for (path, wanted) in [
        ("multi-user.target.wants/net.service", format!("{lib}/net.service")),
        ("other.target.wants/net.service", format!("{lib}/net.service")),
        ("dbus-net.service", format!("{lib}/net.service")),
        ("sockets.target.wants/net.socket", format!("{lib}/net.socket")),
        ("multi-user.target.wants/own.service", "/etc/systemd/system/own.service".to_owned()),
        ("t-one.target.wants/t@one.service", format!("{lib}/t@.service")),
        ("t-two.target.wants/t@two.service", format!("{lib}/t@.service")),
        ("wait.service", "/dev/null".to_owned()),
        ("getty@.service", "/dev/null".to_owned()),
        ("default.target", format!("{lib}/multi-user.target")),
    ] {
        assert_eq!(target(&tree, &format!("etc/systemd/system/{path}")), wanted);
    }
    assert!(tree.get("etc/systemd/system/online.target.requires").is_none());
    assert_eq!(text(&tree, "etc/systemd/system-preset/00-casemate.preset"), "disable *\n");
}

#[test]
fn units_that_cannot_be_enabled_are_named() {
    for (unit, wanted) in [
        ("gone.service", "no package or overlay has it"),
        ("static.service", "no [Install] section"),
    ] {
        let units: Units = toml(&format!("enable = [\"{unit}\"]\ndefault = \"multi-user.target\""));
        let error = enable_units(&mut unit_tree(), &units).unwrap_err().to_string();
        assert!(error.contains(unit) && error.contains(wanted), "{error}");
    }
    let units: Units = toml("default = \"gone.target\"");
    assert!(enable_units(&mut unit_tree(), &units).is_err());
}

#[test]
fn what_the_build_writes_itself_is_refused_in_an_overlay_by_name() {
    for (path, instead) in [
        ("etc/passwd", "[[user]]"),
        ("etc/shadow", "[[user]]"),
        ("etc/group", "[[group]]"),
        ("etc/gshadow", "[[group]]"),
        ("etc/subuid", "`subids`"),
        ("etc/subgid", "`subids`"),
        ("etc/machine-id", "leave it out"),
        ("etc/systemd/system/default.target", "`default` of [units]"),
        ("etc/systemd/system-preset/00-casemate.preset", "`enable` of [units]"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "x").unwrap();
        let error = read_overlay(dir.path()).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()) && error.contains(instead), "{error}");
    }
}

#[test]
fn what_a_later_step_writes_over_is_not_lost_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let units = dir.path().join("etc/systemd/system");
    std::fs::create_dir_all(&units).unwrap();
    std::fs::write(units.join("own.service"), "[Service]\n").unwrap();
    std::os::unix::fs::symlink("/usr/lib/x", units.join("link.service")).unwrap();
    let overlay = read_overlay(dir.path()).unwrap();
    let mut tree = Tree::default();
    overlay.apply(&mut tree).unwrap();
    overlay.check_kept(&tree).unwrap();
    // As `mask` of [units] does.
    let masked = |unit: &str| {
        let mut tree = tree.clone();
        tree.put_link(&format!("etc/systemd/system/{unit}"), "/dev/null").unwrap();
        overlay.check_kept(&tree).map_err(|error| error.to_string())
    };
    masked("other.service").unwrap();
    for unit in ["own.service", "link.service"] {
        let error = masked(unit).unwrap_err();
        assert!(
            error.starts_with(&format!("/etc/systemd/system/{unit} of the overlay")),
            "{error}"
        );
    }
}

#[test]
fn overlays_win_and_only_the_executable_bit_counts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("etc")).unwrap();
    std::fs::create_dir_all(dir.path().join("lib/casemate")).unwrap();
    let set = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("etc/motd", 0o600);
    set("lib/casemate/run", 0o711);
    symlink("motd", dir.path().join("etc/issue")).unwrap();
    let overlay = read_overlay(dir.path()).unwrap();
    let mut tree = tree(&[("etc/motd", "packaged")]);
    overlay.apply(&mut tree).unwrap();
    assert_eq!(text(&tree, "etc/motd"), "etc/motd");
    assert_eq!(tree.get("etc/motd").unwrap().mode, 0o644);
    assert_eq!(tree.get("usr/lib/casemate/run").unwrap().mode, 0o755);
    assert_eq!(target(&tree, "etc/issue"), "motd");

    set("etc/motd", 0o640);
    assert_eq!(read_overlay(dir.path()).unwrap().digest(), overlay.digest());
    set("etc/motd", 0o755);
    assert_ne!(read_overlay(dir.path()).unwrap().digest(), overlay.digest());
    assert!(read_overlay(&dir.path().join("gone")).unwrap().is_empty());
    nix::unistd::mkfifo(&dir.path().join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(read_overlay(dir.path()), Err(StepError::Overlay { .. })));
}

#[test]
fn derived_things_appear_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let cache = crate::fetch::Cache::open(dir.path()).unwrap();
    let key = casemate_measurements::hash::Sha256Hash::of(b"key");
    let failing = derived::<StepError>(&cache, "steps", &key, Durability::Synced, |out| {
        std::fs::write(out.join("half"), "x").unwrap();
        Err(StepError::Kernels { found: vec![] })
    });
    assert!(failing.is_err());
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    let make = |out: &std::path::Path| -> Result<(), StepError> {
        std::fs::write(out.join("whole"), "x").unwrap();
        Ok(())
    };
    let place = derived(&cache, "steps", &key, Durability::Synced, make).unwrap();
    assert!(place.join("whole").exists() && !place.join("half").exists());
    let again =
        derived::<StepError>(&cache, "steps", &key, Durability::Synced, |_| panic!("made twice"))
            .unwrap();
    assert_eq!(again, place);
}

#[test]
fn a_kernel_s_image_says_its_release() {
    let mut image = vec![0_u8; 0x400];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    image[0x300..0x320].copy_from_slice(b"6.12.118-casemate (casemate@case");
    assert_eq!(release_of_image(&image).unwrap(), "6.12.118-casemate");
    assert_eq!(release_of_image(b"\x7fELF"), Err("it has no boot header of an x86 kernel"));
    for (pointer, text) in [(0_u16, b"6.12"), (0x100, b"../x"), (0x100, b" 6.1"), (0xffff, b"6.12")]
    {
        image[0x20e..0x210].copy_from_slice(&pointer.to_le_bytes());
        image[0x300..0x304].copy_from_slice(text);
        assert_eq!(release_of_image(&image), Err("its boot header names no release"), "{pointer}");
    }
}

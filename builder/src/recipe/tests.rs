//! A recipe is read whole, and each kind of mistake is told with its line and field.

use std::path::Path;

use super::*;

const GOOD: &str = r#"schema = 1
name = "small"
version = "0.1.0"
epoch = 1735689600

[archive.debian]
suites = ["trixie", "trixie-updates"]
on_request = ["forky"]
components = ["main"]
keys = ["4CB50190207B4758A3F73A796ED0E7B82643E131"]
expired_ok = ["forky"]

[guest]
packages = ["systemd", "udev"]
drop = ["/usr/share/doc/**"]

[[guest.exclude]]
package = "apt"
reason = "the guest installs nothing"

[tools]
packages = ["erofs-utils", "rustc/forky"]

[firmware]
package = "ovmf-amdsev/forky"
path = "/usr/share/ovmf/OVMF.amdsev.fd"

[kernel]
package = "linux-image-cloud-amd64"
cmdline = "console=ttynull quiet"
initrd_modules = ["virtio_blk"]

[programs]
source = "../.."
package = "casemate-guest"
init = "casemate-init"

[[programs.install]]
binary = "casemate-agent"
path = "/usr/lib/casemate/agent"
mode = "0755"

[[user]]
name = "sandbox"
uid = 1000
gid = 1000
home = "/home/sandbox"
shell = "/bin/bash"
subids = "100000:65536"

[[user]]
name = "sshd"
uid = 990
gid = 990
home = "/run/sshd"
shell = "/usr/sbin/nologin"

[[link]]
path = "/etc/mtab"
target = "../proc/self/mounts"

[units]
enable = ["ssh.service"]
mask = ["getty@.service"]
default = "multi-user.target"

[measure]
vcpus = "1..=4"
cpu_models = ["EPYC-v4"]
guest_features = ["0x1"]
vmm = "qemu"
guest_policy = "0x30000"
"#;

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(Path::new("images/small"), text)
}

/// The error after `from` is replaced with `to`; both must be in the text once.
fn error(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    parse(&GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn all_fields_are_read() {
    let recipe = parse(GOOD).unwrap();
    assert_eq!(recipe.name.as_str(), "small");
    assert_eq!(recipe.guest.packages.len(), 2);
    assert_eq!(recipe.measure.vcpus.as_slice(), [1, 2, 3, 4]);
    assert_eq!(recipe.measure.guest_policy.get().raw(), 0x30000);
    assert_eq!(recipe.users[0].subids.unwrap().first(), 100_000);
    assert_eq!(recipe.programs_source(), Path::new("images/small/../.."));
    assert_eq!(recipe.overlay_dirs(), [Path::new("images/small/rootfs")]);
    assert_eq!(recipe.sha256(), Sha256Hash::of(GOOD.as_bytes()));
}

#[test]
fn mistakes_name_line_and_field() {
    for (from, to, expected) in [
        ("epoch = 1735689600", "epoch = -1", "image.toml:4:9: epoch: "),
        ("\"udev\"", "\"Udev\"", "image.toml:14:24: guest.packages[1]: \"Udev\" is not a package"),
        ("\"udev\"", "\"udev/sid\"", "image.toml:14:24: guest.packages[1]: no archive of this"),
        ("\"udev\"", "\"systemd\"", "guest.packages[1]: systemd is asked for twice"),
        ("drop =", "drops =", "image.toml:15:1: guest.drops: unknown field `drops`"),
        ("\"apt\"", "\"udev\"", "guest.exclude[0].package: udev is both asked for and excluded"),
        ("the guest installs nothing", " ", "guest.exclude[0].reason: an exclusion needs"),
        ("schema = 1\n", "schema = 2\n", "image.toml:1:10: schema: schema 2 is unknown"),
        ("on_request = [\"forky\"]", "on_request = [\"trixie\"]", "suite trixie stands here twice"),
        ("expired_ok = [\"forky\"]", "expired_ok = [\"sid\"]", "expired_ok[0]: sid is no suite"),
        ("uid = 990", "uid = 1000", "user[1].uid: uid 1000 is sandbox's"),
        ("gid = 990", "gid = 1000", "user[1].gid: gid 1000 is sandbox's"),
        ("\"0755\"", "\"755\"", "programs.install[0].mode: \"755\" is not a file mode"),
        ("quiet", "casemate.x=1", "kernel.cmdline: "),
        ("\"ssh.service\"", "\"getty@.service\"", "units.enable[0]: getty@.service is both"),
        ("source = \"../..\"", "source = \"/src\"", "programs.source: must be relative"),
        ("vcpus = \"1..=4\"", "vcpus = [4, 2]", "measure.vcpus: not a list of vCPU counts"),
        ("vcpus = \"1..=4\"", "vcpus = \"0..=4\"", "measure.vcpus: not a list of vCPU counts"),
        ("0x30000", "196608", "measure.guest_policy: \"196608\" is not a mask"),
        ("0x30000", "0x70000", "measure.guest_policy: guest policy 0x70000 (smt, migrate_ma) is"),
        ("100000:65536", "0:65536", "user[0].subids: "),
    ] {
        let error = error(from, to);
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
}

#[test]
fn what_is_no_toml_is_told_by_line() {
    let error = error("cpu_models = [\"EPYC-v4\"]", "cpu_models = [");
    assert!(error.starts_with("images/small/image.toml:7"), "{error}");
}

#[test]
fn the_request_hash_follows_what_the_lock_depends_on() {
    let good = parse(GOOD).unwrap().request_hash();
    let same =
        |from: &str, to: &str| parse(&GOOD.replacen(from, to, 1)).unwrap().request_hash() == good;
    assert!(same("the guest installs nothing", "no package manager"));
    assert!(same("quiet", "quiet loglevel=0"));
    assert!(same("version = \"0.1.0\"", "version = \"0.2.0\""));
    assert!(!same("\"udev\"", "\"udev\", \"bash\""));
    assert!(!same("package = \"apt\"", "package = \"dpkg\""));
    assert!(!same("ovmf-amdsev/forky", "ovmf-amdsev"));
    assert!(!same("suites = [\"trixie\", ", "suites = ["));
}

proptest::proptest! {
    #[test]
    fn no_text_panics(at in 0_usize..4000, to in "(?s).{0,8}") {
        let mut text = GOOD.to_owned();
        let at = at % text.len();
        text.replace_range(at..=at, &to);
        let _ = parse(&text);
    }
}

/// A folder with `GOOD` as the recipe `base`, and `text` as one that extends it.
fn extended(text: &str) -> Result<Recipe, String> {
    extended_from(&[("base", GOOD), ("child", text)])
}

/// The last of these recipes, all in one folder.
fn extended_from(recipes: &[(&str, &str)]) -> Result<Recipe, String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in recipes {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("image.toml"), text).unwrap();
    }
    let (name, _) = recipes.last().unwrap();
    Recipe::load(&dir.path().join(name)).map_err(|error| error.to_string())
}

const CHILD: &str = r#"schema = 1
extends = "../base"
name = "child"
version = "0.2.0"

[remove]
packages = ["udev"]
cmdline = ["quiet"]

[archive.debian]
components = ["contrib"]

[guest]
packages = ["kmod"]

[kernel]
cmdline = "loglevel=1"
root_modules = ["nvidia"]

[[stage]]
name = "modules"
packages = ["gcc"]
patches = ["patches/one.patch"]
command = "true"
exclude = [{ package = "bc", reason = "not used" }]
[[stage.output]]
file = "nvidia.ko"
to = "module"

[[user]]
name = "more"
uid = 1001
gid = 1001
home = "/"
shell = "/bin/sh"
"#;

#[test]
fn a_recipe_names_only_what_differs_from_its_base() {
    let recipe = extended(CHILD).unwrap();
    let base = parse(GOOD).unwrap();
    assert_eq!((recipe.name.as_str(), recipe.version.as_str()), ("child", "0.2.0"));
    assert_eq!(recipe.epoch, base.epoch);
    let names: Vec<_> = recipe.guest.packages.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["systemd", "kmod"]);
    assert_eq!(recipe.kernel.cmdline.as_str(), "console=ttynull loglevel=1");
    assert_eq!(recipe.archive.values().next().unwrap().components.len(), 2);
    assert_eq!(recipe.users.len(), base.users.len() + 1);
    assert_eq!(recipe.tools.packages, base.tools.packages);
    assert!(recipe.stages[0].makes_modules());
    assert!(recipe.stages[0].patches[0].location().ends_with("child/patches/one.patch"));
    assert!(recipe.dir().ends_with("child"));
    assert!(recipe.programs_source().ends_with("child/../base/../.."));
    let overlays = recipe.overlay_dirs();
    assert!(overlays[0].ends_with("base/rootfs") && overlays[1].ends_with("child/rootfs"));
    assert_ne!(recipe.request_hash(), base.request_hash());
    // A change of the base is a change of who extends it.
    let other = extended(&CHILD.replacen("0.2.0", "0.2.1", 1)).unwrap();
    assert_ne!(recipe.sha256(), other.sha256());
    assert_ne!(recipe.sha256(), Sha256Hash::of(CHILD.as_bytes()));
}

const GRANDCHILD: &str = r#"schema = 1
extends = "../child"
name = "grandchild"
version = "0.1.0"

[change.stage.modules]
packages = ["make"]
prepare = "cd driver\n"

[change.stage.modules.remove]
packages = ["gcc"]
patches = ["patches/one.patch"]
"#;

#[test]
fn a_stage_of_the_base_is_changed_where_it_differs() {
    let recipes =
        |text: &str| extended_from(&[("base", GOOD), ("child", CHILD), ("grandchild", text)]);
    let recipe = recipes(GRANDCHILD).unwrap();
    let [stage] = recipe.stages.as_slice() else { panic!("{:?}", recipe.stages) };
    assert_eq!(stage.packages, ["make".parse().unwrap()]);
    assert!(stage.patches.is_empty() && stage.makes_modules());
    assert_eq!(stage.script(), "cd driver\ntrue");
    let base = extended(CHILD).unwrap();
    assert_eq!(base.stages[0].script(), "true");
    assert_ne!(recipe.request_hash(), base.request_hash());
    for (from, to, expected) in [
        ("stage.modules]", "stage.module]", "change.stage.module: the base has no stage module"),
        (
            "[\"gcc\"]",
            "[\"g++\"]",
            "change.stage.modules.remove.packages[0]: g++ is not in the base",
        ),
        (
            "[\"make\"]",
            "[\"make\", \"make\"]",
            "7:21: change.stage.modules.packages[1]: make is asked for twice",
        ),
        ("prepare =", "outputs =", "unknown field `outputs`"),
        ("cd driver", "cd\\u0000", "8:11: change.stage.modules.prepare: it has a zero byte"),
        (
            "packages = [\"gcc\"]",
            "packages = [\"gcc\"]\n[[stage]]\nname = \"other\"\npackages = []\ncommand = \"true\"\n\
             output = []\n[[stage]]\nname = \"modules\"\npackages = []\ncommand = \"true\"\n\
             output = []",
            "stage[1].name: modules is defined twice",
        ),
        (
            "packages = [\"make\"]",
            "packages = [\"make\", \"bc\"]",
            "6:1: change.stage.modules: bc is both asked for and excluded",
        ),
    ] {
        let changed = GRANDCHILD.replace(from, to);
        assert_ne!(changed, GRANDCHILD, "{from}");
        let error = recipes(&changed).unwrap_err();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
}

#[test]
fn what_does_not_fit_the_base_is_told_where_the_recipe_says_it() {
    for (from, to, expected) in [
        ("[\"udev\"]", "[\"nano\"]", "7:13: remove.packages[0]: nano is not in the base"),
        ("[\"quiet\"]", "[\"loud\"]", "remove.cmdline[0]: loud is not in the base"),
        ("[\"kmod\"]", "[\"systemd\"]", "14:13: guest.packages[0]: systemd is asked for twice"),
        ("loglevel=1", "console=ttyS0", "kernel.cmdline: the base has console=ttynull already"),
        ("uid = 1001", "uid = 1000", "user[0].uid: uid 1000 is sandbox's"),
        ("[\"kmod\"]", "[\"kmod\"]\ndrops = []", "guest.drops: unknown field"),
        ("schema = 1", "schema = 2", "schema: schema 2 is unknown"),
        (
            "packages = [\"udev\"]",
            "packages = [\"udev\"]\nusers = [\"x\"]",
            "remove.users[0]: x is",
        ),
        ("\"nvidia.ko\"", "\"nvidia\"", "stage[0].output[0].file: a kernel module's name ends"),
        ("to = \"module\"", "to = \"firmware\"", "stage[0].output[0].to: [firmware] does not name"),
        ("to = \"module\"", "to = \"usr/x\"", "is not a destination of an output"),
        ("\"patches/one.patch\"", "\"../one.patch\"", "is not a path in the recipe's folder"),
        ("command = \"true\"", "command = \" \"", "stage[0].command: there is nothing to run"),
        ("\"../base\"", "\"../gone\"", "cannot read the recipe"),
        ("\"../base\"", "\"../child\"", "is there a circle?"),
    ] {
        assert_eq!(CHILD.matches(from).count(), 1, "{from}");
        let error = extended(&CHILD.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
}

#[test]
fn firmware_comes_from_a_package_or_a_stage() {
    let stage = "[[stage]]\nname = \"fw\"\npackages = []\ncommand = \"true\"\n[[stage.output]]\n\
                 file = \"OVMF.fd\"\nto = \"firmware\"\n";
    let from = "package = \"ovmf-amdsev/forky\"\npath = \"/usr/share/ovmf/OVMF.amdsev.fd\"";
    let with = |section: &str, more: &str| {
        let text = GOOD.replacen(from, section, 1) + more;
        parse(&text).map_err(|error| error.to_string())
    };
    let recipe = with("stage = \"fw\"\naddress_bits = 46", stage).unwrap();
    assert_eq!(recipe.firmware.address_bits, Some(46));
    assert_eq!(recipe.stages[0].output_to(&Destination::Firmware).unwrap().as_str(), "OVMF.fd");
    for (section, more, expected) in [
        ("stage = \"fw\"", "", "firmware.stage: there is no stage fw"),
        ("package = \"ovmf\"", "", "firmware: expected package and path, or stage"),
        ("stage = \"fw\"\naddress_bits = 30", stage, "30 is no width that firmware uses"),
        ("package = \"ovmf\"\npath = \"/x\"", stage, "[firmware] does not name the stage fw"),
    ] {
        let error = with(section, more).unwrap_err();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
}

#[test]
fn a_kernel_comes_from_a_package_or_a_stage_and_stages_take_what_others_made() {
    let stages = "[[stage]]\nname = \"kernel\"\npackages = []\ncommand = \"true\"\n\
        own = [\"kernel/guest.config\"]\n\
        [[stage.output]]\nfile = \"vmlinuz\"\nto = \"kernel\"\n\
        [[stage.output]]\nfile = \"tree.tar\"\nto = \"stage\"\n\
        [[stage]]\nname = \"modules\"\npackages = []\ncommand = \"true\"\n\
        [[stage.input]]\nstage = \"kernel\"\nfile = \"tree.tar\"\n\
        [[stage.output]]\nfile = \"one.ko\"\nto = \"module\"\n";
    let from = "package = \"linux-image-cloud-amd64\"";
    let with = |section: &str, more: &str| {
        let text = GOOD.replacen(from, section, 1) + more;
        parse(&text).map_err(|error| error.to_string())
    };
    let recipe = with("stage = \"kernel\"", stages).unwrap();
    let [kernel, modules] = recipe.stages.as_slice() else { panic!("{:?}", recipe.stages) };
    assert_eq!(kernel.output_to(&Destination::Kernel).unwrap().as_str(), "vmlinuz");
    assert_eq!(kernel.own[0].name(), "guest.config");
    assert!(kernel.own[0].location().ends_with("kernel/guest.config"));
    assert_eq!(modules.inputs[0].stage, kernel.name);
    assert!(!recipe.request_text().contains("linux-image"), "{}", recipe.request_text());
    for (section, more, expected) in [
        ("stage = \"kernel\"", String::new(), "kernel.stage: there is no stage kernel"),
        (from, stages.to_owned(), "[kernel] does not name the stage kernel"),
        ("", String::new(), "kernel: expected package or stage"),
        (
            "stage = \"kernel\"",
            stages.replace("to = \"kernel\"", "to = \"stage\""),
            "kernel.stage: the stage kernel has no one output to = \"kernel\"",
        ),
        (
            "stage = \"kernel\"",
            stages.replace("stage = \"kernel\"", "stage = \"modules\""),
            "stage[1].input[0].stage: no stage before modules is called modules",
        ),
        (
            "stage = \"kernel\"",
            stages.replacen("tree.tar", "other.tar", 1),
            "stage[1].input[0].file: the stage kernel has no output tree.tar",
        ),
        (
            "stage = \"kernel\"",
            stages.replace("own = [", "own = [\"other/guest.config\", "),
            "stage[0].own[1]: a second guest.config",
        ),
    ] {
        let error = with(section, &more).unwrap_err();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
}

#[test]
fn a_changed_stage_adds_files_of_its_own_recipe_and_outputs() {
    let text = GRANDCHILD.replace(
        "prepare =",
        "own = [\"more.config\"]\npatches = [\"more.patch\"]\noutput = [{ file = \"tree.tar\", to = \
         \"stage\" }]\nprepare =",
    );
    let recipe = extended_from(&[("base", GOOD), ("child", CHILD), ("grandchild", &text)]).unwrap();
    let stage = &recipe.stages[0];
    assert!(stage.own[0].location().ends_with("grandchild/more.config"));
    assert!(stage.patches[0].location().ends_with("grandchild/more.patch"));
    assert_eq!(stage.output_to(&Destination::Stage).unwrap().as_str(), "tree.tar");
    assert!(stage.makes_modules(), "what the base makes stays");
}

#[test]
fn a_flat_archive_has_one_suite_and_no_components() {
    for (from, to) in [
        ("components = [\"main\"]", "flat = true"),
        ("components = [\"main\"]", "flat = true\ncomponents = [\"main\"]"),
    ] {
        let error = error(from, to);
        assert!(error.contains("archive.debian.flat: a flat archive has one suite"), "{error}");
    }
}

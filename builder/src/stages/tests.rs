//! Stages run with a root of this machine's programs; modules are compiled here.

use std::collections::BTreeMap;
use std::io::Write as _;

use super::*;
use crate::namespace::tests::root;
use crate::process::Process;

const RECIPE: &str = r#"schema = 1
name = "small"
version = "0.1.0"
epoch = 7
[archive.debian]
suites = ["trixie"]
components = ["main"]
keys = ["4CB50190207B4758A3F73A796ED0E7B82643E131"]
[guest]
packages = []
[tools]
packages = []
[firmware]
package = "ovmf"
path = "/fw.fd"
[kernel]
package = "linux"
cmdline = "quiet"
initrd_modules = []
[programs]
source = "."
package = "guest"
init = "init"
[units]
default = "multi-user.target"
[measure]
vcpus = [1]
cpu_models = ["EPYC-v4"]
guest_features = ["0x1"]
vmm = "qemu"
guest_policy = "0x30000"
[[stage]]
name = "tool"
packages = []
patches = ["patches/one.patch"]
command = '''COMMAND'''
[[stage.source]]
package = "hello"
[[stage.file]]
name = "data"
sha256 = "DATA"
[[stage.output]]
file = "tool"
to = "/usr/bin/tool"
mode = "0755"
"#;

struct Fixture {
    dir: tempfile::TempDir,
    cache: Cache,
    recipe: Recipe,
    lock: Lock,
}

/// A recipe whose stage runs `command` on one source package, one file and one patch.
fn fixture(command: &str) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    std::fs::create_dir(dir.path().join("patches")).unwrap();
    std::fs::write(dir.path().join("patches/one.patch"), "patch").unwrap();
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::default(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    header.set_mode(0o644);
    builder.append_data(&mut header, "hello-1.0/text", b"source".as_slice()).unwrap();
    let source = cache.put(&builder.into_inner().unwrap().finish().unwrap()).unwrap();
    let data = cache.put(b"data").unwrap();
    let text = RECIPE.replace("COMMAND", command).replace("DATA", &data.to_string());
    let recipe = Recipe::parse(dir.path(), &text).unwrap();
    let lock = format!(
        "schema = 1\nrequest = \"{data}\"\n[[source]]\nstage = \"tool\"\nname = \"hello\"\n\
         version = \"1.0-1\"\narchive = \"debian\"\nsuite = \"trixie\"\nfiles = [{{ \
         path = \"pool/hello_1.0.orig.tar.gz\", size = 1, sha256 = \"{source}\" }}]\n"
    );
    let lock = Lock::parse(Path::new("image.lock"), &lock).unwrap();
    Fixture { dir, cache, recipe, lock }
}

impl Fixture {
    fn job(&self) -> StageJob<'_> {
        StageJob::read(&self.recipe, &self.lock, &self.recipe.stages[0]).unwrap()
    }

    fn run(&self, root: Option<&Path>) -> Result<PathBuf, StageError> {
        let job = self.job();
        let key = job.key(&Sha256Hash::of(b"tools"), "6.12", &Before::new());
        let root = || Ok(root.expect("it was made already").to_owned());
        job.run(&key, "6.12", &self.cache, 3, &Before::new(), root)
    }
}

const ALL: &str = "cat /work/src/hello/text /work/files/data /work/patches/one.patch > out; \
                   env > /work/out/env; cat out /work/out/env > /work/out/tool";

#[test]
fn a_command_sees_its_inputs_and_its_output_is_kept() {
    let fixture = fixture(ALL);
    let root = root();
    let made = fixture.run(Some(root.path())).unwrap();
    let outputs = fixture.job().outputs(&made).unwrap();
    let text = String::from_utf8(outputs["tool"].clone()).unwrap();
    assert!(text.starts_with("sourcedatapatch"), "{text}");
    assert!(text.contains("SOURCE_DATE_EPOCH=7") && text.contains("JOBS=3"), "{text}");
    assert!(!text.contains("KERNEL_RELEASE"), "only who makes modules is told: {text}");
    let names: Vec<_> = std::fs::read_dir(&made).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["tool"], "what is not declared is not taken");
    // The second time neither the root nor the inputs are needed.
    std::fs::remove_dir_all(fixture.cache.root().join("blobs")).unwrap();
    assert_eq!(fixture.run(None).unwrap(), made);
}

#[test]
fn each_input_changes_the_key() {
    let fixture = fixture(ALL);
    let tools = Sha256Hash::of(b"tools");
    let key = |fixture: &Fixture| fixture.job().key(&tools, "6.12", &Before::new());
    let first = key(&fixture);
    assert_eq!(key(&fixture), first);
    assert_eq!(fixture.job().key(&tools, "6.13", &Before::new()), first, "it makes no modules");
    assert_ne!(fixture.job().key(&Sha256Hash::of(b"other"), "6.12", &Before::new()), first);
    assert_ne!(key(&super::tests::fixture("true")), first);
    let patches = fixture.job().own_digest().unwrap();
    std::fs::write(fixture.dir.path().join("patches/one.patch"), "other").unwrap();
    assert_ne!(key(&fixture), first);
    assert_ne!(fixture.job().own_digest().unwrap(), patches);
    let mut other = fixture.lock.to_text();
    other = other.replace("hello_1.0", "hello_1.1");
    let lock = Lock::parse(Path::new("image.lock"), &other).unwrap();
    std::fs::write(fixture.dir.path().join("patches/one.patch"), "patch").unwrap();
    let job = StageJob::read(&fixture.recipe, &lock, &fixture.recipe.stages[0]).unwrap();
    assert_ne!(job.key(&tools, "6.12", &Before::new()), first);
}

#[test]
fn a_command_sees_files_of_the_recipe_and_outputs_of_stages_before_it() {
    let Fixture { dir, cache, lock, .. } = fixture("true");
    std::fs::write(dir.path().join("kernel.config"), "own ").unwrap();
    let text = RECIPE.replace("COMMAND", "cat /work/own/* /work/input/* > /work/out/tool");
    let text = text.replace("DATA", &cache.put(b"data").unwrap().to_string());
    let first = "[[stage]]\nname = \"first\"\npackages = []\ncommand = \"true\"\n\
                 [[stage.output]]\nfile = \"tree\"\nto = \"stage\"\n[[stage]]\nname = \"tool\"";
    let text = text.replace("[[stage]]\nname = \"tool\"", first).replace(
        "patches = [",
        "own = [\"kernel.config\"]\ninput = [{ stage = \"first\", file = \"tree\" }]\npatches = [",
    );
    let recipe = Recipe::parse(dir.path(), &text).unwrap();
    let made = dir.path().join("made");
    std::fs::create_dir(&made).unwrap();
    std::fs::write(made.join("tree"), "input").unwrap();
    let job = StageJob::read(&recipe, &lock, &recipe.stages[1]).unwrap();
    let tools = Sha256Hash::of(b"tools");
    let before = |key: &[u8]| {
        Before::from([(recipe.stages[0].name.clone(), (Sha256Hash::of(key), made.clone()))])
    };
    let key = job.key(&tools, "", &before(b"one"));
    let root = root();
    let out = job
        .run(&key, "", &cache, 1, &before(b"one"), || Ok::<_, StageError>(root.path().to_owned()))
        .unwrap();
    assert_eq!(job.outputs(&out).unwrap()["tool"], b"own input");
    // What the stage before is made from decides this one too, and so does the recipe's file.
    assert_ne!(job.key(&tools, "", &before(b"two")), key);
    let digest = job.own_digest();
    std::fs::write(dir.path().join("kernel.config"), "other").unwrap();
    let job = StageJob::read(&recipe, &lock, &recipe.stages[1]).unwrap();
    assert_ne!(job.key(&tools, "", &before(b"one")), key);
    assert_ne!(job.own_digest(), digest);
}

#[test]
fn what_goes_wrong_is_named_and_nothing_is_kept() {
    let root = root();
    let error = |fixture: &Fixture| {
        let error = fixture.run(Some(root.path())).unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let kept = fixture.cache.root().join(KIND);
        assert_eq!(std::fs::read_dir(kept).unwrap().count(), 0);
        format!("{error}: {cause}")
    };
    let text = error(&fixture("true"));
    assert!(text.contains("stage tool: its command left no file /work/out/tool"), "{text}");
    let text = error(&fixture("ln -s /etc/passwd /work/out/tool 2>/dev/null; cat nothing"));
    assert!(text.contains("its command failed") && text.contains("nothing"), "{text}");
    let text = error(&fixture("touch /work/files/more"));
    assert!(text.contains("Read-only"), "{text}");
    let damaged = fixture(ALL);
    let blob = damaged.cache.blob(damaged.recipe.stages[0].files[0].sha256);
    std::fs::write(blob, "dota").unwrap();
    let text = error(&damaged);
    assert!(text.contains("data in the cache has SHA-256"), "{text}");
    let missing = fixture(ALL);
    std::fs::remove_file(missing.dir.path().join("patches/one.patch")).unwrap();
    let stage = &missing.recipe.stages[0];
    let error = StageJob::read(&missing.recipe, &missing.lock, stage).unwrap_err().to_string();
    assert!(error.contains("there is no file") && error.contains("one.patch"), "{error}");
}

/// A module made of C, as the kernel's build makes them.
fn module(name: &str, magic: &str, crc: u32, body: &str) -> Vec<u8> {
    let text = format!(
        "const char info[] __attribute__((section(\".modinfo\"), used)) = \
         \"name={name}\\0vermagic={magic} \";\n\
         struct {{ unsigned long crc; char name[56]; }} versions[] \
         __attribute__((section(\"__versions\"), used)) = {{ {{ {crc}, \"printk\" }} }};\n\
         extern int printk(void);\nint first(void) {{ return printk(); }}\n{body}\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let (source, object) = (dir.path().join("m.c"), dir.path().join("m.o"));
    std::fs::File::create(&source).unwrap().write_all(text.as_bytes()).unwrap();
    Process::new("gcc").arg("-c").arg(&source).arg("-o").arg(&object).run().unwrap();
    std::fs::read(object).unwrap()
}

const SYMVERS_TEXT: &str =
    "0x00001234\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x00000001\tother\tx\tEXPORT_SYMBOL_GPL\tNS\n";

fn checked(modules: &[(&str, Vec<u8>)]) -> Result<(), String> {
    let set: BTreeMap<&str, &[u8]> =
        modules.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let symvers = SymbolVersions::parse(SYMVERS_TEXT).unwrap();
    check_modules(&set, "6.12 SMP", &symvers).map_err(|(file, what)| format!("{file}: {what}"))
}

#[test]
fn modules_fit_the_kernel_or_are_refused() {
    let export = "int shared(void) { return 1; }\nint __ksymtab_shared;";
    let user = "extern int shared(void);\nint use(void) { return shared(); }";
    let one = || ("one.ko", module("one", "6.12 SMP", 0x1234, export));
    let two = || ("two-b.ko", module("two_b", "6.12 SMP", 0x1234, user));
    assert_eq!(checked(&[one(), two()]), Ok(()));
    for (modules, expected) in [
        (vec![two()], "two-b.ko: nothing exports shared"),
        (
            vec![("one.ko", module("one", "6.13 SMP", 0x1234, ""))],
            "one.ko: its version magic is \"6.13 SMP\", the kernel's modules have \"6.12 SMP\"",
        ),
        (
            vec![("one.ko", module("one", "6.12 SMP", 0x1235, ""))],
            "one.ko: it was compiled for other versions of printk",
        ),
        (vec![("one.ko", module("other", "6.12 SMP", 0x1234, ""))], "is called other"),
        (vec![("one.ko", b"text".to_vec())], "one.ko: "),
    ] {
        let error = checked(&modules).unwrap_err();
        assert!(error.contains(expected), "{error}\nlacks {expected}");
    }
    assert_eq!(SymbolVersions::parse("printk\n").unwrap_err(), "printk");
}

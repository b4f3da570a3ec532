//! What the end-to-end tests share: the binary under test, one built release, VMs that end with
//! their test.
//!
//! Nothing here decides whether a test passes. A requirement that is missing is printed and the
//! test skipped, unless `CASEMATE_REQUIRE` names it: then it fails.
#![expect(clippy::print_stderr, reason = "a harness talks to who runs the tests")]
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a harness fails by panicking")]

mod vm;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use casemate_guest::gpu::cdi;
use casemate_guest::gpu::prepare::CIPHERS;
use casemate_guest::sysfs::SysRoot;

pub use vm::{Host, Seen, Vm, console_path, free_port};

/// Where the guest's libraries are.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The binary under test: `CASEMATE_BIN`, else the one beside the test's own.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CASEMATE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let path = folder.join("casemate");
    assert!(path.is_file(), "{} is missing: run `cargo build` first", path.display());
    path
}

/// Where tests put what they build; kept between runs, below the target directory.
#[must_use]
pub fn scratch() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().join("casemate-tests");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The binary with arguments.
#[must_use]
pub fn casemate<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

/// Runs to the end and returns what was said; panics when the exit code is another.
#[must_use]
pub fn expect_code(code: i32, command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(code),
        "{command:?}\nstdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Skips a test that needs `what`, with the reason; fails where `CASEMATE_REQUIRE` names it.
pub fn skip(what: &str, reason: &str) {
    assert!(!required(what), "{what} is required: {reason}");
    eprintln!("skipped: {reason}");
}

/// Does `CASEMATE_REQUIRE` name `what`?
#[must_use]
pub fn required(what: &str) -> bool {
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    required.split(',').any(|name| name == what)
}

/// The recipe that the tests build.
#[must_use]
pub fn recipe() -> PathBuf {
    workspace().join("images/cpu-sandbox")
}

/// images/cpu-sandbox, built once per test program for the simulated platform.
pub fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| built(&recipe(), "release"))
}

/// images/gpu-hopper, likewise. Cold, its modules take minutes.
pub fn gpu_release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(|| built(&workspace().join("images/gpu-hopper"), "gpu-release"))
}

/// images/gpu-hopper with a unit that does without a GPU what is done with one: it loads the
/// ciphers and the driver, and notes in `/run/tries` what modprobe says; it makes device nodes that
/// lead nowhere, and tells podman of one GPU.
pub fn gpu_release_that_tries() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    let mut unit = "[Unit]\nDefaultDependencies=no\nAfter=casemate-gpu.service\n\
        Before=casemate-lockdown.service\n[Service]\nType=oneshot\nUMask=0022\n\
        StandardError=append:/run/tries\n"
        .to_owned();
    let mut start = |command: &str| writeln!(unit, "ExecStart=-{command}").unwrap();
    // In the order of casemate-gpu: what does not load is said before the driver is tried.
    start(&format!("/usr/sbin/modprobe -a {}", CIPHERS.map(|cipher| cipher.alias).join(" ")));
    start("/usr/sbin/modprobe nvidia");
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"] {
        start(&format!("/usr/bin/mknod -m 0666 /dev/{node} c 1 3"));
    }
    start(&format!("/usr/bin/install -D -m 0644 /usr/share/tries/nvidia.json /{}", cdi::PATH));
    unit.push_str("[Install]\nWantedBy=multi-user.target\n");
    RELEASE.get_or_init(|| {
        let base = workspace().join("images/gpu-hopper");
        let dir = scratch().join(format!("gpu-tries-recipe-{}", std::process::id()));
        let units = dir.join("rootfs/usr/lib/systemd/system");
        std::fs::create_dir_all(&units).unwrap();
        std::fs::write(units.join("tries.service"), unit).unwrap();
        // What casemate-gpu writes where these libraries are.
        let guest = tempfile::tempdir().unwrap();
        let libraries = guest.path().join(LIBRARIES);
        std::fs::create_dir_all(&libraries).unwrap();
        for library in ["libcuda.so.1", "libnvidia-pkcs11-openssl3.so.550.163.01"] {
            std::fs::write(libraries.join(library), b"").unwrap();
        }
        cdi::write(&SysRoot::new(guest.path()), 1).unwrap();
        let share = dir.join("rootfs/usr/share/tries");
        std::fs::create_dir_all(&share).unwrap();
        std::fs::copy(guest.path().join(cdi::PATH), share.join("nvidia.json")).unwrap();
        std::fs::copy(base.join("image.lock"), dir.join("image.lock")).unwrap();
        let text = format!(
            "schema = 1\nextends = \"{}\"\nname = \"gpu-tries\"\nversion = \"0.1.0\"\n\
             [units]\nenable = [\"tries.service\"]\n",
            base.display(),
        );
        std::fs::write(dir.join("image.toml"), text).unwrap();
        built(&dir, "gpu-tries")
    })
}

fn built(recipe: &Path, name: &str) -> PathBuf {
    let output = scratch().join(format!("{name}-{}", std::process::id()));
    let mut command = casemate(["image", "build"]);
    command.arg(recipe);
    command.args(["--platform", "simulated", "--output"]).arg(&output);
    let _ = expect_code(0, &mut command);
    output
}

/// A fresh SSH key pair in `dir`; the private key's path, the public one has `.pub` behind it.
#[must_use]
pub fn key_pair(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
    let _ = expect_code(0, &mut command);
    path
}

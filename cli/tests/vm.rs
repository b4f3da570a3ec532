//! The verbs that ask a VM, by the program itself. The VM is a server on loopback whose reports
//! the simulated authority of this machine signs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../measurements/tests/ovmf/mod.rs"]
mod ovmf;
#[path = "../../measurements/tests/release/mod.rs"]
mod release;
#[expect(dead_code, reason = "made for the validator's own tests")]
#[path = "../../validator/tests/it/support.rs"]
mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use casemate_launcher::authority::{Authority, ROOT_FILE};
use casemate_measurements::binding::{self, Binding};
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::launch_config::{self, LaunchConfig};
use casemate_measurements::manifest::{self, Manifest};
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Unsigned;
use casemate_measurements::tcb::{Product, Tcb};
use casemate_validator::target::Target;

use support::{Identity, finish, serve_tls};

/// Nobody's host key: no session is opened here.
const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";

/// A user's directories, and a VM that answers.
struct Scene {
    dir: tempfile::TempDir,
    vm: Target,
    /// How often the VM was asked.
    asked: Arc<AtomicUsize>,
}

fn manifest() -> Manifest {
    release::manifest(Platform::Simulated)
}

/// Where all of a machine's test runs share one simulated root: it takes long to make.
fn authority() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("casemate/simulated")
}

/// Serves evidence of a VM that lets `keys` in, and counts how often.
fn serve(keys: Vec<String>, asked: Arc<AtomicUsize>) -> Target {
    let tcb = Tcb::from_raw(Unsigned::genoa().tcb, Product::Genoa).unwrap();
    let chip = Authority::open_or_make(&authority()).unwrap().chip(tcb).unwrap();
    let identity = Identity::new();
    let tls_spki_sha256 = identity.spki_sha256();
    let config =
        LaunchConfig { schema: 1, ssh_authorized_keys: keys, name: "vm".into(), gpus: None };
    let config = config.to_bytes().unwrap();
    serve_tls(identity.tls13(), move |head, stream| {
        let (_, rest) = head.split_once("?nonce=").unwrap();
        let nonce: Nonce = rest.split(' ').next().unwrap().parse().unwrap();
        let binding = Binding {
            tls_spki_sha256,
            ssh_host_key: HOST_KEY.into(),
            gpu_evidence_sha256: None,
            launch_config_sha256: Sha256Hash::of(&config),
        };
        let binding = serde_json::to_string(&binding).unwrap();
        let manifest = manifest();
        let report = chip.sign(&Unsigned {
            report_data: binding::report_data(&nonce, binding.as_bytes()),
            host_data: launch_config::host_data(&config),
            measurement: manifest.reference_values[0].measurement,
            policy: manifest.guest_policy,
            ..Unsigned::genoa()
        });
        let evidence = Evidence {
            schema: Evidence::SCHEMA,
            platform: Platform::Simulated,
            nonce,
            report: Base64Bytes(report.to_vec()),
            certificates: Base64Bytes(chip.certificates().to_vec()),
            binding,
            launch_config: String::from_utf8(config.clone()).unwrap(),
            gpu_evidence: None,
        };
        let body = serde_json::to_vec(&evidence).unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        finish(stream, &[head.as_bytes(), &body].concat());
        asked.fetch_add(1, Ordering::Relaxed);
    })
}

impl Scene {
    /// A VM that lets the keys of these names in.
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("home/.ssh")).unwrap();
        fs::create_dir(dir.path().join("release")).unwrap();
        let bytes = manifest().to_bytes().unwrap();
        fs::write(dir.path().join("release").join(manifest::FILE_NAME), bytes).unwrap();
        let keys = names.iter().map(|name| key_pair(dir.path(), name)).collect();
        let asked = Arc::default();
        Self { vm: serve(keys, Arc::clone(&asked)), dir, asked }
    }

    /// `casemate verify --watch` of the VM.
    fn watch(&self, rounds: &str) -> Command {
        let policy = "schema = 1\nallow = [\"stock-host\", \"no-revocation-list\"]\n";
        fs::write(self.path("policy.toml"), policy).unwrap();
        let targets = format!(
            "schema = 1\ninterval_seconds = 1\nreleases = [\"release\"]\npolicy = \"policy.toml\"\n\
             [[target]]\nname = \"vm\"\naddress = \"{}\"\n",
            self.vm
        );
        fs::write(self.path("targets.toml"), targets).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.args(["verify", "--watch", "--offline", "--rounds", rounds]);
        command.arg(self.path("targets.toml"));
        command.arg("--trust-simulated").arg(authority().join(ROOT_FILE));
        command.env("XDG_CACHE_HOME", self.path("cache")).stdin(Stdio::null());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `casemate VERB` about the VM, by a user whose home holds nothing but what a test puts there.
    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.arg(verb).arg(self.vm.to_string()).arg("--offline");
        command.arg("--release").arg(self.path("release"));
        command.arg("--trust-simulated").arg(authority().join(ROOT_FILE));
        command.env("HOME", self.path("home")).env("XDG_CACHE_HOME", self.path("cache"));
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    /// `casemate ssh`. The port is closed: who gets so far ends with 255.
    fn ssh(&self, code: i32, args: &[&str]) -> String {
        let mut command = self.command("ssh");
        let Output { status, stdout, stderr } =
            command.args(["--ssh-port", "1"]).args(args).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}\n{stderr}");
        assert_eq!(stdout, b"");
        stderr
    }
}

/// Makes a key pair; its public line.
fn key_pair(dir: &Path, name: &str) -> String {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(dir.join(name));
    assert!(command.status().unwrap().success());
    let line = fs::read_to_string(dir.join(name).with_extension("pub")).unwrap();
    line.trim().to_owned()
}

fn fingerprint(key: &Path) -> String {
    let output = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_session_that_others_can_join_is_refused() {
    let scene = Scene::new(&["tenant", "owner"]);
    let [tenant, owner] = ["tenant", "owner"].map(|name| scene.path(name));
    let tenant = tenant.to_str().unwrap();
    let said = scene.ssh(3, &["--identity", tenant]);
    let named = [fingerprint(&owner), " owner (".to_owned(), "--any-key".to_owned()];
    for word in named.iter().chain([&"--only-key".to_owned(), &"1 of your own keys".to_owned()]) {
        assert!(said.contains(word), "{word}:\n{said}");
    }
    assert!(!said.contains(&fingerprint(Path::new(tenant))), "{said}");
    // Who says that others may join, or who they are, is connected.
    scene.ssh(255, &["--identity", tenant, "--any-key"]);
    let both = [tenant, owner.to_str().unwrap()].map(|key| format!("{key}.pub"));
    scene.ssh(255, &["--identity", tenant, "--only-key", &both[0], "--only-key", &both[1]]);
    scene.ssh(3, &["--identity", tenant, "--only-key", &both[0]]);
    let policy = scene.path("policy.toml");
    let lines = both.map(|key| format!("{:?}", fs::read_to_string(key).unwrap().trim()));
    let text = format!(
        "schema = 1\nallow = [\"stock-host\", \"no-revocation-list\"]\nssh_keys = [{}]\n",
        lines.join(", ")
    );
    fs::write(&policy, text).unwrap();
    scene.ssh(255, &["--identity", tenant, "--policy", policy.to_str().unwrap()]);
}

#[test]
fn keys_in_the_users_own_folder_are_his_own() {
    let scene = Scene::new(&["tenant", "laptop"]);
    let tenant = scene.path("tenant");
    let tenant = tenant.to_str().unwrap();
    let copy = |name: &str| {
        fs::copy(scene.path(name), scene.path("home/.ssh").join(name)).unwrap();
    };
    // A public key alone may be anybody's.
    copy("laptop.pub");
    let said = scene.ssh(3, &["--identity", tenant]);
    assert!(said.contains(&fingerprint(&scene.path("laptop"))), "{said}");
    copy("laptop");
    scene.ssh(255, &["--identity", tenant]);
    // Without keys of one's own, every key is a stranger's.
    fs::remove_dir_all(scene.path("home/.ssh")).unwrap();
    let said = scene.ssh(3, &[]);
    assert!(said.contains("0 of your own keys") && said.contains("2 of 2 are others"), "{said}");
}

/// What is refused: a full disk, and a pipe without a reader.
fn refusals() -> [Stdio; 2] {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    [full.into(), writer.into()]
}

#[test]
fn a_verdict_that_cannot_be_printed_is_exit_1() {
    let scene = Scene::new(&["tenant"]);
    for refused in refusals() {
        let output = scene.command("verify").stdout(refused).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with("error: cannot write to standard output"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    for refused in refusals() {
        let output = scene.watch("1000").stdout(refused).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let errors = said.lines().filter(|line| !line.starts_with("watching"));
        assert!(errors.clone().all(|line| line.starts_with("error: cannot write")), "{said}");
        assert_eq!(errors.count(), 1, "{said}");
    }
}

#[test]
fn a_fleet_is_verified_although_nobody_reads_the_answers() {
    let scene = Scene::new(&["tenant"]);
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // All that a pipe of Linux takes, so that the first line has to wait.
    writer.write_all(&vec![b'\n'; 65536]).unwrap();
    let mut watch = scene.watch("3").stdout(writer).spawn().unwrap();
    let start = Instant::now();
    while scene.asked.load(Ordering::Relaxed) < 3 {
        let asked = scene.asked.load(Ordering::Relaxed);
        if start.elapsed() > Duration::from_mins(2) {
            watch.kill().unwrap();
            panic!("asked {asked} times, then no more");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Who reads late misses nothing.
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said.trim_start().lines().count(), 3, "{said}");
    assert_eq!(watch.wait().unwrap().code(), Some(0), "{said}");
}

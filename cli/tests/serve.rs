//! The daemon and the verbs that ask it, by the program itself, with a QEMU that boots nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "made for the launcher's own tests")]
#[path = "../../launcher/tests/it/fixture.rs"]
mod fixture;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use casemate_measurements::platform::Platform;
use serde_json::Value;

/// A user's directories, a release, and the daemon's process.
struct Host {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Host {
    fn new() -> Self {
        // Sockets have short paths, so not below the target directory.
        let dir = tempfile::Builder::new().prefix("cm-").tempdir_in("/tmp").unwrap();
        fs::DirBuilder::new().mode(0o700).create(dir.path().join("run")).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        let fake = concat!(env!("CARGO_MANIFEST_DIR"), "/../launcher/tests/it/serve/fake-qemu");
        std::os::unix::fs::symlink(fake, dir.path().join("bin/qemu-system-x86_64")).unwrap();
        fixture::Contents::unbootable(Platform::Simulated).write(&dir.path().join("release"));
        fs::write(
            dir.path().join("key.pub"),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me\n",
        )
        .unwrap();
        Self { dir, daemon: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        let path = std::env::var("PATH").unwrap();
        command.args(args).env("PATH", format!("{}:{path}", self.path("bin").display()));
        command.env("XDG_RUNTIME_DIR", self.path("run")).env_remove("CASEMATE_SOCKET");
        // All of a machine's test runs share one simulated root: it takes long to make.
        command.env("XDG_STATE_HOME", env!("CARGO_TARGET_TMPDIR"));
        command.stdin(Stdio::null());
        command
    }

    /// What it prints, on standard output and beside it; it must end with `code`.
    fn casemate(&self, code: i32, args: &[&str]) -> (String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
        (stdout, stderr)
    }

    fn json(&self, args: &[&str]) -> Value {
        let (stdout, _) = self.casemate(0, &[args, &["--format", "json"]].concat());
        serde_json::from_str(&stdout).unwrap()
    }

    /// Starts the daemon; where it publishes.
    fn serve(&mut self) -> String {
        let records = self.path("records");
        let args = ["serve", "--publish", "127.0.0.1:0", "--records", records.to_str().unwrap()];
        let mut daemon = self.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(daemon.stderr.take().unwrap()).lines();
        self.daemon = Some(daemon);
        loop {
            let line = said.next().unwrap().unwrap();
            if let Some(address) = line.strip_prefix("publishing at http://") {
                return address.to_owned();
            }
        }
    }

    fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    fn run(&self, name: &str, more: &[&str]) -> Value {
        let (release, key) = (self.path("release"), self.path("key.pub"));
        let args = ["run", release.to_str().unwrap(), "--ssh-key", key.to_str().unwrap()];
        let how = ["--platform", "simulated", "--accel", "tcg", "--name", name];
        self.json(&[&args[..], &how, more].concat())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_daemon();
        for name in fs::read_dir(self.path("run/casemate/vms")).into_iter().flatten().flatten() {
            let name = name.file_name().into_string().unwrap();
            let _ = self.command(&["stop", &name, "--daemon", "never", "--timeout", "0"]).output();
        }
    }
}

#[test]
fn a_key_that_was_cut_off_is_refused_and_one_with_a_tab_is_taken() {
    let host = Host::new();
    let key = fs::read_to_string(host.path("key.pub")).unwrap();
    fs::write(host.path("cut.pub"), &key[..48]).unwrap();
    fs::write(host.path("tab.pub"), key.replacen(' ', "\t", 1)).unwrap();
    let (release, cut, tab) = (host.path("release"), host.path("cut.pub"), host.path("tab.pub"));
    let plan = ["run", release.to_str().unwrap(), "--platform", "simulated", "--plan", "--ssh-key"];
    let (_, said) = host.casemate(1, &[&plan[..], &[cut.to_str().unwrap()]].concat());
    assert!(said.contains("cut.pub") && said.contains("was it cut off"), "{said}");
    let (plan, _) = host.casemate(0, &[&plan[..], &[tab.to_str().unwrap()]].concat());
    assert!(plan.contains(key.trim_end()), "{plan}");
    // Of a verifier too, before anything is asked.
    let verify = ["verify", "127.0.0.1:1", "--release", release.to_str().unwrap(), "--only-key"];
    let (_, said) = host.casemate(1, &[&verify[..], &[cut.to_str().unwrap()]].concat());
    assert!(said.contains("cut.pub") && said.contains("was it cut off"), "{said}");
}

#[test]
fn a_vm_is_run_shown_stopped_started_and_forgotten_by_the_daemon() {
    let mut host = Host::new();
    let address = host.serve();
    let report = host.run("vm-1", &["--daemon", "always", "--restart", "always"]);
    assert_eq!((&report["name"], &report["release"]), (&"vm-1".into(), &"test 1.0".into()));
    assert_eq!(report["stages"].as_array().unwrap().len(), 10);
    let (table, _) = host.casemate(0, &["ps"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("NAME  STATE    RELEASE"), "{table}");
    assert!(lines[1].starts_with("vm-1  running  test 1.0"), "{table}");
    assert_eq!(host.json(&["ps"])[0]["doing"], "running");
    let (text, _) = host.casemate(0, &["status", "vm-1"]);
    let digest = report["measurement"].as_str().unwrap();
    assert!(text.contains(digest) && text.contains("restart      always, 0 so far"), "{text}");
    assert_eq!(host.json(&["status", "vm-1"])["restart"]["when"], "always");
    let events = host.json(&["events", "vm-1"]);
    assert_eq!(events[0]["kind"], "accepted");
    let (table, _) = host.casemate(0, &["events", "vm-1"]);
    assert!(table.contains("it serves evidence"), "{table}");
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(stream, "GET /v1/vms/vm-1 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut published = String::new();
    stream.read_to_string(&mut published).unwrap();
    assert!(published.contains(digest), "{published}");
    let (_, said) = host.casemate(0, &["stop", "vm-1", "--timeout", "1"]);
    let expected = "vm-1: it was told to stop\n\
                    vm-1: the guest was asked to power off and has 1 s\n\
                    vm-1: QEMU was told to quit\n\
                    vm-1: stopped: killed, since the guest did not power off within 1 s\n";
    assert_eq!(said, expected);
    host.casemate(0, &["start", "vm-1"]);
    let (_, said) = host.casemate(1, &["forget", "vm-1"]);
    assert!(said.contains("vm-1 is running") && said.contains("hint: stop it first"), "{said}");
    host.casemate(0, &["stop", "vm-1", "--timeout", "0"]);
    host.casemate(0, &["forget", "vm-1"]);
    let (_, said) = host.casemate(1, &["status", "vm-1"]);
    assert!(said.contains("no VM named vm-1 is known"), "{said}");
}

#[test]
fn events_are_followed_across_a_restart_of_the_daemon() {
    let mut host = Host::new();
    host.serve();
    let mut follow = host.command(&["events", "--follow", "--format", "json"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut until = |kind: &str| loop {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if event["kind"] == kind {
            return event["id"].as_u64().unwrap();
        }
    };
    let first = until("serve-started");
    host.run("vm-1", &[]);
    let running = until("running");
    host.kill_daemon();
    host.serve();
    assert!(first < running && running < until("serve-started"));
    let _ = follow.kill();
    let _ = follow.wait();
}

#[test]
fn without_a_daemon_the_verbs_work_alone() {
    let mut host = Host::new();
    host.serve();
    // A socket that a killed daemon left is nobody.
    host.kill_daemon();
    assert!(host.path("run/casemate/api.sock").exists());
    host.run("vm-1", &[]);
    let (table, _) = host.casemate(0, &["ps"]);
    assert!(table.contains("vm-1  running  test 1.0"), "{table}");
    let (text, _) = host.casemate(0, &["status", "vm-1"]);
    assert!(text.contains("state        running"), "{text}");
    let (_, said) = host.casemate(1, &["ps", "--daemon", "always"]);
    assert!(said.contains("cannot ask the daemon at"), "{said}");
    let (_, said) = host.casemate(1, &["events"]);
    assert!(said.contains("cannot ask the daemon at"), "{said}");
    let (_, said) = host.casemate(0, &["stop", "vm-1", "--timeout", "0"]);
    let expected = "vm-1: QEMU was told to quit\n\
                    vm-1: stopped: killed without asking the guest\n";
    assert_eq!(said, expected);
    fs::remove_file(host.path("run/casemate/api.sock")).unwrap();
    let args = ["events", "--socket", "/nowhere/api.sock"];
    let (_, said) = host.casemate(1, &args);
    assert!(said.contains("/nowhere/api.sock"), "{said}");
}

#[test]
fn what_installs_it_and_what_it_publishes_is_printed() {
    let host = Host::new();
    for (file, expected) in [
        ("service", "ExecStart=/usr/local/bin/casemate serve"),
        ("socket", "ListenStream=/run/casemate/api.sock"),
        ("sysusers", "u casemate-qemu"),
        ("udev", "KERNEL==\"sev\""),
    ] {
        let (text, _) = host.casemate(0, &["serve", "--print-unit", file]);
        assert!(text.contains(expected), "{text}");
    }
    let release = host.path("release");
    let release = release.to_str().unwrap();
    let (yaml, _) =
        host.casemate(0, &["publish", release, "--format", "sek8s-yaml", "--cpus", "2"]);
    assert!(yaml.starts_with("version: \"1.0\"\nsnp:\n  hardware:\n"), "{yaml}");
    assert_eq!(yaml.matches("measurement:").count(), 2);
    let (_, said) =
        host.casemate(1, &["publish", release, "--format", "sek8s-yaml", "--cpus", "3"]);
    assert!(said.contains("no launch with so many vCPUs"), "{said}");
}

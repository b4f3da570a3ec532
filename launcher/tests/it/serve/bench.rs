//! A daemon under test, in a process of its own that can be killed, with a QEMU that boots
//! nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use casemate_launcher::confine::Confinement;
use casemate_launcher::host::Qemu;
use casemate_launcher::plan::{LaunchPlan, LaunchRequest};
use casemate_launcher::release::Release;
use casemate_launcher::serve::client::{Client, ClientError};
use casemate_launcher::serve::restart::Restart;
use casemate_launcher::serve::view::VmView;
use casemate_launcher::serve::{Doing, Event, EventKind, RunRequest, Settings, serve};
use casemate_launcher::state::{StateRoot, VmName};
use casemate_launcher::{ProcessId, SupervisorCommand};
use casemate_measurements::platform::Platform;

use crate::fixture::{Contents, plain_host, request};

/// How long anything may take on a machine that does other things too.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const DIR: &str = "CASEMATE_TEST_SERVE";

/// Waits until something is there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What [`Bench::start`] starts this program for.
#[test]
#[ignore = "the daemon of the other tests, not a test"]
fn daemon() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let supervisor = SupervisorCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--ignored", "--exact", "serve::bench::supervisor"].map(Into::into).into(),
        // All of a machine's test runs share one simulated root: it takes long to make.
        environment: vec![("XDG_STATE_HOME".into(), env!("CARGO_TARGET_TMPDIR").into())],
    };
    let root = StateRoot::at(&dir.join("s")).unwrap();
    let settings = Settings {
        socket: root.dir().join("api.sock"),
        root,
        records: dir.join("records"),
        wanted: Some(dir.join("wanted")).filter(|path| path.exists()),
        publish: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        public_host: "miner.example".to_owned(),
        confinement: Confinement {
            user: std::env::var("CASEMATE_TEST_QEMU_USER").ok(),
            cgroup: std::env::var_os("CASEMATE_TEST_CGROUP").map(PathBuf::from),
        },
        supervisor,
    };
    serve(settings, |_| ()).unwrap();
}

/// A supervisor that kills the daemon first, where a file says so.
#[test]
#[ignore = "the supervisor of the other tests, not a test"]
fn supervisor() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    if fs::remove_file(dir.join("kill-daemon")).is_ok() {
        let daemon = std::os::unix::process::parent_id();
        kill(daemon, "-9");
    }
    let vm = std::env::args_os().next_back().unwrap();
    let _ = casemate_launcher::supervise(Path::new(&vm));
}

/// Sends a signal.
pub(crate) fn kill(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A place for a daemon and its VMs. All of them end with it.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    environment: Vec<(&'static str, String)>,
    qemu: Qemu,
}

impl Bench {
    /// A place whose release has these words in its command line.
    pub(crate) fn new(words: &str) -> Self {
        // Sockets have short paths, so not below the target directory.
        let dir = tempfile::Builder::new().prefix("cm-").tempdir_in("/tmp").unwrap();
        let mut contents = Contents::unbootable(Platform::Simulated);
        contents.cmdline = ["console=ttynull", words].join(" ").trim().into();
        contents.write(&dir.path().join("release"));
        let qemu = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/serve/fake-qemu");
        let qemu = Qemu { path: qemu.into(), ..plain_host().qemu };
        Self { dir, daemon: None, environment: Vec::new(), qemu }
    }

    /// With a real QEMU, and firmware that halts the processor for good.
    pub(crate) fn with_qemu(mut self, qemu: Qemu) -> Self {
        let mut contents = Contents::unbootable(Platform::Simulated);
        let mut firmware = vec![0xff; 0x1_0000 - contents.firmware.len()];
        firmware.extend_from_slice(&contents.firmware);
        // The reset vector: hlt; jmp to it.
        let reset = firmware.len() - 16;
        firmware[reset..reset + 3].copy_from_slice(&[0xf4, 0xeb, 0xfd]);
        contents.firmware = firmware;
        // A boot protocol that knows initrds, and how high one may lie.
        contents.kernel[0x206..0x208].copy_from_slice(&[0x0c, 0x02]);
        contents.kernel[0x22c..0x230].copy_from_slice(&0x37ff_ffff_u32.to_le_bytes());
        contents.write(&self.path("release"));
        self.qemu = qemu;
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.path("s/api.sock"))
    }

    /// The daemon's command.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "serve::bench::daemon", "--nocapture"]);
        command.env(DIR, self.dir.path()).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) -> Client {
        assert!(self.daemon.is_none());
        self.daemon = Some(self.command().spawn().unwrap());
        let client = self.client();
        wait_for("the daemon", || client.list().ok());
        client
    }

    /// A place with a daemon that works.
    pub(crate) fn started(words: &str) -> (Self, Client) {
        let mut bench = Self::new(words);
        let client = bench.start();
        (bench, client)
    }

    pub(crate) fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Kills the daemon, and nothing else.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let _ = daemon.kill();
        daemon.wait().unwrap();
    }

    /// Waits until the daemon has ended by itself.
    pub(crate) fn daemon_ended(&mut self) -> std::process::ExitStatus {
        self.daemon.take().unwrap().wait().unwrap()
    }

    /// What a client sends to have a VM started.
    pub(crate) fn request(&self, name: &str, restart: Restart) -> RunRequest {
        let release = Release::open(&self.path("release")).unwrap();
        let root = StateRoot::of_daemon(&self.path("s"));
        let mut host = plain_host();
        host.qemu = self.qemu.clone();
        let mut asked = request(Platform::Simulated, name);
        asked.accel = casemate_launcher::plan::AccelChoice::Tcg;
        let asked = LaunchRequest { ssh_port: 2222, evidence_port: 8443, ..asked };
        let plan =
            LaunchPlan::new(&release, &asked, &host, &root.vm(&asked.name).unwrap()).unwrap();
        RunRequest {
            schema: RunRequest::SCHEMA,
            release: release.dir().to_str().unwrap().to_owned(),
            plan: serde_json::to_value(plan).unwrap(),
            restart,
        }
    }

    /// Has a VM started and waits until it serves evidence.
    pub(crate) fn run(&self, name: &str, restart: Restart) -> VmView {
        self.client().run(&self.request(name, restart)).unwrap();
        self.until(name, Doing::Running)
    }

    /// Waits until a VM does this.
    pub(crate) fn until(&self, name: &str, doing: Doing) -> VmView {
        let (client, vm) = (self.client(), vm(name));
        wait_for(&format!("{name} to be {doing:?}"), || {
            client.status(&vm).ok().filter(|view| view.doing == doing)
        })
    }

    /// What happened to a VM.
    pub(crate) fn events(&self, name: &str) -> Vec<Event> {
        self.client().events(Some(0), Some(&vm(name)), 0).unwrap()
    }

    pub(crate) fn kinds(&self, name: &str) -> Vec<EventKind> {
        self.events(name).into_iter().map(|event| event.kind).collect()
    }

    /// The processes that stand in for QEMU.
    pub(crate) fn qemus(&self) -> Vec<u32> {
        let marker = self.path("s/vms").display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("fake-qemu") && line.contains(&marker) {
                found.push(pid);
            }
        }
        found
    }
}

/// A name.
pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

/// QEMU's process.
pub(crate) fn qemu(view: &VmView) -> ProcessId {
    view.state.as_ref().unwrap().qemu.unwrap()
}

/// Why the daemon refuses.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    match result {
        Err(ClientError::Refused { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        let Ok(root) = StateRoot::at(&self.path("s")) else { return };
        for name in root.names().unwrap_or_default() {
            let _ = casemate_launcher::stop(&root, &name, Duration::ZERO, &mut |_| ());
        }
    }
}

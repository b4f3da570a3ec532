//! A host that starts VMs: as it is told, or with a plan of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use casemate_launcher::authority::{Authority, ROOT_FILE};
use casemate_launcher::host::HostFacts;
use casemate_launcher::machine::{Console, Memory};
use casemate_launcher::network::Network;
use casemate_launcher::plan::{AccelChoice, LaunchPlan, LaunchRequest, Timeouts};
use casemate_launcher::progress::Event;
use casemate_launcher::release::Release;
use casemate_launcher::state::{StateRoot, VmName};
use casemate_launcher::stopping::{StopStep, Stopped};
use casemate_launcher::{StartError, SupervisorCommand};
use casemate_measurements::launch::VcpuCount;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use casemate_measurements::stage::Stage;
use casemate_validator::target::Target;

use crate::{binary, casemate, key_pair, release};

/// A port of 127.0.0.1 that nobody uses at this moment.
#[must_use]
pub fn free_port() -> u16 {
    casemate_launcher::host::free_port().unwrap()
}

/// A host with a tenant's key and a folder of its own, gone with the test.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    key: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        // Sockets have short paths, so not below the target directory.
        let dir = tempfile::Builder::new().prefix("cm-").tempdir_in("/tmp").unwrap();
        let key = key_pair(dir.path(), "tenant");
        Self { dir, key }
    }
}

/// How a launch went.
#[derive(Debug)]
pub struct Seen {
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Bytes on each console of the plan when init started.
    pub before_init: Vec<u64>,
    /// The VM, or why there is none.
    pub result: Result<Vm, StartError>,
}

/// A running VM; stopped when dropped.
#[derive(Debug)]
pub struct Vm {
    name: VmName,
    root: StateRoot,
    /// The plan that is executed.
    pub plan: LaunchPlan,
}

impl Host {
    /// A folder for the test's files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The tenant's private key.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    fn state(&self) -> StateRoot {
        StateRoot::at(&self.dir.path().join("s")).unwrap()
    }

    /// The honest plan for a VM of the shared release. The first stage must come soon.
    #[must_use]
    pub fn plan(&self, name: &str) -> LaunchPlan {
        self.plan_of(release(), name)
    }

    /// The honest plan for a VM of a release.
    #[must_use]
    pub fn plan_of(&self, release: &Path, name: &str) -> LaunchPlan {
        let release = Release::open(release).unwrap();
        let state = self.state();
        let name: VmName = name.parse().unwrap();
        let key = std::fs::read_to_string(self.key.with_extension("pub")).unwrap();
        let request = LaunchRequest {
            name: name.clone(),
            platform: Platform::Simulated,
            vcpus: VcpuCount::new(2).unwrap(),
            cpu_model: None,
            memory: Memory::from_mib(1024).unwrap(),
            ssh_keys: vec![key.trim().to_owned()],
            ssh_port: free_port(),
            evidence_port: free_port(),
            network: Network::User,
            gpus: None,
            accel: AccelChoice::Tcg,
            timeouts: Some(Timeouts {
                first_stage: Duration::from_secs(90),
                handover: Duration::from_secs(90),
                ready: Duration::from_mins(4),
            }),
            extra_disks: Vec::new(),
            consoles: Vec::new(),
        };
        let host = HostFacts::probe(Path::new("/"), &state, None).unwrap();
        LaunchPlan::new(&release, &request, &host, &state.vm(&name).unwrap()).unwrap()
    }

    /// Executes a plan, whoever made it.
    #[must_use]
    pub fn launch(&self, plan: &LaunchPlan) -> Seen {
        let supervisor = SupervisorCommand {
            program: binary(),
            arguments: vec!["supervise".into()],
            environment: vec![("XDG_STATE_HOME".into(), state_home().into())],
        };
        let (mut stages, mut before_init) = (Vec::new(), Vec::new());
        let result = casemate_launcher::start(plan, &supervisor, &mut |progress| {
            if let Event::Stage { stage } = &progress.event {
                stages.push(stage.0);
                if stage.0 == Stage::InitStarted {
                    let paths = plan.machine.consoles.iter().map(console_path);
                    before_init =
                        paths.map(|path| path.metadata().map_or(0, |m| m.len())).collect();
                }
            }
        });
        // Shown when the test fails: what was seen is half of why.
        let how = result.as_ref().map(|_| "it came up");
        eprintln!("{}: {stages:?}: {how:?}", plan.name);
        let vm = |_| Vm { name: plan.name.clone(), root: self.state(), plan: plan.clone() };
        Seen { stages, before_init, result: result.map(vm) }
    }

    /// Every console that QEMU can attach here, each with a file for its output.
    #[must_use]
    pub fn consoles(&self) -> Vec<Console> {
        let path = |name: &str| self.dir.path().join(format!("{name}.console"));
        vec![
            Console::IsaSerial { path: path("isa-serial") },
            Console::PciSerial { path: path("pci-serial") },
            Console::Virtio { path: path("virtio") },
            Console::Parallel { path: path("parallel") },
            Console::Debugcon { path: path("debugcon-e9"), iobase: 0xe9 },
            Console::Debugcon { path: path("debugcon-402"), iobase: 0x402 },
        ]
    }
}

/// Where a console's output goes.
#[must_use]
pub fn console_path(console: &Console) -> &Path {
    match console {
        Console::IsaSerial { path }
        | Console::PciSerial { path }
        | Console::Virtio { path }
        | Console::Parallel { path }
        | Console::Debugcon { path, .. } => path,
    }
}

/// Where the simulated root of the tests is kept, so that it is made once.
fn state_home() -> PathBuf {
    crate::scratch().join("state")
}

impl Vm {
    /// Where evidence is served.
    #[must_use]
    pub fn evidence(&self) -> Target {
        let port = self.plan.host_port(casemate_measurements::evidence::PORT).unwrap();
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    /// The port that leads to the VM's sshd.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.plan.host_port(casemate_launcher::plan::SSH_PORT).unwrap()
    }

    /// The simulated root that the VM's reports are signed under.
    #[must_use]
    pub fn root() -> PathBuf {
        let dir = state_home().join("casemate/simulated");
        Authority::open_or_make(&dir).unwrap();
        dir.join(ROOT_FILE)
    }

    /// The manifest that a verifier expects.
    #[must_use]
    pub fn manifest() -> Manifest {
        casemate_validator::release::read_manifest(release()).unwrap()
    }

    /// `casemate verify` on this VM, trusting the simulated root or not.
    #[must_use]
    pub fn verify(&self, trust: bool) -> Command {
        let mut command = casemate(["verify", "--format", "json"]);
        command.arg(self.evidence().to_string()).arg("--release").arg(release());
        if trust {
            command.arg("--trust-simulated").arg(Self::root());
        }
        command
    }

    /// `casemate ssh` to the sshd at `port`, with a command.
    #[must_use]
    pub fn ssh_at(&self, host: &Host, port: u16, remote: &str) -> Command {
        self.session(host, release(), port, remote)
    }

    /// `casemate ssh` to this VM of `release`, with a command.
    #[must_use]
    pub fn ssh_of(&self, host: &Host, release: &Path, remote: &str) -> Command {
        self.session(host, release, self.ssh_port(), remote)
    }

    fn session(&self, host: &Host, release: &Path, port: u16, remote: &str) -> Command {
        let mut command = casemate(["ssh"]);
        command.arg(self.evidence().to_string()).arg("--release").arg(release);
        command.arg("--trust-simulated").arg(Self::root());
        command.args(["--ssh-port", &port.to_string()]).arg("--identity").arg(host.key());
        command.args(["--", remote]);
        command
    }

    /// Stops this VM as `casemate stop` does; the steps, and how it ended.
    #[must_use]
    pub fn stop(&self, timeout: Duration) -> (Vec<StopStep>, Stopped) {
        let mut steps = Vec::new();
        let mut note = |step| steps.push(step);
        let ended = casemate_launcher::stop(&self.root, &self.name, timeout, &mut note).unwrap();
        (steps, ended)
    }

    /// `casemate ssh` to this VM, with a command.
    #[must_use]
    pub fn ssh(&self, host: &Host, remote: &str) -> Command {
        self.ssh_at(host, self.ssh_port(), remote)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // A test that ended its VM itself has nothing left to stop.
        let _ = casemate_launcher::stop(&self.root, &self.name, Duration::ZERO, &mut |_| ());
    }
}

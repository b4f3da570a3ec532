//! A VM with a GPU from start to end, with everything real but the host's files, its kernel and
//! QEMU: a script that says what a VM would say.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use casemate_launcher::devices::Standing;
use casemate_launcher::host::HostFacts;
use casemate_launcher::inventory::GpuMode;
use casemate_launcher::machine::Memory;
use casemate_launcher::plan::{LaunchPlan, LaunchRequest};
use casemate_launcher::progress::Event;
use casemate_launcher::release::Release;
use casemate_launcher::state::{Phase, StateRoot};
use casemate_launcher::topology::{GpuChoice, GpuRequest};
use casemate_launcher::{RunningVm, StartError, SupervisorCommand, start, stop};
use casemate_measurements::platform::Platform;

use crate::fake_host::{FakeHost, address, gpu};
use crate::fixture::{Contents, request, snp_host};

/// Connects as QEMU does, says every stage of a boot, powers off when it is asked to and quits when
/// it is told to.
const QEMU: &str = r#"#!/usr/bin/python3
import json, os, socket, sys, threading
def connect(name):
    start = f'socket,id={name},path='
    path = next(word for word in sys.argv if word.startswith(start))[len(start):].split(',')[0]
    end = socket.socket(socket.AF_UNIX)
    end.connect(path)
    return end
assert any('"driver":"vfio-pci"' in word for word in sys.argv), sys.argv
stage, qmp = connect('stage'), connect('qmp')
qmp.sendall(b'{"QMP": {}}\n')
stage.sendall(bytes([1, 2, 3, 4, 5, 6, 16, 17, 18, 19]))
def heed():
    if stage.recv(1) == b'\x70':
        os._exit(0)
threading.Thread(target=heed, daemon=True).start()
for line in qmp.makefile():
    if json.loads(line)['execute'] == 'quit':
        sys.exit(0)
    qmp.sendall(b'{"return": {"status": "running", "running": true}}\n')
"#;

struct Bench {
    host: FakeHost,
    dir: tempfile::TempDir,
    root: StateRoot,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in self.root.names().unwrap() {
            let _ = stop(&self.root, &name, Duration::ZERO, &mut |_| ());
        }
    }
}

impl Bench {
    fn new(gpus: u8) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Contents::unbootable(Platform::Snp).write(&dir.path().join("release"));
        // Another process writes it: one that is open for writing cannot be started.
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(dir.path().join("qemu"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut install.stdin.take().unwrap(), QEMU.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        let root = StateRoot::at(&dir.path().join("s")).unwrap();
        Self { host: FakeHost::new(gpus, 0, None), dir, root }
    }

    fn plan(&self, name: &str) -> LaunchPlan {
        let release = Release::open(&self.dir.path().join("release")).unwrap();
        let offer = self.host.devices().offer(self.host.inventory()).unwrap();
        let mut host = HostFacts { gpus: Some(Box::new(offer)), ..snp_host() };
        host.qemu.path = self.dir.path().join("qemu");
        let choice = GpuChoice::Any { family: None, count: 1 };
        let request = LaunchRequest {
            memory: Memory::from_mib(4096).unwrap(),
            gpus: Some(GpuRequest { choice, board: None }),
            ..request(Platform::Snp, name)
        };
        let paths = self.root.vm(&request.name).unwrap();
        LaunchPlan::new(&release, &request, &host, &paths).unwrap()
    }

    fn standing(&self) -> Option<Standing> {
        let mut entries = self.host.devices().ledger().entries().unwrap();
        entries.remove(&address(&gpu(0))).map(|entry| entry.standing)
    }
}

fn launch(plan: &LaunchPlan) -> (Result<RunningVm, StartError>, Vec<Event>) {
    let supervisor = SupervisorCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--ignored", "--exact", "boot::supervisor"].map(Into::into).into(),
        environment: Vec::new(),
    };
    let mut heard = Vec::new();
    let result = start(plan, &supervisor, &mut |progress| heard.push(progress.event.clone()));
    (result, heard)
}

#[test]
fn a_gpu_is_held_while_its_vm_runs_and_reset_when_it_ends() {
    let bench = Bench::new(1);
    let plan = bench.plan("vm-1");
    let other = LaunchPlan {
        name: "vm-2".parse().unwrap(),
        paths: bench.root.vm(&"vm-2".parse().unwrap()).unwrap(),
        ..plan.clone()
    };
    let (vm, heard) = launch(&plan);
    assert_eq!(vm.unwrap().state.phase, Phase::Running);
    assert_eq!(heard[0], Event::TakingDevices { count: 1 });
    assert_eq!(bench.host.driver(&gpu(0)).as_deref(), Some("vfio-pci"));
    let Some(Standing::Held { name, .. }) = bench.standing() else { panic!() };
    assert_eq!(name, "VM vm-1");
    // A plan that was made before the GPU was taken does not get it.
    let Err(StartError::Failed { message, hint, .. }) = launch(&other).0 else { panic!() };
    assert!(message.contains("0000:10:00.0 is held by VM vm-1"), "{message}");
    assert!(hint.unwrap().contains("stop that VM"));
    assert_eq!(bench.host.resets(), [""; 0]);
    stop(&bench.root, &plan.name, Duration::from_secs(20), &mut |_| ()).unwrap();
    assert_eq!(bench.standing(), Some(Standing::Free));
    assert_eq!(bench.host.resets(), [gpu(0)]);
    // The next one has it at once.
    launch(&other).0.unwrap();
}

#[test]
fn a_gpu_whose_supervisor_was_killed_is_reset_for_the_next_vm() {
    let bench = Bench::new(1);
    let vm = launch(&bench.plan("vm-1")).0.unwrap();
    let (supervisor, qemu) = (vm.state.supervisor, vm.state.qemu.unwrap());
    let kill = Command::new("kill").args(["-9", &supervisor.pid.to_string()]).status();
    assert!(kill.unwrap().success());
    let until = Instant::now() + Duration::from_secs(20);
    while supervisor.is_alive() || qemu.is_alive() {
        assert!(Instant::now() < until, "it lives on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(matches!(bench.standing(), Some(Standing::Held { .. })));
    launch(&bench.plan("vm-2")).0.unwrap();
    assert_eq!(bench.host.resets(), [gpu(0)], "before the next VM had it");
}

#[test]
fn a_gpu_whose_mode_changed_since_the_plan_is_not_given() {
    let bench = Bench::new(1);
    let plan = bench.plan("vm-1");
    bench.host.set_mode(&gpu(0), 3);
    let Err(StartError::Failed { message, .. }) = launch(&plan).0 else { panic!() };
    assert!(
        message.contains(&format!("mode {}, expected on as planned", GpuMode::Devtools)),
        "{message}"
    );
    assert_eq!(bench.standing(), Some(Standing::Free));
    assert!(!Path::new(bench.root.vm(&plan.name).unwrap().dir()).exists());
}

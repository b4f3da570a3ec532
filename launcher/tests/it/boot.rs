//! VMs under a real QEMU with the real firmware and a real kernel, on the simulated platform.
//!
//! `CASEMATE_TEST_FIRMWARE` (an `AmdSev` OVMF) and `CASEMATE_TEST_KERNEL` (a bzImage with virtio
//! console built in) name the files. Without them, or without QEMU, each test says so and
//! passes, unless `CASEMATE_REQUIRE` names `qemu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use casemate_launcher::committed::Committed;
use casemate_launcher::host::{HostFacts, Kvm, Qemu};
use casemate_launcher::machine::{Accel, Console, ExtraDisk};
use casemate_launcher::plan::{AccelChoice, LaunchPlan, LaunchRequest, Timeouts};
use casemate_launcher::progress::{Event, Progress};
use casemate_launcher::release::Release;
use casemate_launcher::state::{Phase, StateRoot};
use casemate_launcher::stopping::Stopped;
use casemate_launcher::{RunningVm, StartError, SupervisorCommand, list, start, stop, supervise};
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::stage::Stage;

use crate::fixture::{Contents, request};
use crate::guest;

/// One VM at a time: under emulation each takes a whole processor.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A release that boots, a place for state, and the turn to use them.
struct Bench {
    dir: tempfile::TempDir,
    root: StateRoot,
    _turn: MutexGuard<'static, ()>,
}

fn missing(reason: &str) {
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|what| what == "qemu"), "required: {reason}");
    eprintln!("skipped: {reason}");
}

fn file(variable: &str) -> Option<Vec<u8>> {
    let Some(path) = std::env::var_os(variable) else {
        missing(&format!("{variable} is not set"));
        return None;
    };
    Some(
        fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", PathBuf::from(&path).display())),
    )
}

impl Bench {
    fn new(cmdline: &str) -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (firmware, kernel) = (file("CASEMATE_TEST_FIRMWARE")?, file("CASEMATE_TEST_KERNEL")?);
        if let Err(error) = Qemu::probe(None) {
            missing(&error.to_string());
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents {
            platform: Platform::Simulated,
            firmware,
            kernel,
            initrd: guest::initrd(dir.path()),
            cmdline: format!("console=ttynull quiet loglevel=0 panic=-1 {cmdline}").trim().into(),
            id_block: None,
            policy: GuestPolicy::default(),
            address_bits: None,
            models: &["EPYC-v4", "EPYC-Genoa"],
        };
        contents.write(&dir.path().join("release"));
        let root = StateRoot::at(&dir.path().join("s")).unwrap();
        Some(Self { dir, root, _turn: turn })
    }

    fn plan(&self, request: &LaunchRequest) -> LaunchPlan {
        let release = Release::open(&self.dir.path().join("release")).unwrap();
        let host = HostFacts::probe(Path::new("/"), &self.root, None).unwrap();
        let paths = self.root.vm(&request.name).unwrap();
        LaunchPlan::new(&release, request, &host, &paths).unwrap()
    }

    fn is_empty(&self) -> bool {
        list(&self.root).unwrap().is_empty()
    }
}

/// A request for an emulated VM.
fn emulated(name: &str) -> LaunchRequest {
    let (ssh_port, evidence_port) = (free_port(), free_port());
    let accel = AccelChoice::Tcg;
    LaunchRequest { ssh_port, evidence_port, accel, ..request(Platform::Simulated, name) }
}

/// Starts a VM with this program as its supervisor.
fn launch(plan: &LaunchPlan) -> (Result<RunningVm, StartError>, Vec<Progress>) {
    let supervisor = SupervisorCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--ignored", "--exact", "boot::supervisor"].map(Into::into).into(),
        environment: vec![
            // All of a machine's test runs share one simulated root: it takes long to make.
            ("XDG_STATE_HOME".into(), env!("CARGO_TARGET_TMPDIR").into()),
        ],
    };
    let mut heard = Vec::new();
    let result = start(plan, &supervisor, &mut |progress| {
        eprintln!("{:>7} ms {:?}", progress.at_ms, progress.event);
        heard.push(progress.clone());
    });
    (result, heard)
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in self.root.names().unwrap() {
            let _ = stop(&self.root, &name, Duration::ZERO, &mut |_| ());
        }
    }
}

fn free_port() -> u16 {
    casemate_launcher::host::free_port().unwrap()
}

/// What [`Bench::start`] starts this program for.
#[test]
#[ignore = "the supervisor of the other tests, not a test"]
fn supervisor() {
    let dir = std::env::args_os().next_back().unwrap();
    supervise(Path::new(&dir)).unwrap();
}

#[test]
fn a_vm_comes_up_and_is_stopped() {
    let Some(bench) = Bench::new("") else { return };
    let plan = bench.plan(&emulated("vm-1"));
    let (vm, heard) = launch(&plan);
    let vm = vm.unwrap();
    assert_eq!((vm.state.phase.clone(), vm.state.digest), (Phase::Running, plan.digest));
    let stages: Vec<Stage> = heard
        .iter()
        .filter_map(|progress| match &progress.event {
            Event::Stage { stage } => Some(stage.0),
            _ => None,
        })
        .collect();
    // Bytes that are no stage codes are dropped on the way.
    assert_eq!(stages, Stage::ALL[..10]);
    let (again, _) = launch(&plan);
    assert!(matches!(again, Err(StartError::NameTaken { .. })), "{again:?}");
    let listed = list(&bench.root).unwrap();
    assert_eq!((listed.len(), listed[0].alive), (1, true));
    assert_eq!(listed[0].state.as_ref().map(|state| &state.phase), Some(&Phase::Running));
    let qemu = vm.state.qemu.unwrap();
    assert!(qemu.is_alive());
    let how = stop(&bench.root, &plan.name, Duration::from_mins(5), &mut |_| ()).unwrap();
    assert_eq!(how, Stopped::PoweredOff);
    assert!(!qemu.is_alive() && bench.is_empty());
}

#[test]
fn qemu_dies_with_its_supervisor() {
    let Some(bench) = Bench::new("") else { return };
    let plan = bench.plan(&emulated("vm-1"));
    let vm = launch(&plan).0.unwrap();
    let (supervisor, qemu) = (vm.state.supervisor, vm.state.qemu.unwrap());
    assert!(supervisor.is_alive() && qemu.is_alive());
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-9", &supervisor.pid.to_string()]).status().unwrap().success());
    let since = Instant::now();
    while qemu.is_alive() {
        assert!(since.elapsed() < Duration::from_secs(5), "QEMU outlived its supervisor");
        std::thread::sleep(Duration::from_millis(20));
    }
    let listed = list(&bench.root).unwrap();
    assert_eq!((listed.len(), listed[0].alive), (1, false));
    assert!(bench.is_empty());
}

#[test]
fn firmware_refuses_what_does_not_hash_to_its_table() {
    let Some(bench) = Bench::new("") else { return };
    let release = Release::open(&bench.dir.path().join("release")).unwrap();
    let table = *release.manifest().law.hashes();
    // How long this host takes, today, for what the firmware accepts.
    let genuine = launch(&bench.plan(&emulated("genuine"))).0.unwrap();
    let first = Duration::from_millis(genuine.state.reached_ms[&Stage::InitStarted.code()]);
    stop(&bench.root, &genuine.state.name, Duration::ZERO, &mut |_| ()).unwrap();
    let first_stage = first * 3 + Duration::from_secs(3);
    let timeouts = Timeouts { first_stage, ..Timeouts::for_accel(Accel::Tcg) };
    let request = LaunchRequest { timeouts: Some(timeouts), ..emulated("vm-1") };
    // A host that places the genuine table and starts something else.
    let mut cmdline = bench.plan(&request);
    cmdline.forged_hashes = Some(table);
    cmdline.machine.cmdline.push_str(" init=/bin/sh");
    let mut initrd = bench.plan(&request);
    initrd.forged_hashes = Some(table);
    initrd.machine.initrd = bench.dir.path().join("other");
    let mut bytes = fs::read(release.path("initrd")).unwrap();
    bytes.extend_from_slice(&[0; 512]);
    fs::write(&initrd.machine.initrd, bytes).unwrap();
    for plan in [cmdline, initrd] {
        let (result, _) = launch(&plan);
        let Err(StartError::Failed { message, hint, .. }) = result else { panic!("{result:?}") };
        assert!(message.contains("s after QEMU's start (accelerator tcg)"), "{message}");
        assert!(hint.unwrap().contains("refuses"));
        assert!(bench.is_empty());
    }
}

#[test]
fn a_guest_that_gives_up_says_why() {
    let Some(bench) = Bench::new("test.fail") else { return };
    let (result, _) = launch(&bench.plan(&emulated("vm-1")));
    let Err(StartError::Failed { message, .. }) = result else { panic!("{result:?}") };
    assert!(message.contains("root disk missing (stage 0x83)"), "{message}");
    assert!(bench.is_empty());
}

#[test]
fn a_guest_that_ends_is_not_waited_for() {
    let Some(bench) = Bench::new("test.off") else { return };
    let (result, _) = launch(&bench.plan(&emulated("vm-1")));
    let Err(StartError::Failed { message, .. }) = result else { panic!("{result:?}") };
    assert!(message.contains("guest-shutdown"), "{message}");
    assert!(message.contains("kernel modules loaded"), "{message}");
}

#[test]
fn a_port_in_use_is_named() {
    let Some(bench) = Bench::new("") else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ssh_port = taken.local_addr().unwrap().port();
    let request = LaunchRequest { ssh_port, ..emulated("vm-1") };
    let (result, _) = launch(&bench.plan(&request));
    let Err(StartError::Failed { message, hint, .. }) = result else { panic!("{result:?}") };
    assert!(message.contains(&ssh_port.to_string()), "{message}");
    assert!(hint.unwrap().contains("port"));
}

#[test]
fn whatever_a_host_attaches_is_attached() {
    let Some(bench) = Bench::new("") else { return };
    let at = |name: &str| bench.dir.path().join(name);
    fs::write(at("disk,x"), [0; 512]).unwrap();
    let consoles = vec![
        Console::IsaSerial { path: at("isa,y") },
        Console::PciSerial { path: at("pci") },
        Console::Virtio { path: at("virtio") },
        Console::Parallel { path: at("parallel") },
        Console::Debugcon { path: at("debug"), iobase: 0xe9 },
    ];
    let extra_disks = vec![ExtraDisk { path: at("disk,x"), serial: "spare,1".into() }];
    let request = LaunchRequest { consoles, extra_disks, ..emulated("vm-1") };
    let (vm, _) = launch(&bench.plan(&request));
    vm.unwrap();
    for name in ["isa,y", "pci", "virtio", "parallel", "debug"] {
        let bytes = fs::read(at(name)).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("Linux version") && !text.contains("init"), "{name}: {text}");
    }
}

#[test]
fn kvm_is_used_where_it_works_and_left_where_it_does_not() {
    let Some(bench) = Bench::new("") else { return };
    let auto = |name| LaunchRequest { accel: AccelChoice::Auto, ..emulated(name) };
    let plan = bench.plan(&auto("vm-1"));
    if plan.accels == [Accel::Tcg] {
        return missing("/dev/kvm cannot be opened");
    }
    let (vm, heard) = launch(&plan);
    let accel = vm.unwrap().state.accel;
    let fell_back = heard.iter().any(|p| matches!(p.event, Event::KvmBroken { .. }));
    assert_eq!(fell_back, accel == Accel::Tcg);
    let host = HostFacts::probe(Path::new("/"), &bench.root, None).unwrap();
    assert_eq!(matches!(host.kvm, Kvm::Broken { .. }), fell_back);
    assert_eq!(host.kvm == Kvm::Works, !fell_back);
    let memory = plan.machine.memory.bytes();
    assert_eq!(host.committed, Committed { vms: 1, vcpus: 2, memory });
    assert_eq!(bench.plan(&auto("vm-2")).accels.contains(&Accel::Kvm), !fell_back);
}

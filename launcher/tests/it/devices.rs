//! Devices in casemate's hands, on a tree that stands for a host: bound and given back, in the
//! right mode whatever the admin tool claims, never given twice whoever is killed when.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use casemate_launcher::committed::Committed;
use casemate_launcher::devices::{AdminTool, DeviceError, Devices, LedgerError, Standing};
use casemate_launcher::doctor::{Level, examine};
use casemate_launcher::inventory::{GpuMode, Inventory};
use casemate_launcher::machine::Memory;
use casemate_launcher::profile::Profiles;
use casemate_launcher::topology::{GpuChoice, GpuRequest, Needs, Passthrough};

use crate::fake_host::{FakeHost, Faults, address, gpu, switch};
use crate::fixture::snp_host;

/// What a tool does that sets what it is told to.
const SETS: &str = "
mode = {'--set-cc-mode=on': 1, '--set-cc-mode=off': 0, '--set-ppcie-mode=on': 0x20,
        '--set-ppcie-mode=off': 0}[sys.argv[3]]
offset = 0x28c50 if device.split(':')[1].startswith('8') else 0x1182cc
if offset == 0x28c50: mode = 1 if mode else 0
with open(f'{root}/sys/bus/pci/devices/{device}/resource0', 'r+b') as window:
    window.seek(offset)
    window.write(mode.to_bytes(4, 'little'))
print(f'{device} CC mode is set')
";

/// A tool in a script, with a mark that it was started.
fn tool(host: &FakeHost, does: &str) -> AdminTool {
    let (root, path) = (host.root().display(), host.root().join("tool.py"));
    let start = format!(
        "import sys, time\nroot = '{root}'\nassert sys.argv[1] == '--devices'\n\
         device = sys.argv[2]\nopen(f'{{root}}/started', 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
    );
    fs::write(&path, format!("{start}{does}")).unwrap();
    AdminTool::at(&path)
}

fn started(host: &FakeHost) -> String {
    fs::read_to_string(host.root().join("started")).unwrap_or_default()
}

fn prepare(
    host: &FakeHost,
    gpus: &[u8],
    mode: Option<GpuMode>,
    tool: Option<&AdminTool>,
) -> Result<(), DeviceError> {
    let addresses: Vec<_> = gpus.iter().map(|n| address(&gpu(*n))).collect();
    host.devices().prepare(&addresses, mode, tool, &mut |_| {}).map(drop)
}

fn standing(host: &FakeHost, of: &str) -> Option<Standing> {
    let mut entries = host.devices().ledger().entries().unwrap();
    entries.remove(&address(of)).map(|entry| entry.standing)
}

/// A plan for one GPU of this host.
fn plan(host: &FakeHost) -> Passthrough {
    let request = GpuRequest { choice: GpuChoice::Any { family: None, count: 1 }, board: None };
    let facts = snp_host();
    let needs = Needs {
        vcpus: 2,
        memory: Memory::from_mib(4096).unwrap(),
        others: Committed::default(),
        firmware_bits: 40,
        qemu: &facts.qemu,
    };
    let offer = host.devices().offer(host.inventory()).unwrap();
    Passthrough::new(&request, needs, &offer, &Profiles::shipped().unwrap()).unwrap()
}

#[test]
fn every_function_is_bound_and_given_back() {
    let host = FakeHost::new(2, 0, Some("nvidia"));
    prepare(&host, &[0], None, None).unwrap();
    assert_eq!(host.driver(&gpu(0)).as_deref(), Some("vfio-pci"));
    assert_eq!(host.driver("0000:10:00.1").as_deref(), Some("vfio-pci"), "its second function");
    assert_eq!(host.driver(&gpu(1)).as_deref(), Some("nvidia"), "another of the same kind");
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
    // Again: nothing to do.
    prepare(&host, &[0], Some(GpuMode::On), None).unwrap();
    let released = host.devices().release(&[address(&gpu(0))], None, None, &mut |_| {}).unwrap();
    assert_eq!(released[0].driver.as_deref(), Some("nvidia"));
    assert_eq!(host.driver("0000:10:00.1").as_deref(), Some("snd_hda_intel"));
    assert_eq!(host.resets(), [gpu(0)]);
    // What the host works with is not reset under its feet.
    let all = [address(&gpu(0)), address(&gpu(1))];
    let released = host.devices().release(&all, None, None, &mut |_| {}).unwrap();
    assert!(released.iter().all(|one| one.driver.as_deref() == Some("nvidia")), "{released:?}");
    assert_eq!(host.resets(), [gpu(0)]);
}

#[test]
fn a_mode_is_set_and_read_again() {
    let host = FakeHost::new(2, 1, None);
    let tool = tool(&host, SETS);
    prepare(&host, &[0, 1], Some(GpuMode::Ppcie), Some(&tool)).unwrap();
    let told = started(&host);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.contains("--set-ppcie-mode=on --reset-after-ppcie-mode-switch"), "{told}");
    let listed = host.devices().list().unwrap();
    let modes: Vec<_> = listed.iter().map(|(device, _)| device.mode.clone().unwrap()).collect();
    assert_eq!(modes, [Ok(GpuMode::Ppcie), Ok(GpuMode::Ppcie), Ok(GpuMode::Off)]);
    let at = [address(&switch(0))];
    let done = host.devices().prepare(&at, Some(GpuMode::Ppcie), Some(&tool), &mut |_| {});
    assert_eq!(done.unwrap()[0].mode, Some(GpuMode::Ppcie));
    // A switch has no mode `on`: its GPUs are to be for one VM each, so it is switched off.
    let done = host.devices().prepare(&at, Some(GpuMode::On), Some(&tool), &mut |_| {});
    assert_eq!(done.unwrap()[0].mode, Some(GpuMode::Off));
    // What has its mode is left alone.
    prepare(&host, &[0], Some(GpuMode::Ppcie), None).unwrap();
    let error = prepare(&host, &[0], Some(GpuMode::On), None).unwrap_err();
    assert!(matches!(error, DeviceError::NoTool { .. }), "{error}");
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
    for mode in [GpuMode::Devtools, GpuMode::Invalid] {
        let error = prepare(&host, &[0], Some(mode), Some(&tool)).unwrap_err();
        assert!(matches!(error, DeviceError::UnwantedMode { .. }), "{error}");
    }
}

#[test]
fn a_tool_that_fails_in_any_way_is_not_believed() {
    let cases = [
        ("hangs", "time.sleep(600)", "did not end within"),
        ("fails", "sys.exit('FSP: command rejected')", "FSP: command rejected"),
        ("lies", "print('CC mode is off')", "although NVIDIA's admin tool said"),
        ("dies", "import os; os.kill(os.getpid(), 9)", "signal: 9"),
        (
            "garbage",
            "sys.stdout.buffer.write(bytes(range(256)) * 9000)\nsys.exit(1)",
            "exit status: 1",
        ),
    ];
    for (name, does, said) in cases {
        let host = FakeHost::new(2, 0, Some("nvidia"));
        let tool = tool(&host, does).within(Duration::from_secs(3));
        let error = prepare(&host, &[0, 1], Some(GpuMode::Off), Some(&tool)).unwrap_err();
        let text = casemate_measurements::causes::in_one_line(&error);
        assert!(text.contains(said), "{name}: {text}");
        let Some(Standing::Quarantined { reason }) = standing(&host, &gpu(0)) else {
            panic!("{name}: {:?}", standing(&host, &gpu(0)));
        };
        assert!(reason.contains(said), "{name}: {reason}");
        // The other was not touched and both are the host's again.
        assert_eq!(standing(&host, &gpu(1)), Some(Standing::Free), "{name}");
        assert_eq!(host.driver(&gpu(0)).as_deref(), Some("nvidia"), "{name}");
        let again = prepare(&host, &[0], None, None).unwrap_err();
        let DeviceError::Ledger(LedgerError::Quarantined { .. }) = again else { panic!("{again}") };
        let offer = host.devices().offer(host.inventory()).unwrap();
        assert!(offer.taken[&address(&gpu(0))].contains("out of use"), "{name}");
        // A person looks at it and releases it.
        host.devices().release(&[address(&gpu(0))], None, None, &mut |_| {}).unwrap();
        prepare(&host, &[0], None, None).unwrap();
    }
}

#[test]
fn a_tool_that_is_absent_costs_no_device() {
    let host = FakeHost::new(1, 0, None);
    let tool = AdminTool::at(Path::new("/absent/tool"));
    let error = prepare(&host, &[0], Some(GpuMode::Off), Some(&tool)).unwrap_err();
    assert!(error.hint().contains("path"), "{error}");
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
}

#[test]
fn what_the_kernel_refuses_is_undone() {
    let host = FakeHost::new(2, 0, Some("nvidia"));
    host.fault(Faults { no_nodes: true, ..Faults::default() });
    let error = prepare(&host, &[1, 0], None, None).unwrap_err();
    assert!(matches!(error, DeviceError::NoNode { .. }), "{error}");
    assert_eq!(host.driver(&gpu(0)).as_deref(), Some("nvidia"));
    host.fault(Faults { refuses_vfio: true, ..Faults::default() });
    let error = prepare(&host, &[0], None, None).unwrap_err();
    assert!(matches!(error, DeviceError::Driver { .. }), "{error}");
    assert_eq!(host.driver(&gpu(0)).as_deref(), Some("nvidia"));
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
    let absent = host.devices().prepare(&[address("0000:77:00.0")], None, None, &mut |_| {});
    assert!(matches!(absent, Err(DeviceError::Absent { .. })), "{absent:?}");
}

#[test]
fn a_vm_has_its_gpu_until_it_was_reset() {
    let host = FakeHost::new(2, 0, None);
    let planned = plan(&host);
    let attached = host.devices().attach(&planned, "vm-1").unwrap();
    assert_eq!(host.driver(&gpu(0)).as_deref(), Some("vfio-pci"));
    let taken = host.devices().ledger().taken().unwrap();
    assert_eq!(taken[&address(&gpu(0))], "VM vm-1 has it");
    let again = host.devices().attach(&planned, "vm-2").unwrap_err();
    assert!(matches!(again, DeviceError::Ledger(LedgerError::Held { .. })), "{again}");
    assert!(prepare(&host, &[0], None, None).is_err());
    let release = host.devices().release(&[address(&gpu(0))], None, None, &mut |_| {});
    assert!(release.is_err(), "a device of a VM that runs");
    // The next plan takes the other.
    assert_eq!(plan(&host).gpus, [address(&gpu(1))]);
    assert_eq!(host.resets(), [""; 0]);
    drop(attached);
    assert_eq!((host.resets(), standing(&host, &gpu(0))), (vec![gpu(0)], Some(Standing::Free)));
    // In another mode than planned: not given, and nothing is held.
    host.set_mode(&gpu(0), 3);
    let error = host.devices().attach(&planned, "vm-1").unwrap_err();
    assert!(error.to_string().contains("mode devtools, expected on"), "{error}");
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
    // One that does not come back from its reset is given to nobody.
    host.set_mode(&gpu(0), 1);
    let attached = host.devices().attach(&planned, "vm-1").unwrap();
    host.dies(&gpu(0));
    drop(attached);
    assert!(matches!(standing(&host, &gpu(0)), Some(Standing::Quarantined { .. })));
}

#[test]
fn of_many_that_race_for_one_gpu_one_gets_it() {
    let host = FakeHost::new(1, 0, None);
    let planned = plan(&host);
    for _ in 0..5 {
        let (devices, planned) = (&host.devices(), &planned);
        let attached: Vec<_> = thread::scope(|scope| {
            let race =
                (0..8).map(|n| scope.spawn(move || devices.attach(planned, &format!("vm-{n}"))));
            let race: Vec<_> = race.collect();
            race.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = attached.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for error in lost.into_iter().map(Result::unwrap_err) {
            assert!(matches!(error, DeviceError::Ledger(LedgerError::Held { .. })), "{error}");
        }
    }
}

/// What [`killed`] starts this program for: the root, then what to do, are in the environment.
#[test]
#[ignore = "a process for other tests to kill, not a test"]
fn victim() {
    let root = PathBuf::from(std::env::var_os("CASEMATE_TEST_ROOT").unwrap());
    let devices = Devices::at(&root).unwrap();
    let tool = AdminTool::at(&root.join("tool.py"));
    let gpu = [address(&gpu(0))];
    let _ = devices.prepare(&gpu, Some(GpuMode::Off), Some(&tool), &mut |_| {});
}

/// Starts a preparation in a process of its own and kills it while the tool runs.
fn killed(host: &FakeHost) {
    let mut child: Child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "devices::victim"])
        .env("CASEMATE_TEST_ROOT", host.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while started(host).is_empty() {
        assert!(Instant::now() < until, "the tool was not started");
        thread::sleep(Duration::from_millis(5));
    }
    let held = standing(host, &gpu(0));
    assert!(matches!(held, Some(Standing::Held { .. })), "{held:?}");
    let error = host.devices().attach(&plan_of_second(host), "vm-1").map(drop);
    assert!(error.is_ok(), "another device is free meanwhile: {error:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn plan_of_second(host: &FakeHost) -> Passthrough {
    let planned = plan(host);
    assert_eq!(planned.gpus, [address(&gpu(1))]);
    planned
}

#[test]
fn a_device_whose_holder_was_killed_is_reset_before_anyone_has_it() {
    let host = FakeHost::new(2, 0, None);
    tool(&host, "time.sleep(600)");
    killed(&host);
    let before = host.resets().len();
    // It is offered again, and whoever takes it resets it first.
    let planned = plan(&host);
    assert_eq!(planned.gpus, [address(&gpu(0))]);
    let attached = host.devices().attach(&planned, "vm-1").unwrap();
    assert_eq!(host.resets()[before..], [gpu(0)]);
    drop(attached);
    // A preparation does so too.
    fs::remove_file(host.root().join("started")).unwrap();
    killed(&host);
    let before = host.resets().len();
    prepare(&host, &[0], None, None).unwrap();
    assert_eq!(host.resets()[before..], [gpu(0)]);
    assert_eq!(standing(&host, &gpu(0)), Some(Standing::Free));
}

#[test]
fn a_record_that_is_malformed_or_of_another_boot() {
    let host = FakeHost::new(1, 0, None);
    let file = host.devices().ledger().dir().join(format!("{}.json", gpu(0)));
    for text in ["", "{", "{\"schema\":2,\"standing\":{\"state\":\"free\"},\"since\":1}"] {
        fs::write(&file, text).unwrap();
        let error = host.devices().ledger().hold(&[address(&gpu(0))], "VM vm-1").unwrap_err();
        assert!(matches!(error, LedgerError::Quarantined { .. }), "{text}: {error}");
    }
    fs::remove_file(&file).unwrap();
    let hold = host.devices().ledger().hold(&[address(&gpu(0))], "VM vm-1").unwrap();
    assert_eq!(hold.used, []);
    fs::write(host.root().join("proc/sys/kernel/random/boot_id"), "boot-2\n").unwrap();
    let hold = host.devices().ledger().hold(&[address(&gpu(0))], "VM vm-2").unwrap();
    assert_eq!(hold.used, [address(&gpu(0))], "held before the host booted again");
}

#[test]
fn looking_at_a_host_takes_no_time() {
    let host = FakeHost::new(8, 4, None);
    let profiles = Profiles::shipped().unwrap();
    let once = || {
        let start = Instant::now();
        let absent = Some(Path::new("/absent/qemu"));
        let found = Inventory::probe(host.root(), |_, _| [0; 4], absent);
        assert!(examine(&found, &profiles).count(Level::Ok) > 0);
        assert_eq!(found.devices.iter().filter(|device| device.is_gpu()).count(), 8);
        start.elapsed()
    };
    let least = (0..10).map(|_| once()).min().unwrap();
    eprintln!("doctor of 8 GPUs and 4 switches, without QEMU: {} us", least.as_micros());
    assert!(least < Duration::from_secs(1), "{least:?}");
}

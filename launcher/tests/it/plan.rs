//! Plans: golden files of QEMU's arguments for both platforms, and what is refused before
//! anything is started. `CASEMATE_BLESS=1` rewrites the golden files.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_launcher::committed::Committed;
use casemate_launcher::host::{HostFacts, QemuVersion};
use casemate_launcher::machine::{Accel, Console, ExtraDisk};
use casemate_launcher::plan::{AccelChoice, LaunchPlan, LaunchRequest, PlanError};
use casemate_launcher::release::Release;
use casemate_launcher::state::VmPaths;
use casemate_measurements::launch::VcpuCount;
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::platform::Platform;

use crate::fixture::{Contents, folder, plain_host, request, snp_host};

fn plan_in(
    dir: &Path,
    request: &LaunchRequest,
    host: &HostFacts,
    built_for: Platform,
) -> Result<LaunchPlan, PlanError> {
    Contents::unbootable(built_for).write(dir);
    let release = Release::open(dir).unwrap();
    let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
    LaunchPlan::new(&release, request, host, &paths)
}

pub(crate) fn golden(name: &str, plan: &LaunchPlan, dir: &Path) {
    let found = plan.to_string().replace(dir.to_str().unwrap(), "/release");
    let path = folder("golden").join(name);
    if std::env::var_os("CASEMATE_BLESS").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn an_snp_launch() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(Platform::Snp, "vm-1");
    let plan = plan_in(dir.path(), &request, &snp_host(), Platform::Snp).unwrap();
    golden("snp.txt", &plan, dir.path());
}

#[test]
fn a_simulated_launch() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(Platform::Simulated, "vm-1");
    let plan = plan_in(dir.path(), &request, &plain_host(), Platform::Simulated).unwrap();
    golden("simulated.txt", &plan, dir.path());
}

#[test]
fn the_host_keeps_memory_beside_all_its_vms() {
    let dir = tempfile::tempdir().unwrap();
    let others = Committed { vms: 3, vcpus: 500, memory: 28 << 30 };
    let request = request(Platform::Snp, "vm-1");
    // 28 GiB are given away, and 2 GiB the host keeps.
    let host = |gib: u64| HostFacts { memory: Some(gib << 30), committed: others, ..snp_host() };
    plan_in(dir.path(), &request, &host(31), Platform::Snp).unwrap();
    let error = plan_in(dir.path(), &request, &host(30), Platform::Snp).unwrap_err();
    let words = "1024 MiB of the host's 30720 MiB leave too little, expected 2048 MiB for the host; \
                 3 VMs have 500 vCPUs and 28672 MiB";
    assert_eq!(error.to_string(), words);
    assert_eq!(error.hint().unwrap(), "ask for at most 0 MiB");
}

#[test]
fn newer_qemu_is_not_told_the_kernel_twice() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(Platform::Simulated, "vm-1");
    let plan = plan_in(dir.path(), &request, &snp_host(), Platform::Simulated).unwrap();
    assert!(!plan.to_string().contains("etc/boot/kernel"), "{plan}");
}

#[test]
fn older_qemu_emulates_one_vcpu_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(Platform::Simulated, "vm-1");
    for (minor, expected) in [(0, "tcg,thread=single"), (1, "tcg")] {
        let mut host = plain_host();
        host.qemu.version = QemuVersion { major: 8, minor };
        let plan = plan_in(dir.path(), &request, &host, Platform::Simulated).unwrap();
        let args = plan.arguments(Accel::Tcg);
        let args = args.as_slice();
        assert!(args.windows(2).any(|pair| pair == ["-accel", expected]), "{args:?}");
        let args = plan.arguments(Accel::Kvm);
        assert!(args.as_slice().windows(2).any(|pair| pair == ["-accel", "kvm"]), "{args:?}");
    }
}

#[test]
fn the_shape_is_the_one_source() {
    let dir = tempfile::tempdir().unwrap();
    for (vcpus, model) in [(1, "EPYC-v4"), (4, "EPYC-Genoa")] {
        let request = LaunchRequest {
            vcpus: VcpuCount::new(vcpus).unwrap(),
            cpu_model: Some(model.parse().unwrap()),
            ..request(Platform::Snp, "vm-1")
        };
        let plan = plan_in(dir.path(), &request, &snp_host(), Platform::Snp).unwrap();
        let args = plan.arguments(plan.accels[0]);
        let after = |option: &str| {
            let at = args.as_slice().iter().position(|argument| argument == option).unwrap();
            args.as_slice()[at + 1].clone()
        };
        assert_eq!(after("-smp"), format!("cpus={vcpus},maxcpus={vcpus}"));
        assert_eq!(after("-cpu"), format!("{model},host-phys-bits=on"));
        let release = Release::open(dir.path()).unwrap();
        assert_eq!(release.manifest().law.digest(&plan.machine.shape), plan.digest);
    }
}

#[test]
fn host_data_is_of_the_launch_config() {
    let dir = tempfile::tempdir().unwrap();
    let first = request(Platform::Simulated, "vm-1");
    let plan = plan_in(dir.path(), &first, &plain_host(), Platform::Simulated).unwrap();
    let config = LaunchConfig::from_bytes(plan.launch_config.as_bytes()).unwrap();
    assert_eq!(config.ssh_authorized_keys, first.ssh_keys);
    let second = LaunchRequest { ssh_keys: Vec::new(), ..first };
    let other = plan_in(dir.path(), &second, &plain_host(), Platform::Simulated).unwrap();
    assert_ne!(other.machine.host_data, plan.machine.host_data);
    assert_eq!(other.digest, plan.digest, "what varies per VM must not change the digest");
}

#[test]
fn a_comma_in_a_path_stays_in_the_path() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a,b=c,server=on");
    let evil = PathBuf::from("/x,readonly=off");
    let request = LaunchRequest {
        consoles: vec![Console::IsaSerial { path: evil.clone() }],
        extra_disks: vec![ExtraDisk { path: evil, serial: "s,bootindex=1".into() }],
        ..request(Platform::Simulated, "vm-1")
    };
    let plan = plan_in(&dir, &request, &plain_host(), Platform::Simulated).unwrap();
    let args = plan.arguments(plan.accels[0]);
    for argument in args.as_slice().iter().filter(|argument| argument.contains(',')) {
        let json: Result<serde_json::Value, _> = serde_json::from_str(argument);
        // Whole values of -bios, -kernel and the like are no lists.
        if json.is_ok() || Path::new(argument).is_absolute() {
            continue;
        }
        // In what QEMU splits, each of our commas is doubled.
        let single = argument.replace(",,", "");
        for part in ["b=c", "server=on", "readonly=off", "bootindex"] {
            assert!(!single.split(',').any(|piece| piece.starts_with(part)), "{argument}");
        }
    }
}

#[test]
fn what_no_verifier_would_accept_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = request(Platform::Snp, "vm-1");
    let more = LaunchRequest { vcpus: VcpuCount::new(3).unwrap(), ..base.clone() };
    let error = plan_in(dir.path(), &more, &snp_host(), Platform::Snp).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("EPYC-v4 on qemu with 1-2, 4 vCPUs"), "{text}");
    let model = LaunchRequest { cpu_model: Some("EPYC-Milan".parse().unwrap()), ..base.clone() };
    let error = plan_in(dir.path(), &model, &snp_host(), Platform::Snp).unwrap_err();
    assert!(matches!(error, PlanError::Unlisted { .. }), "{error}");
    let numbers = LaunchRequest { cpu_model: Some("25/17/0".parse().unwrap()), ..base.clone() };
    let error = plan_in(dir.path(), &numbers, &snp_host(), Platform::Snp).unwrap_err();
    assert!(error.to_string().contains("0xa10f10 has no name"), "{error}");
    let error = plan_in(dir.path(), &base, &snp_host(), Platform::Simulated).unwrap_err();
    assert!(matches!(error, PlanError::Platform { .. }), "{error}");
}

/// QEMU ends at once when it is told of a model that it does not know.
#[test]
fn a_cpu_model_is_one_that_this_qemu_knows() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = snp_host();
    host.qemu.version = QemuVersion { major: 10, minor: 0 };
    let asked = request(Platform::Snp, "vm-1");
    let plan = |models, request: &LaunchRequest, host: &HostFacts| {
        let contents = Contents { models, ..Contents::unbootable(Platform::Snp) };
        contents.write(dir.path());
        let release = Release::open(dir.path()).unwrap();
        let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
        LaunchPlan::new(&release, request, host, &paths)
    };
    let model = |plan: LaunchPlan| plan.machine.shape.cpu_model.to_string();
    let both: &[&str] = &["EPYC-Turin", "EPYC-v4"];
    assert_eq!(model(plan(both, &asked, &host).unwrap()), "EPYC-v4");
    assert_eq!(model(plan(both, &asked, &snp_host()).unwrap()), "EPYC-Turin");
    let turin = LaunchRequest { cpu_model: Some("EPYC-Turin".parse().unwrap()), ..asked.clone() };
    let error = plan(both, &turin, &host).unwrap_err().to_string();
    assert!(error.contains("10.0 and does not know the CPU model EPYC-Turin"), "{error}");
    assert!(error.contains("expected 10.1"), "{error}");
    assert!(plan(&["EPYC-Turin"], &asked, &host).is_err());
}

#[test]
fn what_the_host_cannot_do_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let snp = request(Platform::Snp, "vm-1");
    let plan = |request: &LaunchRequest, host: &HostFacts| {
        plan_in(dir.path(), request, host, request.platform).unwrap_err()
    };
    assert!(matches!(plan(&snp, &plain_host()), PlanError::NoSnp { .. }));
    let tcg = LaunchRequest { accel: AccelChoice::Tcg, ..snp.clone() };
    assert!(matches!(plan(&tcg, &snp_host()), PlanError::SnpOnTcg));
    let mut old = snp_host();
    old.qemu.version = QemuVersion { major: 9, minor: 0 };
    assert!(matches!(plan(&snp, &old), PlanError::OldQemu { .. }));
    let ports = LaunchRequest { evidence_port: snp.ssh_port, ..snp.clone() };
    assert!(matches!(plan(&ports, &snp_host()), PlanError::PortTwice { port: 2222 }));
    let keys = LaunchRequest { ssh_keys: vec!["command=\"x\" ssh-ed25519 AAAA".into()], ..snp };
    assert!(matches!(plan(&keys, &snp_host()), PlanError::Config(_)));
}

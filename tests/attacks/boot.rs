//! Attacks on what is booted: none of these VMs may come up, but one, which says who it is.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use casemate_launcher::machine::ExtraDisk;
use casemate_measurements::appraisal::{CheckName, KnownRelease, Outcome};
use casemate_measurements::launch_config::ROOT_DISK_SERIAL;
use casemate_measurements::stage::Stage;
use casemate_tests::{Host, Seen, Vm, expect_code, gpu_release, release, required};
use casemate_validator::certificates::{Certificates, Settings};
use casemate_validator::fetch::Limits;
use casemate_validator::release::read_manifest;
use casemate_validator::trust;
use casemate_validator::verify::{Verifier, now};

/// How long a boot may be silent before it counts as refused. The genuine one takes a quarter.
const REFUSED: Duration = Duration::from_mins(1);

fn assert_ended_at(seen: &Seen, stage: Stage) {
    assert!(seen.result.is_err(), "the VM came up: {:?}", seen.stages);
    assert_eq!(seen.stages.last(), Some(&stage), "{:?}", seen.result);
}

/// The firmware holds kernel, initrd and command line to the table that was measured.
#[test]
fn firmware_refuses_another_command_line_and_initrd_under_the_measured_table() {
    refuses_another_command_line_and_initrd(release());
}

/// So does the one that the GPU image compiles.
#[test]
fn the_gpu_image_s_firmware_refuses_another_command_line_and_initrd() {
    if !required("images") {
        return eprintln!("skipped: images that compile for minutes are built by `make images`");
    }
    refuses_another_command_line_and_initrd(gpu_release());
}

fn refuses_another_command_line_and_initrd(release: &Path) {
    let host = Host::default();
    let changed = host.dir().join("initrd");
    let mut initrd = std::fs::read(release.join("initrd")).unwrap();
    initrd.extend_from_slice(&[0; 512]);
    std::fs::write(&changed, initrd).unwrap();

    let mut cmdline = host.plan_of(release, "other-cmdline");
    cmdline.machine.cmdline.push_str(" debug");
    let mut initrd = host.plan_of(release, "other-initrd");
    initrd.machine.initrd = changed;
    let genuine = *read_manifest(release).unwrap().law.hashes();
    for mut plan in [cmdline, initrd] {
        plan.forged_hashes = Some(genuine);
        plan.timeouts.as_mut().unwrap().first_stage = REFUSED;
        let seen = host.launch(&plan);
        assert!(seen.result.is_err(), "{} came up", plan.name);
        assert_eq!(seen.stages, [], "{}: init ran", plan.name);
    }
}

/// With a table of its own the firmware starts it, and then the report says so.
#[test]
fn another_command_line_has_another_digest() {
    let host = Host::default();
    let mut plan = host.plan("own-table");
    plan.machine.cmdline.insert_str(0, "debug ");
    let vm = host.launch(&plan).result.unwrap();

    let manifest = Vm::manifest();
    let roots = trust::roots(Some(&Vm::root())).unwrap();
    let policy = trust::policy(&roots);
    let limits = Limits::default();
    let (releases, now) = (&[KnownRelease::new(manifest).unwrap()], now().unwrap());
    let certificates = &Certificates::open(&Settings::default()).unwrap();
    let (policy, roots, revocation_lists) = (&policy, &roots, &[]);
    let verifier = Verifier {
        releases,
        policy,
        roots,
        certificates,
        revocation_lists,
        nvattest: None,
        limits,
        now,
    };
    let verdict = verifier.verify(&vm.evidence()).unwrap().verdict;
    assert!(verdict.is_genuine() && !verdict.is_accepted(), "{}", verdict.summary());
    let failed: Vec<_> =
        verdict.checks().iter().filter(|check| check.outcome == Outcome::Failed).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].name, CheckName::Measurement);
    assert_eq!(verdict.attested_ssh_host_key(), None);

    let _ = expect_code(3, &mut vm.verify(true));
    let output = expect_code(3, &mut vm.ssh(&host, "echo connected"));
    assert_eq!(output.stdout, b"", "a command ran");
}

#[test]
fn agent_refuses_a_launch_config_that_host_data_does_not_name() {
    let host = Host::default();
    let mut plan = host.plan("other-config");
    // The owner's key instead of the tenant's, after the launch was measured.
    let own = casemate_tests::key_pair(host.dir(), "owner").with_extension("pub");
    let (own, tenant) = (
        std::fs::read_to_string(own).unwrap(),
        std::fs::read_to_string(host.key().with_extension("pub")).unwrap(),
    );
    let changed = plan.launch_config.replace(tenant.trim(), own.trim());
    assert_ne!(changed, plan.launch_config);
    plan.launch_config = changed;
    assert_ended_at(&host.launch(&plan), Stage::LaunchConfigRefused);
}

#[test]
fn init_refuses_two_disks_with_the_serial_of_the_root() {
    let host = Host::default();
    let path = host.dir().join("second");
    std::fs::copy(release().join("root.img"), &path).unwrap();
    let mut plan = host.plan("two-roots");
    plan.machine.extra_disks = vec![ExtraDisk { path, serial: ROOT_DISK_SERIAL.into() }];
    assert_ended_at(&host.launch(&plan), Stage::DiskAmbiguous);
}

#[test]
fn a_flipped_bit_in_the_root_disk_never_becomes_ready() {
    let host = Host::default();
    let path = host.dir().join("root.img");
    std::fs::copy(release().join("root.img"), &path).unwrap();
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    // In the superblock of the file system, which every mount reads.
    let mut byte = [0];
    disk.read_exact_at(&mut byte, 1024 + 40).unwrap();
    disk.write_all_at(&[byte[0] ^ 1], 1024 + 40).unwrap();

    let mut plan = host.plan("flipped-bit");
    plan.machine.root_disk = path;
    let seen = host.launch(&plan);
    assert!(seen.result.is_err(), "the VM came up");
    assert!(seen.stages.contains(&Stage::InitStarted), "{:?}", seen.stages);
    assert!(!seen.stages.contains(&Stage::RootMounted), "{:?}", seen.stages);
}

/// The launcher itself does not start a release that is not what its manifest says.
#[test]
fn run_refuses_a_damaged_release() {
    let host = Host::default();
    let copy = host.dir().join("release");
    let _ = expect_code(0, Command::new("cp").arg("-r").arg(release()).arg(&copy));
    let disk = std::fs::OpenOptions::new().write(true).open(copy.join("root.img")).unwrap();
    disk.write_all_at(b"x", 4096 * 3).unwrap();
    let mut command = casemate_tests::casemate(["run", "--platform", "simulated", "--plan"]);
    command.arg(&copy).arg("--ssh-key").arg(host.key().with_extension("pub"));
    let output = expect_code(1, &mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("root.img") && said.contains("expected"), "{said}");

    // The platform is refused unless it is asked for, and says what it is.
    let mut command = casemate_tests::casemate(["run", "--plan"]);
    command.arg(release()).arg("--ssh-key").arg(host.key().with_extension("pub"));
    let output = expect_code(1, &mut command);
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(said.contains("simulated"), "{said}");
}

//! VMs that do not come up, told by the cause, and what is made of them later: a stand-in for QEMU
//! says what real ones say.

use std::fs;
use std::path::PathBuf;

use casemate_launcher::host::{HostFacts, Kvm};
use casemate_launcher::plan::{LaunchPlan, PlanError};
use casemate_launcher::progress::Event;
use casemate_launcher::release::Release;
use casemate_launcher::state::StateRoot;
use casemate_launcher::{StartError, SupervisorCommand, start, stop};
use casemate_measurements::platform::Platform;

use crate::fixture::{Contents, request, snp_host};

/// QEMU 10.0 where every ASID is in use.
const BUSY: &str = "qemu-system-x86_64: -accel kvm: sev_common_kvm_init: failed to initialize \
     ret=-16 fw_error=0 ''\nqemu-system-x86_64: -accel kvm: failed to initialize kvm: Operation \
     not permitted";
/// QEMU 10.0 where the firmware refuses the policy.
const POLICY: &str = "qemu-system-x86_64: sev_snp_launch_start: SNP_LAUNCH_START ret=-5 fw_error=7 \
     'Policy is not allowed'\nqemu-system-x86_64: -accel kvm: sev_common_kvm_init: failed to create \
     encryption context\nqemu-system-x86_64: -accel kvm: failed to initialize kvm: Operation not \
     permitted";
/// QEMU 10.0 where the guest asks to be ended.
const TERMINATED: &str = "KVM: unknown exit reason 24\nEAX=00000000 EBX=00000000 ECX=00000000";
/// QEMU 7.2 on a KVM that cannot run guests.
const BROKEN: &str = "qemu-system-x86_64: error: failed to set MSR 0x345 to 0x2000\n\
     qemu-system-x86_64: ../target/i386/kvm/kvm.c:2893: kvm_buf_set_msrs: Assertion failed.";
/// QEMU beside another hypervisor.
const OCCUPIED: &str = "qemu-system-x86_64: ioctl(KVM_CREATE_VM) failed: 16 Device or resource \
     busy\nqemu-system-x86_64: failed to initialize kvm: Device or resource busy";

struct Bench {
    dir: tempfile::TempDir,
    root: StateRoot,
    platform: Platform,
}

impl Bench {
    /// A release whose guest's words have the stand-in do this with `text`.
    fn new(platform: Platform, word: &str, text: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("cm-").tempdir_in("/tmp").unwrap();
        fs::write(dir.path().join("text"), text).unwrap();
        let mut contents = Contents::unbootable(platform);
        let words = format!("console=ttynull {word}");
        contents.cmdline = words.replace("TEXT", dir.path().join("text").to_str().unwrap());
        contents.write(&dir.path().join("release"));
        let sys = dir.path().join("sys");
        fs::create_dir_all(sys.join("dev")).unwrap();
        fs::write(sys.join("dev/kvm"), "").unwrap();
        let random = sys.join("proc/sys/kernel/random");
        fs::create_dir_all(&random).unwrap();
        fs::copy("/proc/sys/kernel/random/boot_id", random.join("boot_id")).unwrap();
        let root = StateRoot::at(&dir.path().join("s")).unwrap();
        Self { dir, root, platform }
    }

    /// What is known of KVM now.
    fn kvm(&self) -> Kvm {
        HostFacts::probe(&self.dir.path().join("sys"), &self.root, Some(&qemu())).unwrap().kvm
    }

    fn plan(&self) -> Result<LaunchPlan, PlanError> {
        let release = Release::open(&self.dir.path().join("release")).unwrap();
        let mut host = snp_host();
        (host.qemu.path, host.kvm) = (qemu(), self.kvm());
        let asked = request(self.platform, "vm-1");
        LaunchPlan::new(&release, &asked, &host, &self.root.vm(&asked.name).unwrap())
    }

    /// Starts it: why it did not come up, with the hint, and whether another accelerator was tried.
    fn launch(&self) -> (Result<(), (String, String)>, bool) {
        let supervisor = SupervisorCommand {
            program: std::env::current_exe().unwrap(),
            arguments: ["--ignored", "--exact", "boot::supervisor"].map(Into::into).into(),
            environment: vec![("XDG_STATE_HOME".into(), env!("CARGO_TARGET_TMPDIR").into())],
        };
        let (plan, mut fell_back) = (self.plan().unwrap(), false);
        let started = start(&plan, &supervisor, &mut |progress| {
            fell_back |= matches!(progress.event, Event::KvmBroken { .. });
        });
        let _ = stop(&self.root, &plan.name, std::time::Duration::ZERO, &mut |_| ());
        let result = match started {
            Ok(_) => Ok(()),
            Err(StartError::Failed { message, hint, .. }) => {
                Err((message, hint.unwrap_or_default()))
            }
            Err(error) => panic!("{error:?}"),
        };
        (result, fell_back)
    }
}

fn qemu() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/serve/fake-qemu").into()
}

/// One failure says little of the next launch, and SNP guests run on nothing but KVM.
#[test]
fn an_snp_launch_that_failed_is_told_by_its_cause_and_refuses_no_other() {
    for (word, text, said, advised) in [
        ("fake.says=TEXT", BUSY, "no number (ASID) is free", "stop another VM"),
        ("fake.says=TEXT", POLICY, "does not allow the release's guest policy", "policy"),
        ("fake.stops=TEXT", TERMINATED, "the guest asked to be ended", "dmesg"),
        ("fake.terminated", "", "set 0x1, code 0x2: a page could not be validated", "release"),
    ] {
        let bench = Bench::new(Platform::Snp, word, text);
        let (failed, _) = bench.launch();
        let (message, hint) = failed.unwrap_err();
        assert!(message.contains(said), "{message}");
        assert!(hint.contains(advised), "{message}: {hint}");
        for text in [&message, &hint] {
            let text = text.to_ascii_lowercase();
            assert!(!text.contains("tcg") && !text.contains("--accel"), "{text}");
            assert!(!text.contains("kvm does not run vms"), "{text}");
        }
        assert_eq!(bench.kvm(), Kvm::Untried, "{message}");
        bench.plan().unwrap();
    }
}

#[test]
fn kvm_is_called_broken_only_where_the_same_vm_ran_without_it() {
    let broken = Bench::new(Platform::Simulated, "fake.kvm-says=TEXT", BROKEN);
    assert_eq!(broken.launch(), (Ok(()), true));
    assert!(matches!(broken.kvm(), Kvm::Broken { .. }), "{:?}", broken.kvm());
    assert_eq!(broken.launch(), (Ok(()), false));
    // It says nothing of SNP guests.
    let host = HostFacts { kvm: broken.kvm(), ..snp_host() };
    let other = Bench::new(Platform::Snp, "quiet", "");
    let release = Release::open(&other.dir.path().join("release")).unwrap();
    let asked = request(Platform::Snp, "vm-1");
    LaunchPlan::new(&release, &asked, &host, &other.root.vm(&asked.name).unwrap()).unwrap();
    // What may pass is forgotten.
    let occupied = Bench::new(Platform::Simulated, "fake.kvm-says=TEXT", OCCUPIED);
    assert_eq!(occupied.launch(), (Ok(()), true));
    assert_eq!(occupied.kvm(), Kvm::Untried);
    // What fails everywhere is not KVM's doing.
    let neither = Bench::new(Platform::Simulated, "fake.says=TEXT", BROKEN);
    let (failed, fell_back) = neither.launch();
    assert!(failed.is_err() && fell_back, "{failed:?}");
    assert_eq!(neither.kvm(), Kvm::Untried);
}

/// Earlier versions took any failure for KVM's, and wrote that down.
#[test]
fn what_an_earlier_version_concluded_of_kvm_holds_no_more() {
    let bench = Bench::new(Platform::Snp, "quiet", "");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let written = serde_json::json!({
        "boot_id": boot_id.trim(),
        "kvm": {"state": "broken", "reason": "QEMU ended at once (exit status 1)"},
    });
    let path = bench.dir.path().join("s/kvm.json");
    for text in [written.to_string(), "{}".into()] {
        fs::write(&path, text).unwrap();
        bench.plan().unwrap();
    }
}

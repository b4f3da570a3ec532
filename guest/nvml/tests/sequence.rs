//! The whole sequence of a guest with GPUs, from the bus to bound evidence, with a stand-in for
//! NVIDIA's library and one for the kernel: each step, and each way in which it fails.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use casemate_guest::agent::{AgentError, Gpus};
use casemate_guest::gpu::helper::{GpuError, Helper};
use casemate_guest::gpu::prepare::{Patience, PrepareError, Programs, prepare};
use casemate_guest::stage_port::StagePort;
use casemate_guest::sysfs::SysRoot;
use casemate_measurements::gpu_evidence::{Architecture, GpuEvidence, GpuSet};
use casemate_measurements::hash::Nonce;
use casemate_measurements::stage::{self, Stage};

const MINUTE: Duration = Duration::from_mins(1);

/// The stand-in for the library, compiled once: the folder that it is in.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/stand_in.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(dir.path().join("libnvidia-ml.so.1"))
            .arg(source)
            .status();
        assert!(status.unwrap().success());
        dir
    });
    dir.path()
}

/// A guest with GPUs: its bus, its kernel and its library.
struct Guest {
    dir: tempfile::TempDir,
}

impl Guest {
    fn new(gpus: usize) -> Self {
        let guest = Self { dir: tempfile::tempdir().unwrap() };
        guest.put("sys/class/virtio-ports/vport0p1/name", stage::PORT);
        guest.put("dev/vport0p1", "");
        guest.put("sys/bus/pci/drivers/nvidia/bind", "");
        for index in 0..gpus {
            guest.device(index, "0x2330", "0x030200");
        }
        guest.says(&format!("gpus={gpus}\nconfidential=1"));
        guest
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn slot(index: usize) -> String {
        format!("sys/bus/pci/devices/0000:{:02x}:00.0", index + 1)
    }

    fn device(&self, index: usize, device: &str, class: &str) {
        let slot = Self::slot(index);
        for (name, text) in [("vendor", "0x10de"), ("device", device), ("class", class)] {
            self.put(&format!("{slot}/{name}"), text);
        }
        for name in ["reset", "reset_method"] {
            self.put(&format!("{slot}/{name}"), "");
        }
    }

    fn bind(&self, index: usize, driver: &str) {
        let link = self.path(&format!("{}/driver", Self::slot(index)));
        symlink(format!("../../drivers/{driver}"), link).unwrap();
    }

    /// What the library answers.
    fn says(&self, text: &str) {
        self.put("answers", &format!("\n{text}\nfirst_bus=1\ndevice=0x2330\n"));
    }

    fn root(&self) -> SysRoot {
        SysRoot::new(self.dir.path())
    }

    /// The agent's way to the library.
    fn helper(&self) -> Helper {
        let mut argv: Vec<OsString> = vec!["/usr/bin/env".into()];
        argv.push(format!("LD_LIBRARY_PATH={}", library().display()).into());
        argv.push(format!("STAND_IN={}", self.path("answers").display()).into());
        argv.push(env!("CARGO_BIN_EXE_casemate-nvml").into());
        Helper { argv, patience: MINUTE }
    }

    /// A kernel whose driver binds to the first `bound` GPUs once it is loaded. It notes what was
    /// asked for, and whether the GPUs were reset by then.
    fn programs(&self, bound: usize) -> Programs {
        let script = format!(
            r#"cd "$1"; shift
            echo "$*" >> calls
            [ "$*" != nvidia ] || for bus in $(seq 1 {bound}); do
                slot=sys/bus/pci/devices/0000:0$bus:00.0
                echo "$(cat $slot/reset_method)$(cat $slot/reset)" >> calls
                ln -s ../../drivers/nvidia $slot/driver
            done
            [ ! -e fail ] || ! grep -qx -- "$*" fail"#
        );
        let argv: Vec<OsString> = ["/bin/sh", "-c", &script, "sh"].map(OsString::from).into();
        let argv = [argv, vec![self.dir.path().into()]].concat();
        let with = |name: &str| {
            let words = if name.is_empty() { vec![] } else { vec![name.into()] };
            [argv.clone(), words].concat()
        };
        Programs { modprobe: with(""), nodes: with("nodes") }
    }

    fn prepare(&self, programs: &Programs) -> Result<usize, PrepareError> {
        let patience = Patience { program: MINUTE, bind: Duration::from_millis(300) };
        prepare(&self.root(), programs, patience, &mut StagePort::new(self.root()))
    }

    fn stages(&self) -> Vec<Stage> {
        let codes = fs::read(self.path("dev/vport0p1")).unwrap();
        codes.into_iter().map(|code| Stage::from_code(code).unwrap()).collect()
    }

    fn check(&self, promised: Option<&GpuSet>) -> Result<Option<Gpus>, AgentError> {
        Gpus::check(&self.root(), &self.helper(), promised)
    }
}

fn set(count: u8) -> GpuSet {
    GpuSet { chip: "GH100".into(), count, board: None, nvswitches: 0 }
}

#[test]
fn gpus_are_reset_then_driven_then_checked_then_asked() {
    let guest = Guest::new(2);
    assert_eq!(guest.prepare(&guest.programs(2)).unwrap(), 2);
    assert_eq!(
        fs::read_to_string(guest.path("calls")).unwrap(),
        "crypto-ecdh\ncrypto-ecdsa-nist-p384\ncrypto-gcm\ncrypto-hmac\ncrypto-sha384\n\
         nvidia\nflr1\nflr1\n-a nvidia_modeset nvidia_uvm\nnodes -c 0 -c 1 -u -m\n"
    );
    let stages = [Stage::GpusFound, Stage::GpusReset, Stage::GpusBound, Stage::GpusPrepared];
    assert_eq!(guest.stages(), stages);
    assert!(guest.path("run/cdi/nvidia.json").exists());

    let gpus = guest.check(Some(&set(2))).unwrap().unwrap();
    let nonce = Nonce::from_bytes([7; 32]);
    let text = gpus.evidence(nonce, MINUTE).unwrap();
    let evidence: GpuEvidence = serde_json::from_str(&text).unwrap();
    assert_eq!(evidence.devices.len(), 2);
    for (device, number) in evidence.devices.iter().zip([1, 2]) {
        assert_eq!(device.architecture, Architecture::Hopper);
        assert_eq!(device.report.0[4..36], [7; 32]);
        assert_eq!(device.report.0[37], number, "each GPU speaks for itself");
        assert_eq!(device.certificates.0, b"PEM");
    }
}

#[test]
fn without_a_gpu_nothing_happens() {
    let guest = Guest::new(0);
    assert_eq!(guest.prepare(&guest.programs(0)).unwrap(), 0);
    assert!(!guest.path("calls").exists());
    assert!(guest.stages().is_empty());
    let nobody = Helper { argv: vec!["/nowhere".into()], patience: MINUTE };
    assert!(Gpus::check(&guest.root(), &nobody, None).unwrap().is_none());
}

#[test]
fn gpus_that_cannot_be_attested_are_refused() {
    let guest = Guest::new(1);
    guest.device(1, "0x22a3", "0x068000");
    let error = guest.prepare(&guest.programs(1)).unwrap_err();
    assert!(matches!(error, PrepareError::Switches { found: 1 }), "{error}");
    assert_eq!(error.stage(), Stage::GpusRefused);

    let guest = Guest::new(1);
    guest.device(1, "0x20b0", "0x030200");
    let error = guest.prepare(&guest.programs(2)).unwrap_err();
    assert!(matches!(error, PrepareError::Unknown { device: 0x20b0, .. }), "{error}");
    assert_eq!(error.stage(), Stage::GpusRefused);
    assert!(!guest.path("calls").exists(), "nothing was loaded");
}

#[test]
fn no_driver_sees_a_gpu_before_its_reset() {
    let guest = Guest::new(2);
    guest.bind(1, "nvidia");
    let error = guest.prepare(&guest.programs(2)).unwrap_err();
    assert!(matches!(&error, PrepareError::Early { driver, .. } if driver == "nvidia"), "{error}");
    assert_eq!(error.stage(), Stage::GpuResetFailed);
    assert_eq!(fs::read(guest.path(&format!("{}/reset", Guest::slot(0)))).unwrap(), b"");

    let guest = Guest::new(1);
    fs::remove_file(guest.path(&format!("{}/reset_method", Guest::slot(0)))).unwrap();
    let error = guest.prepare(&guest.programs(1)).unwrap_err();
    assert!(matches!(error, PrepareError::Reset { .. }), "{error}");
    assert_eq!(guest.stages(), [Stage::GpusFound]);
}

#[test]
fn the_driver_must_bind_to_every_gpu() {
    let guest = Guest::new(3);
    let error = guest.prepare(&guest.programs(2)).unwrap_err();
    assert!(matches!(error, PrepareError::NotBound { bound: 2, found: 3 }), "{error}");
    assert_eq!(error.stage(), Stage::GpuDriverFailed);
}

#[test]
fn programs_that_fail_end_the_vm() {
    for (fails, stage) in [
        ("crypto-sha384", Stage::GpuDriverFailed),
        ("nvidia", Stage::GpuDriverFailed),
        ("-a nvidia_modeset nvidia_uvm", Stage::GpuDriverFailed),
        ("nodes -c 0 -u -m", Stage::GpuNodesFailed),
    ] {
        let guest = Guest::new(1);
        guest.put("fail", &format!("{fails}\n"));
        assert_eq!(guest.prepare(&guest.programs(1)).unwrap_err().stage(), stage, "{fails}");
    }
}

/// Where a cipher is built in, there may be no module that offers it, or one that this processor
/// does not support.
#[test]
fn a_cipher_that_the_kernel_has_need_not_be_loaded() {
    let guest = Guest::new(1);
    guest.put("fail", "crypto-ecdsa-nist-p384\ncrypto-sha384\n");
    let listed = |names: &[&str]| -> String {
        let entry = |name: &&str| format!("name         : {name}\ndriver       : {name}-x\n\n");
        names.iter().map(entry).collect()
    };
    guest.put("proc/crypto", &listed(&["sha384", "ecdsa-nist-p384"]));
    assert_eq!(guest.prepare(&guest.programs(1)).unwrap(), 1);

    let guest = Guest::new(1);
    guest.put("fail", "crypto-sha384\n");
    guest.put("proc/crypto", &listed(&["sha384-x", "xsha384", "sha512"]));
    let error = guest.prepare(&guest.programs(1)).unwrap_err();
    assert!(error.to_string().contains("sha384"), "{error}");
    assert_eq!(error.stage(), Stage::GpuDriverFailed);
}

#[test]
fn gpus_are_exactly_those_of_the_launch_config() {
    let guest = Guest::new(2);
    let other = |change: fn(&mut GpuSet)| {
        let mut set = set(2);
        change(&mut set);
        Some(set)
    };
    for promised in [
        None,
        other(|set| set.count = 1),
        other(|set| set.count = 3),
        other(|set| set.chip = "GB100".into()),
        other(|set| set.nvswitches = 4),
    ] {
        let error = guest.check(promised.as_ref()).unwrap_err();
        assert_eq!(error.stage(), Stage::GpusRefused, "{promised:?}: {error}");
    }
    let none = Guest::new(0);
    assert_eq!(none.check(Some(&set(1))).unwrap_err().stage(), Stage::GpusRefused);
}

#[test]
fn what_the_driver_says_is_held_to_the_bus() {
    let refused = |answers: &str| {
        let guest = Guest::new(2);
        guest.says(answers);
        let error = guest.check(Some(&set(2))).unwrap_err();
        assert_eq!(error.stage(), Stage::GpuCheckFailed, "{answers}: {error}");
        match error {
            AgentError::Gpus(error) => error,
            other => panic!("{other}"),
        }
    };
    let error = refused("gpus=1\nconfidential=1");
    assert!(matches!(error, GpuError::NotDriven { driven: 1, found: 2 }), "{error}");
    let error = refused("gpus=2\nconfidential=1\nfirst_bus=2");
    assert!(matches!(error, GpuError::NotDriven { .. }), "{error}");
    assert!(matches!(refused("gpus=2\nconfidential=0"), GpuError::Mode(_)));
    assert!(matches!(refused("gpus=2\nconfidential=1\ndeveloper=1"), GpuError::Mode(_)));
    assert!(matches!(refused("gpus=2\nconfidential=1\nsilent=1"), GpuError::Helper(_)));
    assert!(matches!(refused("gpus=2\nconfidential=1\nstale=1"), GpuError::Stale));
    // No driver at all.
    let guest = Guest::new(1);
    fs::remove_file(guest.path("answers")).unwrap();
    assert_eq!(guest.check(Some(&set(1))).unwrap_err().stage(), Stage::GpuCheckFailed);
}

#[test]
fn a_driver_that_hangs_is_not_waited_for() {
    let guest = Guest::new(1);
    let argv = ["/bin/sh", "-c", "exec sleep 600"].map(OsString::from).into();
    let helper = Helper { argv, patience: Duration::from_millis(50) };
    let error = Gpus::check(&guest.root(), &helper, Some(&set(1))).unwrap_err();
    assert_eq!(error.stage(), Stage::GpuCheckFailed, "{error}");
}

/// Programs may use the GPUs once the driver says so, not once it was asked to.
#[test]
fn readiness_is_read_back() {
    let guest = Guest::new(1);
    let run = |arguments: &[&str]| {
        let helper = guest.helper();
        let mut command = Command::new(&helper.argv[0]);
        command.args(&helper.argv[1..]).args(arguments).output().unwrap().status.success()
    };
    assert!(run(&["ready", "--now"]));
    guest.says("gpus=1\nconfidential=1\ndeaf=1");
    assert!(!run(&["ready", "--now"]));
    for wrong in [&["evidence"][..], &["evidence", "00"], &["other"], &[]] {
        assert!(!run(wrong), "{wrong:?}");
    }
}

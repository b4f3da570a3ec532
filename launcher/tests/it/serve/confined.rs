//! A real QEMU, and what it is left with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use casemate_launcher::host::{HostError, Qemu};
use casemate_launcher::serve::Doing;
use casemate_launcher::serve::restart::Restart;

use super::bench::{Bench, qemu, vm, wait_for};

/// A group that VMs can have theirs under, if one can be made here.
fn group(name: &str) -> Option<std::path::PathBuf> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let real = mounts.into_iter().find(|path| path.join("cgroup.procs").exists())?;
    let group = real.join(name);
    fs::create_dir(&group).ok().map(|()| group)
}

#[test]
fn qemu_is_nobody_in_a_sandbox_and_can_still_be_told_to_stop() {
    let missing = |reason: &str| {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|what| what == "qemu"), "required: {reason}");
        eprintln!("skipped: {reason}");
    };
    let real: Result<Qemu, HostError> = Qemu::probe(None);
    let Ok(real) = real else { return missing("no QEMU") };
    let (root, sandbox) = (fs::metadata("/proc/self").unwrap(), real.sandbox);
    if std::os::unix::fs::MetadataExt::uid(&root) != 0 {
        eprintln!("skipped: only root starts QEMU as another user");
        return;
    }
    let cgroup = group(&format!("casemate-test-{}", std::process::id()));
    let mut bench = Bench::new("").with_qemu(real).with("CASEMATE_TEST_QEMU_USER", "nobody");
    if let Some(group) = &cgroup {
        bench = bench.with("CASEMATE_TEST_CGROUP", group.to_str().unwrap());
    }
    let tables = || {
        let listed = std::process::Command::new("nft").args(["list", "tables"]).output();
        let listed = listed.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&listed.stdout).matches("inet casemate_user_").count())
    };
    let Some(before) = tables() else { return missing("no nft that root may use") };
    // The release is public, and the way to it.
    for dir in ["", "release"] {
        fs::set_permissions(bench.path(dir), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let client = bench.start();
    client.run(&bench.request("vm-1", Restart::default())).unwrap();
    let view = wait_for("QEMU, or why not", || {
        let view = client.status(&vm("vm-1")).unwrap();
        assert!(view.reason.is_none(), "{:?}", view.reason);
        view.state.as_ref().and_then(|state| state.qemu)?;
        Some(view)
    });
    let process = qemu(&view);
    // The monitor answers once QEMU has connected: it reached its sockets as nobody.
    wait_for("the connection", || (!bench.path("s/vms/vm-1/qmp.sock").exists()).then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid));
    let status = status.unwrap_or_else(|_| panic!("QEMU ended: {:?}", bench.events("vm-1")));
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!([field("Uid:"), field("Gid:")], ["65534", "65534"]);
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), if sandbox { "2" } else { "0" });
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_ascii_whitespace().any(|word| word == "0"), "{core}");
    if let Some(group) = &cgroup {
        let own = fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
        assert!(own.contains("/vm-vm-1"), "{own}");
        assert!(group.join("vm-vm-1").exists());
    }
    // Its guest is kept from the host for as long as it runs.
    assert_eq!(tables(), Some(before + 1));
    client.stop(&vm("vm-1"), Duration::from_secs(20)).unwrap();
    bench.until("vm-1", Doing::Stopped);
    assert_eq!(tables(), Some(before));
    assert!(!process.is_alive());
    if let Some(group) = cgroup {
        assert!(!group.join("vm-vm-1").exists());
        fs::remove_dir(group).unwrap();
    }
}

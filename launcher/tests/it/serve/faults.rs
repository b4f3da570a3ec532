//! A host whose clock steps, and one whose disk is full: VMs are seen to all the same.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::Command;

use casemate_launcher::serve::restart::{Restart, When};
use casemate_launcher::serve::{Doing, EventKind};
use rusqlite::Connection;

use super::bench::{Bench, kill, qemu, refusal, vm, wait_for};

/// The time at which a VM is started again is recorded by the wall clock. One that was a day ahead
/// when it was written down must not cost the VM a day.
#[test]
fn a_clock_that_stepped_delays_no_restart_beyond_the_longest_pause() {
    let (mut bench, _) = Bench::started("");
    let pause = Restart { first_delay_seconds: 3, most_delay_seconds: 3, ..Restart::default() };
    let view = bench.run("vm-1", pause);
    kill(qemu(&view).pid, "-9");
    bench.until("vm-1", Doing::Waiting);
    bench.kill_daemon();
    let db = Connection::open(bench.path("records/records.sqlite")).unwrap();
    let stepped = "UPDATE vms SET next_at_ms = next_at_ms + 86400000 WHERE doing = 'waiting'";
    assert_eq!(db.execute(stepped, []).unwrap(), 1);
    drop(db);
    bench.start();
    assert_eq!(bench.until("vm-1", Doing::Running).restarts, 1);
}

/// A library that shows a process the time that a file names, as `+1d`.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Steps of the clock while the daemon runs: back by a day while a VM waits, which must not wait for
/// that day, and forward by one while a VM runs, which has not run for that day.
#[test]
fn steps_of_the_clock_neither_delay_a_restart_nor_settle_a_vm() {
    if !Path::new(FAKETIME).exists() {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|what| what == "faketime"), "faketime is required");
        eprintln!("skipped: no {FAKETIME}");
        return;
    }
    let bench = Bench::new("");
    let clock = bench.path("clock");
    let step = |to: &str| {
        let new = clock.with_extension("new");
        fs::write(&new, to).unwrap();
        fs::rename(new, &clock).unwrap();
    };
    step("+1d");
    let mut bench = bench
        .with("LD_PRELOAD", FAKETIME)
        .with("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap())
        .with("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .with("DONT_FAKE_MONOTONIC", "1")
        .with("FAKETIME_NO_CACHE", "1");
    let client = bench.start();
    let policy = Restart {
        limit: 2,
        first_delay_seconds: 3,
        most_delay_seconds: 3,
        settled_seconds: 3600,
        ..Restart::default()
    };
    let view = bench.run("vm-1", policy);
    kill(qemu(&view).pid, "-9");
    let waiting = bench.until("vm-1", Doing::Waiting);
    step("+0");
    let view = bench.until("vm-1", Doing::Running);
    assert!(view.since_ms < waiting.since_ms, "the clock of the daemon did not step back");
    assert_eq!((view.restarts, view.ends_in_a_row), (1, 1));
    step("+1d");
    kill(qemu(&view).pid, "-9");
    let view = bench.until("vm-1", Doing::Quarantined);
    assert_eq!(view.ends_in_a_row, 2);
    assert!(view.since_ms > waiting.since_ms, "the clock of the daemon did not step on");
    drop(client);
}

#[test]
fn with_a_full_disk_vms_are_seen_to_and_health_says_why() {
    let missing = |reason: &str| {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|what| what == "root"), "required: {reason}");
        eprintln!("skipped: {reason}");
    };
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command
    };
    let probe = namespace().args(["mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return missing("no mount namespace with a small file system can be made here");
    }
    let output = namespace()
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "serve::faults::full_disk"])
        .output()
        .unwrap();
    let spoken = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && spoken.contains("1 passed"), "{spoken}");
}

/// What has nothing to do with the records is told until it is over, whatever is recorded.
#[test]
fn health_says_for_how_long_the_directory_of_wanted_vms_cannot_be_read() {
    let mut bench = Bench::new("");
    let (wanted, away) = (bench.path("wanted"), bench.path("away"));
    fs::create_dir(&wanted).unwrap();
    let client = bench.start();
    let address = super::publish::address(&bench);
    let health = || super::publish::get(address, "/health").status;
    assert_eq!(health(), 200);
    fs::rename(&wanted, &away).unwrap();
    wait_for("the complaint", || (health() == 503).then_some(()));
    bench.run("vm-1", Restart::default());
    client.stop(&vm("vm-1"), std::time::Duration::ZERO).unwrap();
    bench.until("vm-1", Doing::Stopped);
    assert_eq!(health(), 503);
    fs::rename(&away, &wanted).unwrap();
    wait_for("relief without an event", || (health() == 200).then_some(()));
}

/// Takes every byte that is left where `path` will lie.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for len in [4096, 512, 1] {
        loop {
            match file.write_all(&vec![b'x'; len]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
#[ignore = "runs in a mount namespace of its own"]
fn full_disk() {
    let mut bench = Bench::new("");
    let records = bench.path("records");
    fs::create_dir(&records).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4m,mode=700", "none"]).arg(&records);
    assert!(mount.status().unwrap().success());
    let client = bench.start();
    let health = |bench: &Bench| {
        let answer = super::publish::get(super::publish::address(bench), "/health");
        (answer.status, answer.text())
    };
    let again = Restart { limit: 9, first_delay_seconds: 0, ..Restart::default() };
    let (again, never) = (bench.run("again", again), {
        let never = Restart { when: When::Never, ..Restart::default() };
        bench.run("never", never)
    });
    assert_eq!(health(&bench).0, 200);
    let ballast = records.join("ballast");
    fill(&ballast);
    // A request that was refused leaves nothing to be recorded: room alone is relief.
    let refused = refusal(client.run(&bench.request("other", Restart::default())));
    assert!(refused.contains("records.sqlite"), "{refused}");
    assert_eq!(health(&bench).0, 503);
    fs::remove_file(&ballast).unwrap();
    wait_for("relief without an event", || (health(&bench).0 == 200).then_some(()));
    fill(&ballast);
    // Told before anything fails on it.
    let (status, text) = health(&bench);
    assert!(status == 503 && text.contains("the disk is full"), "{status}: {text}");
    for view in [&again, &never] {
        kill(qemu(view).pid, "-9");
    }
    let back = |name: &str, restarts: u32, bench: &Bench| {
        wait_for("the restart", || {
            let view = bench.client().status(&vm(name)).ok()?;
            (view.restarts >= restarts && view.doing == Doing::Running).then_some(view)
        })
    };
    let now = back("again", 1, &bench);
    assert_ne!(qemu(&now), qemu(&again));
    assert_eq!(bench.until("never", Doing::Ended).reason.as_deref(), Some("signal 9"));
    let refused = refusal(client.run(&bench.request("other", Restart::default())));
    assert!(refused.contains("records.sqlite"), "{refused}");
    let trouble = client.host().unwrap().trouble.unwrap();
    assert!(trouble.contains("records.sqlite"), "{trouble}");
    assert_eq!(health(&bench).0, 503);
    // What happened meanwhile is recorded once there is room.
    fs::remove_file(&ballast).unwrap();
    wait_for("the record", || bench.kinds("again").contains(&EventKind::Failed).then_some(()));
    wait_for("relief", || (health(&bench).0 == 200).then_some(()));
    assert!(
        bench.kinds("never").contains(&EventKind::Ended) || {
            bench.kinds("never").contains(&EventKind::Failed)
        }
    );
    // A daemon that starts beside a full disk takes up its VMs all the same.
    fill(&ballast);
    bench.kill_daemon();
    let client = bench.start();
    let (status, text) = health(&bench);
    assert!(status == 503 && text.contains("the disk is full"), "{status}: {text}");
    let view = client.status(&vm("again")).unwrap();
    assert_eq!((view.doing, qemu(&view)), (Doing::Running, qemu(&now)));
    kill(qemu(&view).pid, "-9");
    let now = back("again", view.restarts + 1, &bench);
    // One that ended in order leaves the database alone, and opening that takes room as well.
    fs::remove_file(&ballast).unwrap();
    wait_for("relief", || (health(&bench).0 == 200).then_some(()));
    kill(bench.daemon_pid(), "-TERM");
    assert!(bench.daemon_ended().success());
    assert!(!records.join("records.sqlite-wal").exists());
    fill(&ballast);
    let client = bench.start();
    let view = client.status(&vm("again")).unwrap();
    assert_eq!((view.doing, qemu(&view)), (Doing::Running, qemu(&now)));
    assert_eq!(health(&bench).0, 503);
    fs::remove_file(&ballast).unwrap();
    client.run(&bench.request("other", Restart::default())).unwrap();
    bench.until("other", Doing::Running);
    wait_for("relief", || (health(&bench).0 == 200).then_some(()));
    drop(bench);
    let _ = Command::new("umount").arg("--lazy").arg(&records).status();
    let _ = fs::remove_dir_all(records.parent().unwrap());
}

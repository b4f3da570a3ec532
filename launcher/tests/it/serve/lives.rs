//! VMs that outlive the daemon, end by themselves, fail, and come back.

use std::fs;
use std::thread;
use std::time::Duration;

use casemate_launcher::serve::restart::{Restart, When};
use casemate_launcher::serve::{Doing, Event, EventKind, Source};
use casemate_launcher::state::StateRoot;
use rusqlite::Connection;

use super::bench::{Bench, kill, qemu, refusal, vm, wait_for};

fn once() -> Restart {
    Restart { when: When::Never, ..Restart::default() }
}

/// Starts again at once, up to a limit.
fn at_once(limit: u32) -> Restart {
    Restart { limit, first_delay_seconds: 0, ..Restart::default() }
}

#[test]
fn a_vm_is_run_seen_stopped_and_forgotten() {
    let (bench, client) = Bench::started("");
    let view = bench.run("vm-1", once());
    assert!(qemu(&view).is_alive());
    assert_eq!(client.list().unwrap(), std::slice::from_ref(&view));
    let again = client.run(&bench.request("vm-1", once()));
    assert_eq!(refusal(again), "a VM named vm-1 runs already");
    assert_eq!(refusal(client.forget(&vm("vm-1"))), "vm-1 is running");
    client.stop(&vm("vm-1"), Duration::ZERO).unwrap();
    let stopped = bench.until("vm-1", Doing::Stopped);
    assert_eq!(stopped.reason.as_deref(), Some("killed without asking the guest"));
    assert!(!qemu(&view).is_alive());
    let mut expected = vec![EventKind::Accepted, EventKind::QemuStarted];
    expected.extend([EventKind::Stage; 10]);
    // Told to stop, and QEMU told to quit.
    expected.extend([EventKind::Running, EventKind::Stopping, EventKind::Stopping]);
    expected.push(EventKind::Stopped);
    assert_eq!(bench.kinds("vm-1"), expected);
    assert_eq!(bench.events("vm-1")[2].stage, Some(1));
    client.forget(&vm("vm-1")).unwrap();
    assert_eq!(refusal(client.status(&vm("vm-1"))), "no VM named vm-1 is known");
}

#[test]
fn how_a_vm_that_was_told_to_stop_ended_is_said_as_it_was() {
    // A guest that heeds gets all the time that it needs; the others get a moment.
    let (long, moment) = (Duration::from_mins(10), Duration::from_secs(1));
    for (words, time, steps, expected) in [
        (
            "fake.heeds",
            long,
            &[
                "it was told to stop",
                "the guest was asked to power off and has 600 s",
                "the guest is shutting down",
            ][..],
            "the guest powered off",
        ),
        (
            "",
            moment,
            &[
                "it was told to stop",
                "the guest was asked to power off and has 1 s",
                "QEMU was told to quit",
            ],
            "killed, since the guest did not power off within 1 s",
        ),
        (
            "fake.hangs",
            moment,
            &[
                "it was told to stop",
                "the guest was asked to power off and has 1 s",
                "QEMU was told to quit",
                "QEMU did not quit and was killed",
            ],
            "killed, since the guest did not power off within 1 s",
        ),
        (
            "fake.panics",
            long,
            &["it was told to stop", "the guest was asked to power off and has 600 s"],
            "the guest did not power off in order: it ended by guest: guest-reset",
        ),
    ] {
        let (bench, client) = Bench::started(words);
        bench.run("vm-1", at_once(3));
        client.stop(&vm("vm-1"), time).unwrap();
        let stopped = bench.until("vm-1", Doing::Stopped);
        assert_eq!(stopped.reason.as_deref(), Some(expected), "{words}");
        let events = bench.events("vm-1").into_iter();
        let said = events.filter(|event| event.kind == EventKind::Stopping);
        let said: Vec<String> = said.map(|event| event.text).collect();
        assert_eq!(said, steps, "{words}");
    }
}

#[test]
fn a_second_order_hastens_the_end() {
    let (bench, client) = Bench::started("");
    bench.run("vm-1", at_once(3));
    client.stop(&vm("vm-1"), Duration::from_mins(10)).unwrap();
    wait_for("the request", || {
        let asked = |event: &Event| event.text.contains("was asked to power off");
        bench.events("vm-1").iter().any(asked).then_some(())
    });
    client.stop(&vm("vm-1"), Duration::ZERO).unwrap();
    let stopped = bench.until("vm-1", Doing::Stopped);
    let reason = stopped.reason.unwrap();
    assert!(reason.starts_with("killed, since the guest did not power off within"), "{reason}");
    assert!(!reason.contains("600 s"), "it did not get that long: {reason}");
}

#[test]
fn a_guest_may_end_by_itself() {
    let (bench, client) = Bench::started("fake.off");
    client.run(&bench.request("vm-1", at_once(3))).unwrap();
    let ended = bench.until("vm-1", Doing::Ended);
    assert_eq!(ended.reason.as_deref(), Some("guest: guest-shutdown"));
    assert_eq!(ended.restarts, 0);
    let always = Restart { when: When::Always, ..at_once(3) };
    client.run(&bench.request("vm-2", always)).unwrap();
    let left = bench.until("vm-2", Doing::Quarantined);
    assert_eq!((left.restarts, left.ends_in_a_row), (2, 3));
}

#[test]
fn a_vm_that_is_killed_comes_back_until_it_is_left_alone() {
    let (bench, client) = Bench::started("");
    let policy = Restart { limit: 3, first_delay_seconds: 1, ..Restart::default() };
    let mut last = qemu(&bench.run("vm-1", policy));
    for row in 1..3 {
        kill(last.pid, "-9");
        last = wait_for("the next QEMU", || {
            let view = client.status(&vm("vm-1")).unwrap();
            let found = view.state.as_ref().and_then(|state| state.qemu);
            let back = view.doing == Doing::Running && view.ends_in_a_row == row;
            found.filter(|found| back && *found != last)
        });
    }
    kill(last.pid, "-9");
    let view = bench.until("vm-1", Doing::Quarantined);
    let reason = view.reason.unwrap();
    assert_eq!(reason, "it ended 3 times in a row, the last time: signal 9");
    let waits: Vec<String> = bench
        .events("vm-1")
        .into_iter()
        .filter(|event| event.kind == EventKind::Waiting)
        .map(|event| event.text)
        .collect();
    assert_eq!(waits, ["started again in 1 s (end 1 of 3)", "started again in 2 s (end 2 of 3)"]);
    // A person has had a look.
    client.start(&vm("vm-1")).unwrap();
    let view = bench.until("vm-1", Doing::Running);
    assert_eq!((view.ends_in_a_row, view.reason), (0, None));
}

#[test]
fn a_supervisor_that_is_killed_takes_qemu_with_it_and_both_come_back() {
    let (bench, _client) = Bench::started("");
    let view = bench.run("vm-1", at_once(9));
    kill(view.state.as_ref().unwrap().supervisor.pid, "-9");
    wait_for("its end", || (!qemu(&view).is_alive()).then_some(()));
    wait_for("the restart", || {
        let now = bench.client().status(&vm("vm-1")).unwrap();
        (now.restarts == 1 && now.doing == Doing::Running).then_some(())
    });
    let failed = bench.events("vm-1").into_iter().find(|e| e.kind == EventKind::Failed).unwrap();
    assert_eq!(failed.text, "its supervisor was killed, and QEMU with it");
}

#[test]
fn what_crashes_at_once_is_tried_and_left_alone_with_its_own_words() {
    let (bench, client) = Bench::started("fake.crash");
    client.run(&bench.request("vm-1", at_once(2))).unwrap();
    let view = bench.until("vm-1", Doing::Quarantined);
    let reason = view.reason.unwrap();
    assert!(reason.contains("qemu-system-x86_64: it was told to crash"), "{reason}");
}

/// It is read to the end, even where the end comes after QEMU's.
#[test]
fn what_a_guest_says_last_is_why_it_did_not_come_up() {
    let (bench, client) = Bench::started("fake.brief");
    client.run(&bench.request("vm-1", at_once(2))).unwrap();
    let view = bench.until("vm-1", Doing::Quarantined);
    let reason = view.reason.unwrap();
    assert!(reason.contains("root disk missing (stage 0x83)"), "{reason}");
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_loses_nothing_that_it_answered() {
    let (mut bench, _) = Bench::started("");
    let first = bench.run("first", once());
    let mut answered = Vec::new();
    // From before the request is read until after QEMU runs; the last ones by the supervisor
    // itself, when the daemon has just started it.
    for step in 0..10_u64 {
        let name = format!("vm-{step}");
        let request = bench.request(&name, once());
        if step > 7 {
            fs::write(bench.path("kill-daemon"), "").unwrap();
        }
        let client = bench.client();
        let asking = thread::spawn(move || client.run(&request).is_ok());
        if step > 7 {
            bench.daemon_ended();
        } else {
            thread::sleep(Duration::from_millis(step * 6));
            bench.kill_daemon();
        }
        if asking.join().unwrap() {
            answered.push(name);
        }
        bench.start();
    }
    assert!(!answered.is_empty(), "the daemon was always killed before it answered");
    for name in &answered {
        bench.until(name, Doing::Running);
    }
    let known = bench.client().list().unwrap();
    for view in &known {
        bench.until(view.name.as_str(), Doing::Running);
    }
    // Each runs once, and the one that ran all the while still does.
    assert_eq!(bench.qemus().len(), known.len());
    let now = bench.client().status(&vm("first")).unwrap();
    assert_eq!((qemu(&now), now.since_ms), (qemu(&first), first.since_ms));
}

#[test]
fn a_stop_that_was_answered_is_carried_out_by_the_next_daemon() {
    let (mut bench, client) = Bench::started("");
    for (step, name) in ["a", "b", "c"].into_iter().enumerate() {
        let before = bench.run(name, at_once(9));
        client.stop(&vm(name), Duration::ZERO).unwrap();
        thread::sleep(Duration::from_millis(20 * step as u64));
        bench.kill_daemon();
        bench.start();
        bench.until(name, Doing::Stopped);
        assert!(!qemu(&before).is_alive());
    }
    assert_eq!(bench.qemus(), [] as [u32; 0]);
}

#[test]
fn what_ended_while_no_daemon_looked_is_seen_to_by_the_next() {
    let (mut bench, _) = Bench::started("");
    let again = bench.run("again", at_once(9));
    let never = bench.run("never", once());
    bench.kill_daemon();
    for view in [&again, &never] {
        kill(qemu(view).pid, "-9");
        wait_for("its end", || (!view.state.as_ref().unwrap().supervisor.is_alive()).then_some(()));
    }
    bench.start();
    assert_eq!(bench.until("again", Doing::Running).restarts, 1);
    assert_eq!(bench.until("never", Doing::Ended).reason.as_deref(), Some("signal 9"));
}

#[test]
fn a_vm_that_was_started_by_hand_is_found() {
    let mut bench = Bench::new("");
    let request = bench.request("by-hand", once());
    let plan = serde_json::from_value(request.plan).unwrap();
    StateRoot::at(&bench.path("s")).unwrap();
    let supervisor = casemate_launcher::SupervisorCommand {
        program: std::env::current_exe().unwrap(),
        arguments: ["--ignored", "--exact", "serve::bench::supervisor"].map(Into::into).into(),
        environment: vec![
            ("XDG_STATE_HOME".into(), env!("CARGO_TARGET_TMPDIR").into()),
            ("CASEMATE_TEST_SERVE".into(), bench.path("").into()),
        ],
    };
    casemate_launcher::start(&plan, &supervisor, &mut |_| ()).unwrap();
    let client = bench.start();
    let view = bench.until("by-hand", Doing::Running);
    assert_eq!((view.source, view.restart.when), (Source::Found, When::Never));
    client.stop(&vm("by-hand"), Duration::ZERO).unwrap();
    bench.until("by-hand", Doing::Stopped);
}

#[test]
fn twenty_vms_come_and_go_and_the_records_stay_whole() {
    let (mut bench, client) = Bench::started("");
    let names: Vec<String> = (0..20).map(|number| format!("vm-{number}")).collect();
    for name in &names {
        client.run(&bench.request(name, at_once(9))).unwrap();
    }
    for name in &names {
        bench.until(name, Doing::Running);
    }
    for (at, name) in names.iter().enumerate() {
        match at % 4 {
            0 => drop(client.stop(&vm(name), Duration::ZERO).unwrap()),
            1 => kill(qemu(&client.status(&vm(name)).unwrap()).pid, "-9"),
            _ => {}
        }
    }
    bench.kill_daemon();
    let client = bench.start();
    for (at, name) in names.iter().enumerate() {
        match at % 4 {
            0 => drop(bench.until(name, Doing::Stopped)),
            1 => wait_for("the restart", || {
                let view = client.status(&vm(name)).unwrap();
                (view.restarts == 1 && view.doing == Doing::Running).then_some(())
            }),
            _ => assert_eq!(bench.until(name, Doing::Running).restarts, 0),
        }
    }
    wait_for("15 QEMUs", || (bench.qemus().len() == 15).then_some(()));
    let db = Connection::open(bench.path("records/records.sqlite")).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let events = client.events(Some(0), None, 0).unwrap();
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
}

#[test]
fn a_second_daemon_is_refused() {
    let (bench, _client) = Bench::started("");
    let mut command = bench.command();
    command.stderr(std::process::Stdio::piped());
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Taken"), "{said}");
    bench.client().list().unwrap();
}

#[test]
fn a_plan_that_is_not_the_releases_is_refused() {
    let (bench, client) = Bench::started("");
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut request = bench.request("vm-1", once());
        change(&mut request.plan);
        refusal(client.run(&request))
    };
    let digest = refused(&|plan| plan["digest"] = "00".repeat(48).into());
    assert!(digest.contains("the manifest lists no launch digest 0000"), "{digest}");
    let cmdline = refused(&|plan| plan["machine"]["cmdline"] = "init=/bin/sh".into());
    assert!(cmdline.contains("the plan's command line is init=/bin/sh"), "{cmdline}");
    let config = refused(&|plan| plan["launch_config"] = "{}".into());
    assert!(config.contains("the plan's HOST_DATA is"), "{config}");
    let paths = refused(&|plan| plan["paths"] = "/tmp/elsewhere".into());
    assert!(paths.contains("the plan's state directory is /tmp/elsewhere"), "{paths}");
    let manifest = refused(&|plan| plan["manifest_sha256"] = "00".repeat(32).into());
    assert!(manifest.contains("the release was replaced since"), "{manifest}");
    let extra = refused(&|plan| plan["x"] = 1.into());
    assert!(extra.contains("unknown field"), "{extra}");
    assert_eq!(client.list().unwrap(), []);
}

#[test]
fn files_say_which_vms_are_wanted() {
    let mut bench = Bench::new("");
    let wanted = bench.path("wanted");
    fs::create_dir(&wanted).unwrap();
    fs::create_dir(bench.path("bin")).unwrap();
    let fake = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/serve/fake-qemu");
    std::os::unix::fs::symlink(fake, bench.path("bin/qemu-system-x86_64")).unwrap();
    let path = std::env::var("PATH").unwrap();
    bench = bench.with("PATH", &format!("{}:{path}", wanted.with_file_name("bin").display()));
    let release = bench.path("release");
    let text = |memory: &str| {
        format!(
            "schema = 1\nrelease = {:?}\nplatform = \"simulated\"\ncpus = 2\nmemory = \"{memory}\"\n\
             ssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me\"]\naccel = \"tcg\"\n\
             [restart]\nwhen = \"always\"\nlimit = 4\n",
            release.display()
        )
    };
    let write = |name: &str, text: &str| {
        let (path, new) = (wanted.join(name), wanted.join("new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    };
    write("good.toml", &text("1G"));
    write("bad.toml", &text("1T"));
    let client = bench.start();
    let view = bench.until("good", Doing::Running);
    assert_eq!((view.source, view.restart.limit, view.memory_mib), (Source::File, 4, 1024));
    let refused = wait_for("the refusal", || bench.events("bad").pop());
    assert!(refused.text.contains("memory \"1T\""), "{}", refused.text);
    // A change takes nobody's VM away; it holds once the VM was stopped.
    write("good.toml", &text("2G"));
    let refused = wait_for("the refusal", || {
        bench.events("good").into_iter().find(|event| event.kind == EventKind::Refused)
    });
    assert!(refused.text.contains("stop the VM first"), "{}", refused.text);
    assert!(qemu(&view).is_alive());
    client.stop(&vm("good"), Duration::ZERO).unwrap();
    wait_for("the new one", || {
        let view = client.status(&vm("good")).unwrap();
        (view.doing == Doing::Running && view.memory_mib == 2048).then_some(())
    });
    fs::remove_file(wanted.join("good.toml")).unwrap();
    bench.until("good", Doing::Stopped);
}

#[test]
fn after_the_host_booted_what_is_wanted_comes_back() {
    let (mut bench, _) = Bench::started("");
    let views = [bench.run("again", at_once(9)), bench.run("never", once())];
    bench.kill_daemon();
    for view in &views {
        kill(view.state.as_ref().unwrap().supervisor.pid, "-9");
        wait_for("its end", || (!qemu(view).is_alive()).then_some(()));
    }
    // A host that boots has another boot id, and forgot what lies in memory.
    fs::remove_dir_all(bench.path("s")).unwrap();
    let db = Connection::open(bench.path("records/records.sqlite")).unwrap();
    let changed = db.execute("UPDATE facts SET value = 'another' WHERE key = 'boot_id'", []);
    assert_eq!(changed.unwrap(), 1);
    drop(db);
    bench.start();
    let again = bench.until("again", Doing::Running);
    assert_eq!((again.restarts, again.ends_in_a_row), (0, 0));
    let never = bench.until("never", Doing::Stopped);
    assert_eq!(never.reason.as_deref(), Some("the host went down"));
}

#[test]
fn what_cannot_be_recorded_is_not_done_and_what_is_seen_is_recorded_later() {
    let (bench, client) = Bench::started("");
    let view = bench.run("vm-1", at_once(9));
    let address = super::publish::address(&bench);
    let db = Connection::open(bench.path("records/records.sqlite")).unwrap();
    // Nobody else can write, as on a disk that is full.
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = refusal(client.run(&bench.request("vm-2", once())));
    assert!(refused.contains("records.sqlite: database is locked"), "{refused}");
    kill(qemu(&view).pid, "-9");
    let health = || super::publish::get(address, "/health").status;
    wait_for("the complaint", || (health() == 503).then_some(()));
    assert!(client.host().unwrap().trouble.is_some());
    assert_eq!(client.list().unwrap().len(), 1);
    db.execute_batch("ROLLBACK").unwrap();
    wait_for("the restart", || {
        let now = client.status(&vm("vm-1")).unwrap();
        (now.restarts == 1 && now.doing == Doing::Running).then_some(())
    });
    wait_for("relief", || (health() == 200).then_some(()));
    client.run(&bench.request("vm-2", once())).unwrap();
    bench.until("vm-2", Doing::Running);
}

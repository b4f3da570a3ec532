//! Twenty VMs that are stopped, started and killed for minutes, while the daemon is killed too.
//! What was answered is what is the case at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use casemate_launcher::serve::Doing;
use casemate_launcher::serve::restart::Restart;
use rusqlite::Connection;

use super::bench::{Bench, kill, vm, wait_for};

/// Numbers that come again with the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, most: u64) -> u64 {
        // Knuth's MMIX multiplier; the low bits are poor.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

/// How long: `CASEMATE_CHURN_SECONDS`, else three minutes.
fn how_long() -> Duration {
    let seconds = std::env::var("CASEMATE_CHURN_SECONDS").ok();
    Duration::from_secs(seconds.map_or(180, |text| text.parse().unwrap()))
}

#[test]
#[ignore = "takes minutes"]
fn what_was_answered_is_the_case_after_minutes_of_it() {
    let seed = std::process::id().into();
    println!("seed {seed}");
    let (mut bench, mut client) = Bench::started("");
    let mut draw = Draw(seed);
    let restart = Restart { limit: 1_000_000, first_delay_seconds: 0, ..Restart::default() };
    let restart = Restart { most_delay_seconds: 1, ..restart };
    // Whether each was last said to run.
    let mut wanted: BTreeMap<String, bool> = BTreeMap::new();
    for number in 0..20 {
        let name = format!("vm-{number}");
        client.run(&bench.request(&name, restart)).unwrap();
        wanted.insert(name, true);
    }
    let names: Vec<String> = wanted.keys().cloned().collect();
    let (until, mut done) = (Instant::now() + how_long(), [0_u32; 6]);
    while Instant::now() < until {
        let name = &names[usize::try_from(draw.below(20)).unwrap()];
        let view = client.status(&vm(name)).unwrap();
        let what = match draw.below(100) {
            0..=2 => 5,
            3..=30 => 0,
            31..=60 => 1,
            61..=75 => 2,
            76..=90 => 3,
            _ => 4,
        };
        // A refusal changes nothing: a VM that starts cannot be started.
        let told = match what {
            0 => client.stop(&vm(name), Duration::ZERO).is_ok().then_some(false),
            1 => client.start(&vm(name)).is_ok().then_some(true),
            2 | 3 => {
                let state = view.state.as_ref();
                let qemu = state.and_then(|state| state.qemu);
                let process = if what == 2 { qemu } else { state.map(|state| state.supervisor) };
                if let Some(process) = process.filter(|process| process.is_alive()) {
                    // It may be gone by now.
                    let pid = process.pid.to_string();
                    let _ = std::process::Command::new("kill").args(["-9", &pid]).output();
                }
                None
            }
            4 if !wanted[name] => {
                let gone = client.forget(&vm(name)).is_ok();
                gone.then(|| client.run(&bench.request(name, restart)).unwrap()).map(|_| true)
            }
            4 => None,
            _ => {
                bench.kill_daemon();
                client = bench.start();
                None
            }
        };
        done[what] += 1;
        if let Some(runs) = told {
            wanted.insert(name.clone(), runs);
        }
    }
    println!("stops, starts, QEMUs, supervisors, records, daemons: {done:?}");
    bench.kill_daemon();
    let client = bench.start();
    for (name, runs) in &wanted {
        let expected = if *runs { Doing::Running } else { Doing::Stopped };
        let view = bench.until(name, expected);
        assert_eq!(view.wanted, *runs, "{name}");
    }
    let running = wanted.values().filter(|runs| **runs).count();
    wait_for("as many QEMUs as VMs are wanted", || (bench.qemus().len() == running).then_some(()));
    let events = client.events(Some(0), None, 0).unwrap();
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id));
    kill(bench.daemon_pid(), "-9");
    let db = Connection::open(bench.path("records/records.sqlite")).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    assert!(done.iter().all(|count| *count > 0), "too short for all of it: {done:?}");
}

//! Figures for docs/performance.md: what the daemon weighs, and how fast QEMU starts.

use std::fs;
use std::time::Instant;

use casemate_launcher::serve::Doing;
use casemate_launcher::serve::restart::Restart;

use super::bench::{Bench, qemu, vm};

/// A field of a process' status, in KiB.
fn kib(pid: u32, file: &str, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Milliseconds since the host booted, in steps of 10.
fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    std::time::Duration::from_secs_f64(seconds).as_millis().try_into().unwrap()
}

#[test]
#[ignore = "prints figures, decides nothing"]
fn print() {
    let (bench, client) = Bench::started("");
    let empty = kib(bench.daemon_pid(), "status", "VmRSS");
    // The first VM of a user makes the simulated root.
    bench.run("vm-0", Restart::default());
    let mut starts = Vec::new();
    let mut answers = Vec::new();
    for number in 1..20 {
        let name = format!("vm-{number}");
        let request = bench.request(&name, Restart::default());
        let (asked, since) = (uptime_ms(), Instant::now());
        client.run(&request).unwrap();
        answers.push(since.elapsed().as_millis());
        let view = bench.until(&name, Doing::Running);
        // Clock ticks are hundredths of a second.
        starts.push((qemu(&view).start * 10).saturating_sub(asked));
    }
    client.status(&vm("vm-19")).unwrap();
    let pid = bench.daemon_pid();
    let (full, peak) = (kib(pid, "status", "VmRSS"), kib(pid, "status", "VmHWM"));
    let own = kib(pid, "smaps_rollup", "Private_Dirty");
    starts.sort_unstable();
    answers.sort_unstable();
    println!("daemon without VMs: {empty} KiB resident");
    println!("daemon with 20 VMs: {full} KiB resident, {peak} at most, {own} its own");
    println!("run until recorded and answered: {} ms (median), {} (most)", answers[9], answers[18]);
    println!("run until QEMU starts: {} ms (median), {} (most)", starts[9], starts[18]);
}

//! Processor time of this thread: what other programs of a busy machine take is not counted.

use std::hint::black_box;

use nix::time::{ClockId, clock_gettime};

fn now() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    std::time::Duration::from(time).as_secs_f64()
}

/// Whether all is run once, to see that it runs: the figures mean nothing.
fn quick() -> bool {
    std::env::var_os("CASEMATE_BENCH_QUICK").is_some()
}

/// Seconds that `work` takes: the least of `runs`, which other programs disturbed least.
pub(crate) fn least<T>(runs: usize, mut work: impl FnMut() -> T) -> f64 {
    let runs = if quick() { 1 } else { runs };
    let one = |_| {
        let start = now();
        black_box(work());
        now() - start
    };
    (0..runs).map(one).fold(f64::INFINITY, f64::min)
}

/// Seconds that one of `times` calls takes.
pub(crate) fn each<T>(times: u32, mut work: impl FnMut() -> T) -> f64 {
    let times = if quick() { 1 } else { times };
    least(5, || (0..times).for_each(|_| drop(black_box(work())))) / f64::from(times)
}

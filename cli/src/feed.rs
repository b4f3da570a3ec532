//! Standard output for what goes on for as long as it is watched: written by a thread of its own,
//! so that a reader who is slow, or reads no more, does not stop the work that is told of.
//!
//! What is not read is kept up to a bound; beyond it lines are left out, and that is said. Output
//! that cannot be written at all is an error that ends the work.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::printer::{self, OutputError};

/// Most lines that wait for a reader.
const MOST: usize = 10_000;

/// What waits for being written.
#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// The screen as it is to be; an older one is of no use any more.
    screen: Option<String>,
    left_out: u64,
    /// Whether something is being written.
    busy: bool,
    failed: Option<OutputError>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes lines and screens, in their order, without keeping anybody waiting.
#[derive(Debug)]
pub(crate) struct Feed {
    shared: Arc<Shared>,
}

impl Feed {
    /// Starts to write. `stop` is set when nothing can be written any more.
    pub(crate) fn start(stop: Arc<AtomicBool>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("output".into()).spawn(move || write(&writer, &stop))?;
        Ok(Self { shared })
    }

    /// Has a line written.
    pub(crate) fn line(&self, line: String) {
        let mut waiting = self.shared.lock();
        if waiting.lines.len() < MOST {
            waiting.lines.push_back(line);
        } else {
            waiting.left_out += 1;
        }
        self.shared.changed.notify_all();
    }

    /// Has the whole screen replaced.
    pub(crate) fn screen(&self, text: String) {
        self.shared.lock().screen = Some(text);
        self.shared.changed.notify_all();
    }

    /// Waits until everything is written, at most for `patience` where that is given.
    pub(crate) fn end(self, patience: Option<Duration>) -> Result<(), OutputError> {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut waiting = self.shared.lock();
        while waiting.failed.is_none()
            && (waiting.busy || !waiting.lines.is_empty() || waiting.screen.is_some())
            && until.is_none_or(|until| Instant::now() < until)
        {
            let pause = Duration::from_millis(50);
            let result = self.shared.changed.wait_timeout(waiting, pause);
            waiting = result.unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.failed.take().map_or(Ok(()), Err)
    }
}

/// Writes what waits, for as long as the program runs or until nothing can be written.
fn write(shared: &Shared, stop: &AtomicBool) {
    loop {
        let (line, screen, left_out) = {
            let mut waiting = shared.lock();
            while waiting.lines.is_empty() && waiting.screen.is_none() {
                let result = shared.changed.wait(waiting);
                waiting = result.unwrap_or_else(PoisonError::into_inner);
            }
            waiting.busy = true;
            let left_out = std::mem::take(&mut waiting.left_out);
            (waiting.lines.pop_front(), waiting.screen.take(), left_out)
        };
        if left_out > 0 {
            printer::warn(&format!("{left_out} lines are left out: standard output was not read"));
        }
        let line = line.map_or(Ok(()), |line| printer::line(&line));
        let written = line.and_then(|()| screen.map_or(Ok(()), |text| printer::screen(&text)));
        let mut waiting = shared.lock();
        waiting.busy = false;
        let failed = written.is_err();
        waiting.failed = written.err();
        shared.changed.notify_all();
        if failed {
            stop.store(true, Ordering::Relaxed);
            return;
        }
    }
}

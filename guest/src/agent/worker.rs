//! A thread that answers one question at a time, in their order, each until a given moment.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Most questions that wait.
pub(super) const QUEUE: usize = 64;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Too many wait already.
    #[error("{QUEUE} requests wait already")]
    Busy,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The thread is gone.
    #[error("nobody answers any more")]
    Gone,
}

struct Job<Q, A> {
    question: Q,
    end: Instant,
    answer: SyncSender<A>,
}

/// The thread's other end.
#[derive(Debug)]
pub(super) struct Worker<Q, A> {
    queue: SyncSender<Job<Q, A>>,
}

impl<Q: Send + 'static, A: Send + 'static> Worker<Q, A> {
    /// Starts the thread `name`; it ends when the worker is dropped.
    pub(super) fn start(
        name: &str,
        mut answer: impl FnMut(Q) -> A + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs): (_, Receiver<Job<Q, A>>) = sync_channel(QUEUE);
        let work = move || {
            for Job { question, end, answer: to } in jobs {
                // Nobody waits for the answer any more.
                if Instant::now() < end {
                    let _ = to.try_send(answer(question));
                }
            }
        };
        thread::Builder::new().name(name.into()).spawn(work)?;
        Ok(Self { queue })
    }

    /// Asks, and waits for `patience` at most.
    pub(super) fn ask(&self, question: Q, patience: Duration) -> Result<A, WorkerError> {
        let (answer, answered) = sync_channel(1);
        let job = Job { question, end: Instant::now() + patience, answer };
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => WorkerError::Busy,
            TrySendError::Disconnected(_) => WorkerError::Gone,
        })?;
        answered.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => WorkerError::TimedOut,
            RecvTimeoutError::Disconnected => WorkerError::Gone,
        })
    }
}

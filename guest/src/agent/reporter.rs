//! Asks for one report at a time, in the order of the requests, on a thread of its own: a
//! security processor that hangs holds up this thread, not the connections.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::hash::ReportData;

use super::report::{Quote, ReportError, ReportSource};

/// Most requests that wait for a report.
const QUEUE: usize = 64;

/// Why a request got no report.
#[derive(Debug, thiserror::Error)]
pub enum ReporterError {
    /// Too many wait already.
    #[error("{QUEUE} requests wait already")]
    Busy,
    /// It took too long.
    #[error("the security processor did not answer in time")]
    TimedOut,
    /// The thread is gone.
    #[error("the security processor is not asked any more")]
    Gone,
    /// The platform gave none.
    #[error("the platform gave none")]
    Report(#[from] ReportError),
}

struct Job {
    data: ReportData,
    end: Instant,
    answer: SyncSender<Result<Quote, ReportError>>,
}

/// The thread that asks for reports.
#[derive(Debug)]
pub struct Reporter {
    queue: SyncSender<Job>,
}

impl Reporter {
    /// Starts the thread; it ends when the reporter is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(source: Box<dyn ReportSource>) -> io::Result<Self> {
        let (queue, jobs) = sync_channel(QUEUE);
        thread::Builder::new().name("reports".into()).spawn(move || work(source, &jobs))?;
        Ok(Self { queue })
    }

    /// Asks for a report over `data` and waits for it for `patience` at most.
    ///
    /// # Errors
    /// When the queue is full, the time is over, or the platform refuses.
    pub fn report(&self, data: ReportData, patience: Duration) -> Result<Quote, ReporterError> {
        let (answer, answered) = sync_channel(1);
        let job = Job { data, end: Instant::now() + patience, answer };
        self.queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => ReporterError::Busy,
            TrySendError::Disconnected(_) => ReporterError::Gone,
        })?;
        match answered.recv_timeout(patience) {
            Ok(outcome) => Ok(outcome?),
            Err(RecvTimeoutError::Timeout) => Err(ReporterError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => Err(ReporterError::Gone),
        }
    }
}

fn work(mut source: Box<dyn ReportSource>, jobs: &Receiver<Job>) {
    for Job { data, end, answer } in jobs {
        // Nobody waits for the answer any more.
        if Instant::now() >= end {
            continue;
        }
        let outcome = source.report(&data).and_then(|quote| quote.check(&data));
        let _ = answer.try_send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::report::testing::Fake;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_report_over_other_data_is_refused() {
        let reporter = Reporter::start(Box::new(Fake { stale: true, ..Fake::default() })).unwrap();
        let error = reporter.report(ReportData::from_bytes([3; 64]), 10 * SECOND).unwrap_err();
        assert!(matches!(error, ReporterError::Report(ReportError::OtherReportData)), "{error:?}");
    }

    #[test]
    fn a_hanging_processor_times_out_and_the_queue_is_bounded() {
        let fake = Fake { delay: SECOND, ..Fake::default() };
        let reporter = Arc::new(Reporter::start(Box::new(fake)).unwrap());
        let data = ReportData::from_bytes([0; 64]);
        let start = Instant::now();
        let error = reporter.report(data, SECOND / 20).unwrap_err();
        assert!(matches!(error, ReporterError::TimedOut), "{error:?}");
        assert!(start.elapsed() < SECOND);
        let outcomes: Vec<_> =
            (0..QUEUE + 2).map(|_| reporter.report(data, Duration::ZERO)).collect();
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(ReporterError::Busy))));
        // What nobody waits for any more is skipped, so the next one is served at once.
        reporter_recovers(&reporter, data);
    }

    fn reporter_recovers(reporter: &Reporter, data: ReportData) {
        let end = Instant::now() + 10 * SECOND;
        loop {
            match reporter.report(data, 5 * SECOND) {
                Ok(_) => return,
                Err(ReporterError::Busy) if Instant::now() < end => thread::sleep(SECOND / 10),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

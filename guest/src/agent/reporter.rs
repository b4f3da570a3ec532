//! Asks for one report at a time, in the order of the requests, on a thread of its own: a
//! security processor that hangs holds up this thread, not the connections.

use std::io;
use std::time::Duration;

use casemate_measurements::hash::ReportData;

use super::report::{Quote, ReportError, ReportSource};
use super::worker::{Worker, WorkerError};

/// Why a request got no report.
#[derive(Debug, thiserror::Error)]
pub enum ReporterError {
    /// It was not answered.
    #[error("the security processor")]
    Worker(#[from] WorkerError),
    /// The platform gave none.
    #[error("the platform gave none")]
    Report(#[from] ReportError),
}

/// The thread that asks for reports.
#[derive(Debug)]
pub struct Reporter(Worker<ReportData, Result<Quote, ReportError>>);

impl Reporter {
    /// Starts the thread; it ends when the reporter is dropped.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(mut source: Box<dyn ReportSource>) -> io::Result<Self> {
        let ask = move |data| source.report(&data).and_then(|quote| quote.check(&data));
        Ok(Self(Worker::start("reports", ask)?))
    }

    /// Asks for a report over `data` and waits for it for `patience` at most.
    ///
    /// # Errors
    /// When the queue is full, the time is over, or the platform refuses.
    pub fn report(&self, data: ReportData, patience: Duration) -> Result<Quote, ReporterError> {
        Ok(self.0.ask(data, patience)??)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use super::super::report::testing::Fake;
    use super::super::worker::QUEUE;
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
        assert!(matches!(error, ReporterError::Worker(WorkerError::TimedOut)), "{error:?}");
        assert!(start.elapsed() < SECOND);
        let outcomes: Vec<_> =
            (0..QUEUE + 2).map(|_| reporter.report(data, Duration::ZERO)).collect();
        assert!(
            outcomes
                .iter()
                .any(|outcome| matches!(outcome, Err(ReporterError::Worker(WorkerError::Busy))))
        );
        // What nobody waits for any more is skipped, so the next one is served at once.
        reporter_recovers(&reporter, data);
    }

    fn reporter_recovers(reporter: &Reporter, data: ReportData) {
        let end = Instant::now() + 10 * SECOND;
        loop {
            match reporter.report(data, 5 * SECOND) {
                Ok(_) => return,
                Err(ReporterError::Worker(WorkerError::Busy)) if Instant::now() < end => {
                    thread::sleep(SECOND / 10);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

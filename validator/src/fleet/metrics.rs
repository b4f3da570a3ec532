//! What came of watching a fleet, counted for Prometheus.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::targets::Watched;
use super::watch::{Answer, Asked};

/// Bounds of the histogram, in seconds.
const BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    target: String,
    answer: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCheck {
    target: String,
    check: String,
}

/// Counters and gauges of a fleet.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    targets: Gauge,
    accepted: Family<Of, Gauge>,
    answer: Family<OfAnswer, Gauge>,
    asked: Family<OfAnswer, Counter>,
    success: Family<Of, Gauge<f64, AtomicU64>>,
    failed: Family<OfCheck, Counter>,
    duration: Histogram,
    reload_failures: Counter,
    watched: BTreeSet<String>,
    checks: BTreeSet<(String, String)>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("casemate"),
            targets: Gauge::default(),
            accepted: Family::default(),
            answer: Family::default(),
            asked: Family::default(),
            success: Family::default(),
            failed: Family::default(),
            duration: Histogram::new(BUCKETS),
            reload_failures: Counter::default(),
            watched: BTreeSet::new(),
            checks: BTreeSet::new(),
        };
        let registry = &mut metrics.registry;
        registry.register("targets", "Targets that are watched", metrics.targets.clone());
        registry.register(
            "target_accepted",
            "Whether the last answer was accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            "target_answer",
            "1 for how the last question ended, 0 for how it did not",
            metrics.answer.clone(),
        );
        registry.register("questions", "Questions, by how they ended", metrics.asked.clone());
        registry.register(
            "target_last_success_timestamp",
            "When the target was last accepted, since 1970",
            metrics.success.clone(),
        );
        registry.register("failed_checks", "Checks that failed", metrics.failed.clone());
        registry.register_with_unit(
            "question_duration",
            "From connecting to the verdict",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "reload_failures",
            "Lists of targets that were refused",
            metrics.reload_failures.clone(),
        );
        metrics
    }

    /// Counts what a question came to.
    pub fn count(&mut self, asked: &Asked) {
        let (target, answer) = (asked.watched.name.clone(), asked.answer());
        let accepted = answer == Answer::Accepted;
        let of = Of { target: target.clone() };
        self.accepted.get_or_create(&of).set(accepted.into());
        if accepted {
            // Seconds since 1970 stay below 2^53 for as long as anyone asks.
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            self.success.get_or_create(&of).set(asked.at.0 as f64);
        }
        for each in Answer::ALL {
            let of = OfAnswer { target: target.clone(), answer: each.name() };
            self.answer.get_or_create(&of).set((each == answer).into());
        }
        self.asked.get_or_create(&OfAnswer { target: target.clone(), answer: answer.name() }).inc();
        self.duration.observe(asked.elapsed.as_secs_f64());
        for check in asked.failed() {
            let check = check.id();
            self.checks.insert((target.clone(), check.clone()));
            self.failed.get_or_create(&OfCheck { target: target.clone(), check }).inc();
        }
    }

    /// Forgets whoever is no longer watched.
    pub fn watching(&mut self, watched: &[Arc<Watched>]) {
        let names: BTreeSet<String> = watched.iter().map(|one| one.name.clone()).collect();
        for target in self.watched.difference(&names) {
            let of = Of { target: target.clone() };
            self.accepted.remove(&of);
            self.success.remove(&of);
            for answer in Answer::ALL.map(Answer::name) {
                let of = OfAnswer { target: target.clone(), answer };
                self.answer.remove(&of);
                self.asked.remove(&of);
            }
        }
        self.checks.retain(|(target, check)| {
            let stays = names.contains(target);
            if !stays {
                self.failed.remove(&OfCheck { target: target.clone(), check: check.clone() });
            }
            stays
        });
        self.targets.set(i64::try_from(names.len()).unwrap_or(i64::MAX));
        self.watched = names;
    }

    /// Counts a list of targets that was refused.
    pub fn reload_failed(&self) {
        self.reload_failures.inc();
    }

    /// The text that Prometheus reads: `OpenMetrics` 1.0.
    ///
    /// # Errors
    /// Never, as long as text can be written to memory.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

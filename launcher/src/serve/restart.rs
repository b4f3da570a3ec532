//! Whether and when a VM that ended is started again: a pure function of the policy and of how
//! often it failed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// After which ends a VM is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// After none.
    Never,
    /// After a failure, and after the host booted.
    #[default]
    OnFailure,
    /// After every end that nobody asked for.
    Always,
}

/// What becomes of a VM that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Restart {
    /// After which ends it is started again.
    pub when: When,
    /// How many ends in a row before it is left alone, quarantined.
    pub limit: u32,
    /// Seconds before it is started again, the first time; twice as many each time after it.
    pub first_delay_seconds: u32,
    /// Most seconds before it is started again.
    pub most_delay_seconds: u32,
    /// A run of so many seconds is no part of a row.
    pub settled_seconds: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            when: When::OnFailure,
            limit: 5,
            first_delay_seconds: 2,
            most_delay_seconds: 300,
            settled_seconds: 600,
        }
    }
}

/// What is done about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It stays as it is.
    Rest,
    /// It is started again after so long.
    Again(Duration),
    /// It ended too often in a row.
    Quarantine,
}

impl Restart {
    /// The policy of a VM that nobody asked the daemon for.
    pub(crate) const fn never() -> Self {
        Self {
            when: When::Never,
            limit: 0,
            first_delay_seconds: 0,
            most_delay_seconds: 0,
            settled_seconds: 0,
        }
    }

    /// How many ends in a row there are with this one, after a run of so long.
    pub(crate) fn row(&self, before: u32, ran: Duration) -> u32 {
        let settled = ran >= Duration::from_secs(self.settled_seconds.into());
        if settled { 1 } else { before.saturating_add(1) }
    }

    /// The longest that a VM waits to be started again.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_secs(self.most_delay_seconds.into())
    }

    /// What is done after an end, the `row`th in a row.
    pub(crate) fn next(&self, failed: bool, row: u32) -> Next {
        let again = match self.when {
            When::Never => false,
            When::OnFailure => failed,
            When::Always => true,
        };
        if !again {
            return Next::Rest;
        }
        if row >= self.limit {
            return Next::Quarantine;
        }
        let factor = 2_u32.saturating_pow(row.saturating_sub(1));
        let seconds = self.first_delay_seconds.saturating_mul(factor).min(self.most_delay_seconds);
        Next::Again(Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Next {
        Next::Again(Duration::from_secs(n))
    }

    #[test]
    fn delays_double_up_to_the_most_and_then_it_is_left_alone() {
        let policy = Restart { limit: 12, most_delay_seconds: 100, ..Restart::default() };
        let all: Vec<Next> = (1..=12).map(|row| policy.next(true, row)).collect();
        let delays = [2, 4, 8, 16, 32, 64, 100, 100, 100, 100, 100].map(seconds);
        assert_eq!(all[..11], delays);
        assert_eq!(all[11], Next::Quarantine);
        let endless = Restart { limit: u32::MAX, ..policy };
        assert_eq!(endless.next(true, u32::MAX - 1), seconds(100));
    }

    #[test]
    fn who_ends_how_is_started_again() {
        let with = |when| Restart { when, ..Restart::default() };
        assert_eq!(with(When::Never).next(true, 1), Next::Rest);
        assert_eq!(with(When::OnFailure).next(false, 1), Next::Rest);
        assert_eq!(with(When::OnFailure).next(true, 1), seconds(2));
        assert_eq!(with(When::Always).next(false, 1), seconds(2));
        assert_eq!(Restart { limit: 0, ..with(When::Always) }.next(true, 1), Next::Quarantine);
    }

    #[test]
    fn a_long_run_ends_a_row() {
        let policy = Restart::default();
        assert_eq!(policy.row(4, Duration::from_secs(599)), 5);
        assert_eq!(policy.row(4, Duration::from_mins(10)), 1);
        assert_eq!(policy.row(u32::MAX, Duration::ZERO), u32::MAX);
    }
}

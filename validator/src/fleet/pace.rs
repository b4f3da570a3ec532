//! When a target is asked again: a regular interval, moved a little so that targets do not go in
//! step, and longer and longer for one that fails.

use std::time::Duration;

/// How often a target is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Time between two questions while the VM is accepted.
    pub interval: Duration,
    /// The longest time between two questions while it is not.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: Duration::from_mins(1), longest: Duration::from_mins(15) }
    }
}

impl Pace {
    /// The time until the next question after `failures` in a row. `random` moves it by up to a
    /// tenth of itself, to both sides.
    #[must_use]
    pub fn delay(&self, failures: u32, random: u16) -> Duration {
        let doubled = self.interval.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
        let delay = doubled.min(self.longest.max(self.interval));
        delay.mul_f64(0.9 + 0.2 * f64::from(random) / f64::from(u16::MAX))
    }

    /// When a target that was never asked is asked: somewhere in the first tenth of its interval,
    /// at most a second.
    #[must_use]
    pub fn first(&self, random: u16) -> Duration {
        let most = (self.interval / 10).min(Duration::from_secs(1));
        most.mul_f64(f64::from(random) / f64::from(u16::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_delay_up_to_a_bound() {
        let pace = Pace { interval: Duration::from_secs(10), longest: Duration::from_mins(1) };
        let middle = u16::MAX / 2;
        for (failures, seconds) in [(0, 10), (1, 20), (2, 40), (3, 60), (31, 60), (32, 60)] {
            let delay = pace.delay(failures, middle).as_secs_f64();
            assert!((delay - f64::from(seconds)).abs() < 0.01, "{failures}: {delay}");
        }
        assert_eq!(pace.delay(0, 0), Duration::from_secs(9));
        assert_eq!(pace.delay(0, u16::MAX), Duration::from_secs(11));
        // A bound below the interval does not make a failing target be asked more often.
        let pace = Pace { longest: Duration::from_secs(1), ..pace };
        assert_eq!(pace.delay(5, 0), Duration::from_secs(9));
        assert!(pace.first(u16::MAX) <= Duration::from_secs(1));
    }
}

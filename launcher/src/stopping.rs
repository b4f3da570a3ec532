//! An order to stop a VM: what is tried in which order, how far it is, and how the VM ended.
//!
//! The guest is asked first, by the one byte that it heeds, and gets the time that the order
//! gives it. Then QEMU is told to quit, and what does not quit is killed. Who gave the order hears
//! each step and the truth at the end: a guest that powered off had its services ended in order,
//! one that was killed had not.

use std::fmt;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long a guest gets to power off when nobody says. Its own units are bounded to less.
pub const DEFAULT_TIME: Duration = Duration::from_secs(20);
/// What is said of a guest that powered off; a panic or a reset is told by another word.
pub(crate) const POWERED_OFF: &str = "guest: guest-shutdown";
/// Most who wait for the end of one VM.
const MAX_WAITING: usize = 16;

/// How far an order to stop is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step", deny_unknown_fields)]
pub enum StopStep {
    /// The guest was asked to power off.
    Asked {
        /// How long it has, in milliseconds.
        for_ms: u64,
    },
    /// The guest said that it ends its services.
    ShuttingDown,
    /// QEMU was told to quit.
    Quitting,
    /// QEMU did not quit and was killed.
    Killing,
}

impl fmt::Display for StopStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked { for_ms } => {
                write!(f, "the guest was asked to power off and has {}", seconds(*for_ms))
            }
            Self::ShuttingDown => f.write_str("the guest is shutting down"),
            Self::Quitting => f.write_str("QEMU was told to quit"),
            Self::Killing => f.write_str("QEMU did not quit and was killed"),
        }
    }
}

/// How a VM ended that was told to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ended", deny_unknown_fields)]
pub enum Stopped {
    /// The guest was asked, ended its services and powered off.
    PoweredOff,
    /// It ended before it was killed, but not by powering off as it was asked.
    Otherwise {
        /// QEMU's word for how.
        reason: String,
    },
    /// The guest was killed with its QEMU.
    Killed {
        /// How long the guest had to power off, in milliseconds; `None` when it was not asked.
        asked_for_ms: Option<u64>,
    },
    /// The supervisor did not answer and was killed, and the guest and QEMU with it.
    KilledWithSupervisor,
    /// It had ended already.
    HadEnded,
    /// What a supervisor of another version said.
    Said {
        /// Its words.
        text: String,
    },
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("the guest powered off"),
            Self::Otherwise { reason } => {
                write!(f, "the guest did not power off in order: it ended by {reason}")
            }
            Self::Killed { asked_for_ms: Some(ms) } => {
                write!(f, "killed, since the guest did not power off within {}", seconds(*ms))
            }
            Self::Killed { asked_for_ms: None } => f.write_str("killed without asking the guest"),
            Self::KilledWithSupervisor => {
                f.write_str("killed with its supervisor, which did not answer")
            }
            Self::HadEnded => f.write_str("it had ended"),
            Self::Said { text } => f.write_str(text),
        }
    }
}

fn seconds(ms: u64) -> String {
    format!("{} s", Duration::from_millis(ms).as_secs_f64())
}

/// A line that who gave an order hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Word {
    /// How far it is.
    Step(StopStep),
    /// How it ended; the last line.
    Stopped(Stopped),
}

impl Word {
    /// Reads a line. One that is none of ours is a supervisor's that was started by another
    /// version, which said how the VM ended.
    pub(crate) fn parse(line: &str) -> Self {
        let text = line.trim();
        serde_json::from_str(text)
            .unwrap_or_else(|_| Self::Stopped(Stopped::Said { text: text.to_owned() }))
    }
}

/// What is to be done when the time of a step is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Tell QEMU to quit.
    Quit,
    /// Kill QEMU.
    Kill,
}

/// An order that is being carried out.
#[derive(Debug)]
pub(crate) struct Stopping {
    waiting: Vec<UnixStream>,
    /// How long the guest got to power off, if it was asked.
    asked_for_ms: Option<u64>,
    step: StopStep,
    since: Instant,
    until: Instant,
}

impl Stopping {
    /// An order whose guest was asked to power off within `time`, or whose QEMU was told to quit
    /// within `grace`.
    pub(crate) fn new(order: UnixStream, asked: Option<Duration>, grace: Duration) -> Self {
        let asked_for_ms = asked.map(millis);
        let step = asked_for_ms.map_or(StopStep::Quitting, |for_ms| StopStep::Asked { for_ms });
        let since = Instant::now();
        let until = since + asked.unwrap_or(grace);
        let mut stopping = Self { waiting: vec![order], asked_for_ms, step, since, until };
        stopping.tell(&Word::Step(step));
        stopping
    }

    /// Another order for the same VM: it can only hasten the end.
    pub(crate) fn join(&mut self, order: UnixStream, time: Duration) {
        let until = Instant::now() + time;
        if self.is_asked() && until < self.until {
            self.until = until;
            self.asked_for_ms = Some(millis(until - self.since));
        }
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(order);
        }
    }

    fn is_asked(&self) -> bool {
        matches!(self.step, StopStep::Asked { .. } | StopStep::ShuttingDown)
    }

    /// The guest said that it ends its services.
    pub(crate) fn shuts_down(&mut self) {
        if self.is_asked() {
            self.turn(StopStep::ShuttingDown);
        }
    }

    /// What is to be done now, if anything is; what follows gets `grace`.
    pub(crate) fn next(&mut self, grace: Duration) -> Option<Next> {
        if Instant::now() < self.until {
            return None;
        }
        self.until = Instant::now() + grace;
        let (step, next) = if self.is_asked() {
            (StopStep::Quitting, Next::Quit)
        } else {
            (StopStep::Killing, Next::Kill)
        };
        self.turn(step);
        Some(next)
    }

    fn turn(&mut self, step: StopStep) {
        if self.step != step {
            self.step = step;
            self.tell(&Word::Step(step));
        }
    }

    /// QEMU is gone: `shutdown` is what it said of the VM's end, `exit` how its process ended.
    /// Who waits hears it.
    pub(crate) fn end(mut self, shutdown: Option<String>, exit: String) -> Stopped {
        let powered_off = shutdown.as_deref() == Some(POWERED_OFF);
        let stopped = if powered_off && self.asked_for_ms.is_some() {
            Stopped::PoweredOff
        } else if powered_off || self.is_asked() {
            Stopped::Otherwise { reason: shutdown.unwrap_or(exit) }
        } else {
            Stopped::Killed { asked_for_ms: self.asked_for_ms }
        };
        self.tell(&Word::Stopped(stopped.clone()));
        stopped
    }

    fn tell(&mut self, word: &Word) {
        let Ok(line) = serde_json::to_string(word) else { return };
        // Who went away need not hear it.
        self.waiting.retain_mut(|order| writeln!(order, "{line}").is_ok());
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    const LONG: Duration = Duration::from_mins(10);

    fn order(asked: Option<Duration>) -> (Stopping, impl Iterator<Item = Word>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let lines = BufReader::new(theirs).lines();
        (Stopping::new(ours, asked, LONG), lines.map(|line| Word::parse(&line.unwrap())))
    }

    #[test]
    fn a_guest_that_heeds_is_not_killed() {
        let (mut stopping, heard) = order(Some(LONG));
        assert_eq!(stopping.next(LONG), None);
        stopping.shuts_down();
        assert_eq!(
            stopping.end(Some(POWERED_OFF.into()), "exit status 0".into()),
            Stopped::PoweredOff
        );
        let expected = [
            Word::Step(StopStep::Asked { for_ms: 600_000 }),
            Word::Step(StopStep::ShuttingDown),
            Word::Stopped(Stopped::PoweredOff),
        ];
        assert_eq!(heard.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_guest_that_does_not_heed_is_killed_and_that_is_said() {
        let (mut stopping, heard) = order(Some(Duration::ZERO));
        assert_eq!(stopping.next(Duration::ZERO), Some(Next::Quit));
        assert_eq!(stopping.next(LONG), Some(Next::Kill));
        assert_eq!(stopping.next(LONG), None);
        let stopped = stopping.end(None, "signal 9".into());
        assert_eq!(stopped, Stopped::Killed { asked_for_ms: Some(0) });
        let steps = [StopStep::Asked { for_ms: 0 }, StopStep::Quitting, StopStep::Killing];
        let mut expected: Vec<Word> = steps.map(Word::Step).into();
        expected.push(Word::Stopped(stopped));
        assert_eq!(heard.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn who_was_not_asked_did_not_power_off_in_order() {
        let (stopping, _heard) = order(None);
        let quit = Some("host: host-qmp-quit".to_owned());
        let stopped = stopping.end(quit, "exit status 0".into());
        assert_eq!(stopped, Stopped::Killed { asked_for_ms: None });
        let (stopping, _heard) = order(None);
        let stopped = stopping.end(Some(POWERED_OFF.into()), "exit status 0".into());
        assert!(matches!(stopped, Stopped::Otherwise { .. }), "{stopped}");
        // A panic while it shuts down, and a QEMU that crashed.
        for (shutdown, reason) in
            [(Some("guest: guest-reset"), "guest: guest-reset"), (None, "signal 11")]
        {
            let (stopping, _heard) = order(Some(LONG));
            let stopped = stopping.end(shutdown.map(str::to_owned), "signal 11".into());
            assert_eq!(stopped, Stopped::Otherwise { reason: reason.to_owned() });
        }
    }

    #[test]
    fn a_second_order_hastens_the_end_and_both_hear_of_it() {
        let (mut stopping, first) = order(Some(LONG));
        let (ours, theirs) = UnixStream::pair().unwrap();
        stopping.join(ours, LONG * 2);
        assert_eq!(stopping.next(LONG), None);
        let (ours, _gone) = UnixStream::pair().unwrap();
        stopping.join(ours, Duration::ZERO);
        assert_eq!(stopping.next(LONG), Some(Next::Quit));
        let (ours, _gone) = UnixStream::pair().unwrap();
        stopping.join(ours, Duration::ZERO);
        assert_eq!(stopping.next(LONG), None, "QEMU gets its time to quit");
        let stopped = stopping.end(None, "exit status 0".into());
        let Stopped::Killed { asked_for_ms: Some(ms) } = stopped else { panic!("{stopped}") };
        assert!(ms < millis(LONG), "the guest did not get the time of the first order");
        let second = BufReader::new(theirs).lines().map(|line| Word::parse(&line.unwrap()));
        for heard in [first.last(), second.last()] {
            assert_eq!(heard, Some(Word::Stopped(stopped.clone())));
        }
    }

    #[test]
    fn another_version_says_it_in_words() {
        let text = "QEMU quit".to_owned();
        assert_eq!(Word::parse("QEMU quit\n"), Word::Stopped(Stopped::Said { text }));
    }
}

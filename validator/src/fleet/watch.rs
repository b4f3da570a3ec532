//! Asks each target when its time has come, many at once and never more than allowed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::appraisal::{CheckName, Outcome};
use casemate_measurements::causes;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::revocation::RevocationList;
use casemate_measurements::roots::Roots;

use super::targets::Watched;
use crate::certificates::Certificates;
use crate::verify::{Verified, Verifier, VerifyError};

/// How often the flags are looked at.
const TICK: Duration = Duration::from_millis(200);

/// What a question to one target came to.
#[derive(Debug)]
pub struct Asked {
    /// Whom it was about.
    pub watched: Arc<Watched>,
    /// When it was answered.
    pub at: UnixTime,
    /// How long it took, from connecting to the verdict.
    pub elapsed: Duration,
    /// The verdict, or why there is none.
    pub result: Result<Verified, VerifyError>,
    /// How many questions in a row were not answered by an accepted VM.
    pub failures: u32,
    /// Until it is asked again.
    pub next: Duration,
}

/// How a question ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// Genuine and acceptable.
    Accepted,
    /// Genuine but not acceptable.
    NotAcceptable,
    /// Not genuine.
    NotGenuine,
    /// No evidence came.
    Unreachable,
}

impl Answer {
    /// Every one.
    pub const ALL: [Self; 4] =
        [Self::Accepted, Self::NotAcceptable, Self::NotGenuine, Self::Unreachable];

    /// Its name, for machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NotAcceptable => "not-acceptable",
            Self::NotGenuine => "not-genuine",
            Self::Unreachable => "unreachable",
        }
    }
}

impl Asked {
    /// How it ended.
    #[must_use]
    pub fn answer(&self) -> Answer {
        match &self.result {
            Err(_) => Answer::Unreachable,
            Ok(verified) => match verified.verdict.exit_code() {
                0 => Answer::Accepted,
                3 => Answer::NotAcceptable,
                _ => Answer::NotGenuine,
            },
        }
    }

    /// The checks that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<CheckName> {
        let checks = self.result.as_ref().map_or(&[][..], |verified| verified.verdict.checks());
        let failed = checks.iter().filter(|check| check.outcome == Outcome::Failed);
        failed.map(|check| check.name).collect()
    }

    /// One sentence for a person.
    #[must_use]
    pub fn summary(&self) -> String {
        match &self.result {
            Ok(verified) => verified.verdict.summary().to_owned(),
            Err(error) => causes::in_one_line(error),
        }
    }
}

/// What happens to a fleet.
#[derive(Debug)]
pub enum Event<'a, E> {
    /// A target was asked.
    Asked(&'a Asked),
    /// The targets were read again; these are watched from now on.
    Reloaded(&'a [Arc<Watched>]),
    /// They were read again and refused; the old ones are watched on.
    ReloadFailed(E),
}

/// What a watch is told from outside.
#[derive(Debug, Default)]
pub struct Flags {
    /// End.
    pub stop: Arc<AtomicBool>,
    /// Read the targets again.
    pub reload: Arc<AtomicBool>,
}

/// How a fleet is watched.
#[derive(Debug, Clone)]
pub struct Watch {
    /// Whom to believe.
    pub roots: Arc<Roots>,
    /// Where certificates and revocation lists come from that the VMs do not send.
    pub certificates: Arc<Certificates>,
    /// Revocation lists that were given by hand.
    pub revocation_lists: Arc<[RevocationList]>,
    /// Most targets that are asked at once. Those that failed last time get at most half.
    pub at_once: usize,
    /// How often each target is asked; `None` without end.
    pub rounds: Option<u32>,
    /// The verifier's time: [`crate::verify::now`].
    pub clock: fn() -> Result<UnixTime, VerifyError>,
}

/// What is known of one target.
struct State {
    watched: Arc<Watched>,
    due: Instant,
    failures: u32,
    asked: u32,
    in_flight: bool,
}

struct Done {
    name: String,
    watched: Arc<Watched>,
    at: UnixTime,
    elapsed: Duration,
    result: Result<Verified, VerifyError>,
}

impl Watch {
    fn question(&self, watched: &Watched) -> (UnixTime, Result<Verified, VerifyError>) {
        let now = match (self.clock)() {
            Ok(now) => now,
            Err(error) => return (UnixTime(0), Err(error)),
        };
        let verifier = Verifier {
            releases: &watched.releases,
            policy: &watched.policy,
            roots: &self.roots,
            certificates: &self.certificates,
            revocation_lists: &self.revocation_lists,
            nvattest: None,
            limits: watched.limits,
            now,
        };
        (now, verifier.verify(&watched.target))
    }

    /// Watches `targets` until told to stop, or until each was asked often enough; `load` reads
    /// them again. What is in flight when told to stop ends by itself, within its limits.
    pub fn run<E>(
        &self,
        targets: Vec<Watched>,
        flags: &Flags,
        mut load: impl FnMut() -> Result<Vec<Watched>, E>,
        mut tell: impl FnMut(Event<'_, E>),
    ) {
        let (sender, done) = mpsc::channel();
        let mut fleet = Fleet { watch: self, states: BTreeMap::new(), sender };
        let watched = fleet.replace(targets);
        tell(Event::Reloaded(&watched));
        while !flags.stop.load(Ordering::Relaxed) && !fleet.finished() {
            if flags.reload.swap(false, Ordering::Relaxed) {
                match load() {
                    Ok(targets) => {
                        let watched = fleet.replace(targets);
                        tell(Event::Reloaded(&watched));
                    }
                    Err(error) => tell(Event::ReloadFailed(error)),
                }
            }
            let wait = fleet.dispatch();
            if let Some(asked) = fleet.receive(&done, wait.min(TICK)) {
                tell(Event::Asked(&asked));
            }
        }
    }
}

struct Fleet<'a> {
    watch: &'a Watch,
    states: BTreeMap<String, State>,
    sender: Sender<Done>,
}

impl Fleet<'_> {
    /// Watches these from now on. Who is known at the same address keeps his place.
    fn replace(&mut self, targets: Vec<Watched>) -> Vec<Arc<Watched>> {
        let mut old = std::mem::take(&mut self.states);
        for watched in targets.into_iter().map(Arc::new) {
            let state = match old.remove(&watched.name) {
                Some(state) if state.watched.target == watched.target => State { watched, ..state },
                _ => {
                    let due = Instant::now() + watched.pace.first(random());
                    State { watched, due, failures: 0, asked: 0, in_flight: false }
                }
            };
            self.states.insert(state.watched.name.clone(), state);
        }
        self.states.values().map(|state| Arc::clone(&state.watched)).collect()
    }

    fn wanted(&self, state: &State) -> bool {
        !state.in_flight && self.watch.rounds.is_none_or(|rounds| state.asked < rounds)
    }

    fn finished(&self) -> bool {
        !self.states.values().any(|state| state.in_flight || self.wanted(state))
    }

    /// Asks who is due and has a place; the time until someone is due next.
    fn dispatch(&mut self) -> Duration {
        let now = Instant::now();
        loop {
            let (mut all, mut failing) = (0, 0);
            for state in self.states.values().filter(|state| state.in_flight) {
                all += 1;
                failing += usize::from(state.failures > 0);
            }
            let half = (self.watch.at_once / 2).max(1);
            let place =
                |state: &State| all < self.watch.at_once && (state.failures == 0 || failing < half);
            let due = self.states.values().filter(|state| self.wanted(state));
            let next = due.filter(|state| place(state)).min_by_key(|state| state.due);
            let Some(state) = next else { return TICK };
            if state.due > now {
                return state.due - now;
            }
            let watched = Arc::clone(&state.watched);
            if let Some(state) = self.states.get_mut(&watched.name) {
                state.in_flight = true;
            }
            self.ask(watched);
        }
    }

    /// Asks on a thread of its own.
    fn ask(&self, watched: Arc<Watched>) {
        let (sender, watch) = (self.sender.clone(), self.watch.clone());
        thread::spawn(move || {
            let start = Instant::now();
            let (at, result) = watch.question(&watched);
            let (name, elapsed) = (watched.name.clone(), start.elapsed());
            // Nobody listens any more once the watch ended.
            let _ = sender.send(Done { name, watched, at, elapsed, result });
        });
    }

    fn receive(&mut self, done: &Receiver<Done>, wait: Duration) -> Option<Asked> {
        let done = match done.recv_timeout(wait) {
            Ok(done) => done,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        };
        let Done { name, watched, at, elapsed, result } = done;
        let accepted = result.as_ref().is_ok_and(|verified| verified.verdict.is_accepted());
        // Who is no longer watched, or elsewhere by now, is not told of.
        let state = self.states.get_mut(&name)?;
        if state.watched.target != watched.target {
            return None;
        }
        state.in_flight = false;
        state.asked = state.asked.saturating_add(1);
        state.failures = if accepted { 0 } else { state.failures.saturating_add(1) };
        let next = state.watched.pace.delay(state.failures, random());
        state.due = Instant::now() + next;
        let failures = state.failures;
        Some(Asked { watched, at, elapsed, result, failures, next })
    }
}

/// What spreads the questions; nothing secret depends on it.
fn random() -> u16 {
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u16::from_le_bytes(bytes),
        Err(_) => u16::MAX / 2,
    }
}

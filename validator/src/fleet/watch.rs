//! Asks each target when its time has come, many at once and never more than allowed.
//!
//! Whose time has come and who gets a place is decided by [`super::places`]; here are the clock,
//! the threads and the questions themselves. What this machine lacks for a question, a thread or
//! a file descriptor, is told as that and never as an answer of the target.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use casemate_measurements::appraisal::{CheckName, Outcome};
use casemate_measurements::causes;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::revocation::RevocationList;
use casemate_measurements::roots::Roots;

use super::places::{End, Next, Places, Question, Terms};
use super::targets::Watched;
use crate::certificates::Certificates;
use crate::fetch::{FetchError, Limits};
use crate::verify::{Verified, Verifier, VerifyError};

/// How often the flags are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How long a question waits that this machine had no thread or file descriptor for.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is told that something lacks.
const REMINDER: Duration = Duration::from_mins(1);
/// What Linux says when it has no more of something: `ENOMEM`, `ENFILE`, `EMFILE`, `ENOBUFS`.
const LACKS: [i32; 4] = [12, 23, 24, 105];
/// What it says when it has no more threads, `EAGAIN`; of a connection it means something else.
const NO_THREAD: i32 = 11;

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
    /// This machine has too little of something to ask: why. The questions wait.
    Lacking(&'a io::Error),
    /// Nothing happened for a moment.
    Quiet,
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
    /// Most targets that are asked at once. Half of the places are kept for those that answer
    /// promptly.
    pub at_once: usize,
    /// How often each target is asked; `None` without end.
    pub rounds: Option<u32>,
    /// The verifier's time: [`crate::verify::now`].
    pub clock: fn() -> Result<UnixTime, VerifyError>,
}

struct Done {
    id: u64,
    watched: Arc<Watched>,
    at: UnixTime,
    elapsed: Duration,
    result: Result<Verified, VerifyError>,
}

impl Watch {
    fn question(
        &self,
        watched: &Watched,
        limits: Limits,
    ) -> (UnixTime, Result<Verified, VerifyError>) {
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
            limits,
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
        let places = Places::new(self.at_once, self.rounds);
        let (watched, start) = (BTreeMap::new(), Instant::now());
        let mut fleet = Fleet { watch: self, places, watched, sender, start, reminded: None };
        let watched = fleet.replace(targets);
        tell(Event::Reloaded(&watched));
        while !flags.stop.load(Ordering::Relaxed) && !fleet.places.is_finished() {
            if flags.reload.swap(false, Ordering::Relaxed) {
                match load() {
                    Ok(targets) => {
                        let watched = fleet.replace(targets);
                        tell(Event::Reloaded(&watched));
                    }
                    Err(error) => tell(Event::ReloadFailed(error)),
                }
            }
            let (wait, lack) = fleet.dispatch();
            if let Some(lack) = lack {
                fleet.remind(&lack, &mut tell);
            }
            match done.recv_timeout(wait.min(TICK)) {
                Ok(done) => match fleet.receive(done) {
                    Received::Told(asked) => tell(Event::Asked(&asked)),
                    Received::Lacking(lack) => fleet.remind(&lack, &mut tell),
                    Received::Nothing => {}
                },
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    tell(Event::Quiet);
                }
            }
        }
    }
}

struct Fleet<'a> {
    watch: &'a Watch,
    places: Places,
    watched: BTreeMap<String, Arc<Watched>>,
    sender: Sender<Done>,
    start: Instant,
    /// When it was told last that something lacks.
    reminded: Option<Instant>,
}

/// What a question that ended came to.
enum Received {
    Told(Box<Asked>),
    Lacking(io::Error),
    Nothing,
}

impl Fleet<'_> {
    /// Watches these from now on. Who is known at the same address keeps his place.
    fn replace(&mut self, targets: Vec<Watched>) -> Vec<Arc<Watched>> {
        let mut all = Vec::new();
        let old = std::mem::take(&mut self.watched);
        for one in targets.into_iter().map(Arc::new) {
            let known = old.get(&one.name).is_some_and(|old| old.target == one.target);
            let terms = Terms { pace: one.pace, whole: one.limits.total };
            all.push((one.name.clone(), terms, known));
            self.watched.insert(one.name.clone(), one);
        }
        self.places.replace(self.start.elapsed(), all, random);
        self.watched.values().map(Arc::clone).collect()
    }

    /// Asks who is due and has a place; the time until someone is due next, and what lacked.
    fn dispatch(&mut self) -> (Duration, Option<io::Error>) {
        let mut lack = None;
        loop {
            let now = self.start.elapsed();
            let Question { id, name, limit } = match self.places.next(now) {
                Next::Wait(wait) => return (wait, lack),
                Next::Ask(question) => question,
            };
            let Some(watched) = self.watched.get(&name).map(Arc::clone) else {
                // Its place is free again.
                self.places.put_back(now, id, PAUSE);
                continue;
            };
            if let Err(error) = self.ask(id, watched, limit) {
                self.places.put_back(now, id, PAUSE);
                lack = Some(error);
            }
        }
    }

    /// Asks on a thread of its own.
    fn ask(&self, id: u64, watched: Arc<Watched>, limit: Duration) -> io::Result<()> {
        let (sender, watch) = (self.sender.clone(), self.watch.clone());
        let question = move || {
            let start = Instant::now();
            let limits = Limits { total: limit, connect: watched.limits.connect.min(limit) };
            let (at, result) = watch.question(&watched, limits);
            let elapsed = start.elapsed();
            // Nobody listens any more once the watch ended.
            let _ = sender.send(Done { id, watched, at, elapsed, result });
        };
        thread::Builder::new().name("question".into()).spawn(question).map(drop)
    }

    fn receive(&mut self, done: Done) -> Received {
        let Done { id, watched, at, elapsed, result } = done;
        let now = self.start.elapsed();
        let end = match &result {
            Ok(verified) if verified.verdict.is_accepted() => End::Accepted,
            Err(VerifyError::Fetch(FetchError::Deadline { .. })) => End::TimeUp,
            Err(error) => {
                if let Some(lack) = lack(error) {
                    self.places.put_back(now, id, PAUSE);
                    return Received::Lacking(lack);
                }
                End::Failed
            }
            Ok(_) => End::Failed,
        };
        match self.places.end(now, id, (elapsed, end), random()) {
            Some(told) => {
                let (failures, next) = (told.failures, told.next);
                Received::Told(Box::new(Asked { watched, at, elapsed, result, failures, next }))
            }
            None => Received::Nothing,
        }
    }

    /// Tells what lacks, now and then.
    fn remind<E>(&mut self, lack: &io::Error, tell: &mut impl FnMut(Event<'_, E>)) {
        if self.reminded.is_none_or(|at| at.elapsed() >= REMINDER) {
            self.reminded = Some(Instant::now());
            tell(Event::Lacking(lack));
        }
    }
}

/// What this machine lacked for a question, where it was that.
fn lack(error: &VerifyError) -> Option<io::Error> {
    let looks_up = matches!(error, VerifyError::Fetch(FetchError::Resolve { .. }));
    let lacks = |code: &i32| LACKS.contains(code) || (looks_up && *code == NO_THREAD);
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(code) = code.filter(lacks) {
            return Some(io::Error::from_raw_os_error(code));
        }
        next = error.source();
    }
    None
}

/// What spreads the questions; nothing secret depends on it.
fn random() -> u16 {
    let mut bytes = [0; 2];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u16::from_le_bytes(bytes),
        Err(_) => u16::MAX / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_no_answer() {
        let connect = |code: i32| {
            let target = "vm.invalid:1".parse().unwrap();
            let source = io::Error::from_raw_os_error(code);
            VerifyError::Fetch(FetchError::Connect { target, source })
        };
        for code in LACKS {
            assert_eq!(lack(&connect(code)).unwrap().raw_os_error(), Some(code));
        }
        // No answer in time, refused, and no route.
        for code in [NO_THREAD, 111, 113] {
            assert!(lack(&connect(code)).is_none());
        }
    }
}

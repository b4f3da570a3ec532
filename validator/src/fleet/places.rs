//! Who is asked next, of many targets and few places.
//!
//! A place is what a question holds until it ends, so places are given by how long a target held
//! its place before, not by what it answered:
//!
//! - **Prompt** is who answered within [`PROMPT`] and owes no proof. It may have any place, but is
//!   waited for only shortly: four times as long as it took last, at most [`PROMPT`]. Half of the
//!   places are kept for prompt ones, as far as there are so many.
//! - **On trial** is who was never asked, who was prompt and did not answer, and who answered
//!   promptly but owes proof still. It is waited for [`PROMPT`], and comes before the slow ones. A
//!   quarter of the places that are not kept for prompt ones is kept for those on trial.
//! - **Slow** is who did not answer on trial, or later than that. It is waited for its whole time.
//!   Among those whose time has come, each waits longer by eight times what it held last.
//!
//! Nothing is told of a prompt target or one on trial that does not answer: it is asked again at
//! once, on trial or as a slow one. So one lost packet costs an honest target a moment, not its
//! standing. Who hung has to prove itself: two prompt answers in a row after the first time, and
//! twice as many after each further time. Those on trial are asked in this order: who hung at most
//! once and answered before, who was never asked, then the others, by how often they hung.
//!
//! So a place of a prompt target or one on trial is free again within [`PROMPT`]. `n` that hang all
//! at once delay others on trial by at most `n` times that, divided by the places kept for those,
//! once; and a target that hung can do so again only after more and more prompt answers. No clock,
//! no thread and no randomness are here: the caller says what time it is, from any moment on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pace::Pace;

/// The longest answer that is prompt, and the longest time that one is waited for who was.
pub const PROMPT: Duration = Duration::from_secs(2);
/// The shortest time that anyone is waited for, so that a pause of either side does no harm.
const SHORTEST: Duration = Duration::from_millis(500);
/// How many times its last answer a prompt target is waited for.
const PATIENCE: u32 = 4;
/// How many times what it held its place for a target waits longer.
const WEIGHT: u32 = 8;
/// After so many prompt answers in a row one hang is forgiven.
const FORGIVEN: u32 = 32;
/// Most hangs that are remembered.
const MOST_HANGS: u32 = 10;

/// A target as it takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How often it is asked.
    pub pace: Pace,
    /// The most time that a question to it may take.
    pub whole: Duration,
}

/// A question to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What it is ended by.
    pub id: u64,
    /// Whom to ask.
    pub name: String,
    /// How long to wait for the answer.
    pub limit: Duration,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Ask.
    Ask(Question),
    /// Wait until a question ends, at most so long.
    Wait(Duration),
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By an accepted VM.
    Accepted,
    /// By anything else that came within the time.
    Failed,
    /// The time was up.
    TimeUp,
}

/// What is told of a question that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// How many questions in a row were not answered by an accepted VM.
    pub failures: u32,
    /// Until it is asked again.
    pub next: Duration,
}

/// How long a target is waited for, and which places it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Prompt,
    Trial,
    Slow,
}

/// A number, then a time: the lowest is first.
type Rank = (u32, Duration);

/// What is known of a target.
#[derive(Debug, Clone)]
struct Turn {
    terms: Terms,
    due: Duration,
    failures: u32,
    asked: u32,
    flight: Option<u64>,
    /// How long it held its place last; `None` before it was asked.
    held: Option<Duration>,
    /// It did not answer on trial, or answers later than that.
    slow: bool,
    /// Prompt answers that it has to give before it is prompt.
    owed: u32,
    /// How often it hung although it had answered promptly.
    hangs: u32,
    /// Prompt answers in a row.
    streak: u32,
}

impl Turn {
    fn new(terms: Terms, due: Duration) -> Self {
        let (failures, asked, flight, held, slow) = (0, 0, None, None, false);
        Self { terms, due, failures, asked, flight, held, slow, owed: 1, hangs: 0, streak: 0 }
    }

    fn is_prompt(&self) -> bool {
        self.owed == 0
    }

    fn standing(&self) -> Standing {
        match (self.slow, self.is_prompt()) {
            (true, _) => Standing::Slow,
            (false, true) => Standing::Prompt,
            (false, false) => Standing::Trial,
        }
    }

    /// How long it is waited for.
    fn limit(&self) -> Duration {
        let limit = match self.standing() {
            Standing::Prompt => (self.held.unwrap_or_default() * PATIENCE).clamp(SHORTEST, PROMPT),
            Standing::Trial => PROMPT,
            Standing::Slow => self.terms.whole,
        };
        limit.min(self.terms.whole)
    }

    /// When it takes its turn among those of its standing whose time has come: by the number,
    /// then by the time.
    fn rank(&self) -> Rank {
        let before = match (self.standing(), self.held) {
            (Standing::Prompt | Standing::Slow, _) => 0,
            (Standing::Trial, None) => 1,
            (Standing::Trial, Some(_)) if self.hangs <= 1 => 0,
            (Standing::Trial, Some(_)) => self.hangs,
        };
        (before, self.due + self.held.unwrap_or_default() * WEIGHT)
    }

    /// It answered within its time.
    fn answered(&mut self, held: Duration) {
        self.slow = held > PROMPT;
        if self.slow {
            self.streak = 0;
            self.owed = self.owed.max(self.proof());
            return;
        }
        self.owed = self.owed.saturating_sub(1);
        self.streak += 1;
        if self.streak >= FORGIVEN {
            self.streak = 0;
            self.hangs = self.hangs.saturating_sub(1);
        }
    }

    /// It did not answer in its short time. Twice in a row is one hang.
    fn hung(&mut self) {
        if self.is_prompt() || self.streak > 0 {
            self.hangs = (self.hangs + 1).min(MOST_HANGS);
        }
        self.slow = !self.is_prompt();
        self.streak = 0;
        self.owed = self.owed.max(self.proof());
    }

    fn proof(&self) -> u32 {
        1 << self.hangs
    }
}

/// A question that was asked and has not ended.
#[derive(Debug, Clone)]
struct Flight {
    name: String,
    limit: Duration,
    standing: Standing,
}

/// The places and who waits for one.
#[derive(Debug, Clone)]
pub struct Places {
    at_once: usize,
    rounds: Option<u32>,
    turns: BTreeMap<String, Turn>,
    flights: BTreeMap<u64, Flight>,
    next_id: u64,
    /// Those whose time has not come, by when it comes.
    waiting: BTreeSet<(Duration, String)>,
    /// Those whose time has come, by rank: prompt ones, those on trial and slow ones.
    ready: [BTreeSet<(Rank, String)>; 3],
    /// How many targets are prompt.
    prompt: usize,
}

impl Places {
    /// So many places, for targets that are asked `rounds` times each, or without end.
    #[must_use]
    pub fn new(at_once: usize, rounds: Option<u32>) -> Self {
        let (turns, flights, next_id) = (BTreeMap::new(), BTreeMap::new(), 0);
        let (waiting, ready, at_once) = (BTreeSet::new(), Default::default(), at_once.max(1));
        Self { at_once, rounds, turns, flights, next_id, waiting, ready, prompt: 0 }
    }

    /// Watches these from now on. Who is `known` keeps what is known of him; `random` spreads the
    /// first questions to the others.
    pub fn replace(
        &mut self,
        now: Duration,
        targets: impl IntoIterator<Item = (String, Terms, bool)>,
        mut random: impl FnMut() -> u16,
    ) {
        let mut old = std::mem::take(&mut self.turns);
        for (name, terms, known) in targets {
            let turn = match old.remove(&name).filter(|_| known) {
                Some(turn) => Turn { terms, ..turn },
                None => Turn::new(terms, now + terms.pace.first(random())),
            };
            self.turns.insert(name, turn);
        }
        self.prompt = self.turns.values().filter(|turn| turn.is_prompt()).count();
        self.ready = Default::default();
        let wanted = self.turns.iter().filter(|(_, turn)| self.wants(turn));
        self.waiting = wanted.map(|(name, turn)| (turn.due, name.clone())).collect();
    }

    fn wants(&self, turn: &Turn) -> bool {
        turn.flight.is_none() && self.rounds.is_none_or(|rounds| turn.asked < rounds)
    }

    /// Whether everybody was asked often enough and nobody is waited for.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let asked = |turn: &Turn| turn.flight.is_some() || self.wants(turn);
        !self.turns.values().any(asked)
    }

    /// Whom to ask at `now`, or how long nobody need be asked.
    pub fn next(&mut self, now: Duration) -> Next {
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
            && let Some((_, name)) = self.waiting.pop_first()
        {
            if let Some(turn) = self.turns.get(&name) {
                self.ready[turn.standing() as usize].insert((turn.rank(), name));
            }
        }
        let until = self.waiting.first().map_or(Duration::MAX, |(due, _)| due.saturating_sub(now));
        let Some(standing) = self.whose_turn() else { return Next::Wait(until) };
        match self.ready[standing as usize].pop_first() {
            Some((_, name)) => self.ask(name, standing).map_or(Next::Wait(until), Next::Ask),
            None => Next::Wait(until),
        }
    }

    /// Who of those whose time has come gets the next place.
    fn whose_turn(&self) -> Option<Standing> {
        if self.flights.len() >= self.at_once {
            return None;
        }
        let flying =
            |standing| self.flights.values().filter(|flight| flight.standing == standing).count();
        let (trials, slow) = (flying(Standing::Trial), flying(Standing::Slow));
        let first = |standing: Standing| self.ready[standing as usize].first();
        let room = trials + slow < self.for_others();
        let other = [Standing::Trial, Standing::Slow].into_iter().find(|standing| {
            let room = room && (*standing == Standing::Trial || slow < self.for_slow());
            room && first(*standing).is_some()
        });
        let since = |standing| first(standing).map(|((_, since), _)| *since);
        match (since(Standing::Prompt), other) {
            (None, other) => other,
            (Some(prompt), Some(other)) if since(other).is_some_and(|at| at < prompt) => {
                Some(other)
            }
            (Some(_), _) => Some(Standing::Prompt),
        }
    }

    /// The places of those who are not prompt: half of them, and what prompt ones cannot need.
    fn for_others(&self) -> usize {
        self.at_once - self.prompt.min(self.at_once / 2)
    }

    /// Those of slow ones: three quarters of these.
    fn for_slow(&self) -> usize {
        let others = self.for_others();
        others - (others / 4).max(1).min(others - 1)
    }

    fn ask(&mut self, name: String, standing: Standing) -> Option<Question> {
        let turn = self.turns.get_mut(&name)?;
        let (id, limit) = (self.next_id, turn.limit());
        self.next_id += 1;
        turn.flight = Some(id);
        self.flights.insert(id, Flight { name: name.clone(), limit, standing });
        Some(Question { id, name, limit })
    }

    /// Ends the question `id`, which held its place for `held`. `None` where nothing is told: the
    /// target is asked again at once and waited for longer, or is watched no longer.
    pub fn end(
        &mut self,
        now: Duration,
        id: u64,
        (held, end): (Duration, End),
        random: u16,
    ) -> Option<Told> {
        let flight = self.flights.remove(&id)?;
        let turn = self.turns.get_mut(&flight.name).filter(|turn| turn.flight == Some(id))?;
        let was = turn.is_prompt();
        (turn.flight, turn.held) = (None, Some(held));
        let again = end == End::TimeUp && flight.limit < turn.terms.whole;
        let told = if again {
            turn.hung();
            turn.due = now;
            None
        } else {
            turn.answered(held);
            turn.asked = turn.asked.saturating_add(1);
            turn.failures = if end == End::Accepted { 0 } else { turn.failures.saturating_add(1) };
            let next = turn.terms.pace.delay(turn.failures, random);
            turn.due = now + next;
            Some(Told { failures: turn.failures, next })
        };
        let (due, is) = (turn.due, turn.is_prompt());
        self.prompt = self.prompt + usize::from(is) - usize::from(was);
        self.wait(flight.name, due);
        told
    }

    /// Takes the question `id` back, which could not be asked, and asks it after `pause`.
    pub fn put_back(&mut self, now: Duration, id: u64, pause: Duration) {
        let Some(flight) = self.flights.remove(&id) else { return };
        let turn = self.turns.get_mut(&flight.name).filter(|turn| turn.flight == Some(id));
        let Some(turn) = turn else { return };
        (turn.flight, turn.due) = (None, now + pause);
        let due = turn.due;
        self.wait(flight.name, due);
    }

    fn wait(&mut self, name: String, due: Duration) {
        if self.turns.get(&name).is_some_and(|turn| self.wants(turn)) {
            self.waiting.insert((due, name));
        }
    }
}

#[cfg(test)]
mod tests;

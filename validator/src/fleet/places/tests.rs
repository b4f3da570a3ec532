//! A fleet that is simulated: hours of it pass in a moment, on no clock but its own.

use super::*;

const INTERVAL: Duration = Duration::from_secs(10);
/// What an honest target takes.
const USUAL: Duration = Duration::from_millis(20);

/// What a target does with its `n`-th question.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Honest,
    /// It is honest, and a packet to it or from it is lost once in 50 questions.
    Stumbles,
    /// It answers well, after so long.
    Slow(Duration),
    /// It answers, then hangs, in turn.
    InTurn,
    /// It answers so often, then hangs for good.
    Turncoat(u32),
    /// It hangs twice in a row, in the last two of so many questions.
    Rarely(u32),
    Hung,
}

impl Kind {
    fn answer(self, n: u32, limit: Duration) -> (Duration, End) {
        let takes = match self {
            Self::Honest => Some(USUAL),
            Self::Stumbles => (n % 50 != 49).then_some(USUAL),
            Self::Slow(takes) => Some(takes),
            Self::InTurn => n.is_multiple_of(2).then_some(USUAL),
            Self::Turncoat(good) => (n < good).then_some(USUAL),
            Self::Rarely(often) => (n % often < often - 2).then_some(USUAL),
            Self::Hung => None,
        };
        match takes {
            Some(takes) if takes < limit => (takes, End::Accepted),
            _ => (limit, End::TimeUp),
        }
    }
}

/// A fleet at work.
struct Sim {
    places: Places,
    kinds: BTreeMap<String, Kind>,
    now: Duration,
    ends: BTreeSet<(Duration, u64)>,
    flights: BTreeMap<u64, (String, Duration, End)>,
    added: BTreeMap<String, Duration>,
    asked: BTreeMap<String, Vec<Duration>>,
    told: BTreeMap<String, u32>,
    most: usize,
    seed: u32,
}

impl Sim {
    fn new(at_once: usize, timeout: Duration, kinds: &[(usize, Kind)]) -> Self {
        let mut sim = Self {
            places: Places::new(at_once, None),
            kinds: BTreeMap::new(),
            now: Duration::ZERO,
            ends: BTreeSet::new(),
            flights: BTreeMap::new(),
            added: BTreeMap::new(),
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            most: 0,
            seed: 1,
        };
        sim.add(timeout, kinds);
        sim
    }

    /// Adds targets by a reload.
    fn add(&mut self, timeout: Duration, kinds: &[(usize, Kind)]) {
        let known: Vec<String> = self.kinds.keys().cloned().collect();
        for (count, kind) in kinds {
            for _ in 0..*count {
                let name = format!("{kind:?}-{}", self.kinds.len());
                self.added.insert(name.clone(), self.now);
                self.kinds.insert(name, *kind);
            }
        }
        let pace = Pace { interval: INTERVAL, longest: Duration::from_mins(15) };
        let terms = Terms { pace, whole: timeout };
        let all = self.kinds.keys().map(|name| (name.clone(), terms, known.contains(name)));
        let all: Vec<_> = all.collect();
        let seed = &mut self.seed;
        self.places.replace(self.now, all, || random(seed));
    }

    fn run(&mut self, time: Duration) {
        let over = self.now + time;
        while self.now < over {
            let wait = loop {
                match self.places.next(self.now) {
                    Next::Wait(wait) => break wait,
                    Next::Ask(Question { id, name, limit }) => {
                        let asked = self.asked.entry(name.clone()).or_default();
                        let n = u32::try_from(asked.len()).unwrap();
                        asked.push(self.now);
                        let (held, end) = self.kinds[&name].answer(n, limit);
                        self.ends.insert((self.now + held, id));
                        self.flights.insert(id, (name, held, end));
                        self.most = self.most.max(self.flights.len());
                    }
                }
            };
            let due = self.now.saturating_add(wait);
            let end = self.ends.first().map_or(Duration::MAX, |(at, _)| *at);
            self.now = due.min(end).min(over);
            while let Some((at, id)) = self.ends.first().copied()
                && at <= self.now
            {
                self.ends.pop_first();
                let (name, held, end) = self.flights.remove(&id).unwrap();
                let random = random(&mut self.seed);
                if self.places.end(self.now, id, (held, end), random).is_some() {
                    *self.told.entry(name).or_default() += 1;
                }
            }
        }
    }

    fn honest(&self) -> impl Iterator<Item = (&String, &[Duration])> {
        let honest = |kind: &Kind| matches!(kind, Kind::Honest | Kind::Stumbles);
        let honest = self.kinds.iter().filter(move |(_, kind)| honest(kind));
        honest.map(|(name, _)| (name, self.asked.get(name).map_or(&[][..], Vec::as_slice)))
    }

    /// The longest time between two questions to the same honest target, and until now.
    fn gap(&self) -> Duration {
        let longest = |(_, asked): (&String, &[Duration])| {
            let times = [asked, &[self.now]].concat();
            times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
        };
        self.honest().map(longest).max().unwrap()
    }

    /// The longest time that an honest target waited for its first question.
    fn first(&self) -> Duration {
        let waited = |(name, asked): (&String, &[Duration])| {
            let added = self.added.get(name)?;
            Some(asked.first().unwrap_or(&self.now).saturating_sub(*added))
        };
        self.honest().filter_map(waited).max().unwrap()
    }
}

fn random(seed: &mut u32) -> u16 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    u16::try_from(*seed >> 16).unwrap()
}

/// The claim of docs/threat-model.md: whatever the neighbours do, an honest target is asked again
/// within twice its interval.
#[test]
fn nobody_delays_the_judgement_of_others() {
    let secs = Duration::from_secs;
    let honest = (100, Kind::Honest);
    for (minutes, timeout, others) in [
        (10, 20, None),
        (20, 20, Some((200, Kind::Slow(Duration::from_millis(15_500))))),
        (20, 60, Some((200, Kind::Slow(secs(59))))),
        (20, 20, Some((300, Kind::InTurn))),
        (20, 20, Some((300, Kind::Turncoat(7)))),
        (20, 4, Some((1000, Kind::Hung))),
        (90, 60, Some((1000, Kind::Hung))),
    ] {
        let kinds: Vec<_> = std::iter::once(honest).chain(others).collect();
        let mut sim = Sim::new(32, secs(timeout), &kinds);
        sim.run(Duration::from_mins(minutes));
        let gap = sim.gap();
        assert!(gap <= 2 * INTERVAL, "beside {others:?}: {gap:?}");
        assert!(sim.most <= 32, "{} at once", sim.most);
        // Nobody is forgotten.
        assert_eq!(sim.told.len(), sim.kinds.len(), "beside {others:?}");
    }
}

/// Once in 50 questions a packet is lost, to every honest target.
#[test]
fn a_lost_packet_silences_nobody() {
    let secs = Duration::from_secs;
    for (timeout, others, soon) in [
        (20, (1000, Kind::Hung), 20),
        (60, (1000, Kind::Hung), 20),
        (60, (200, Kind::Slow(secs(59))), 20),
        (20, (300, Kind::InTurn), 20),
        (60, (300, Kind::InTurn), 20),
        (60, (300, Kind::Turncoat(7)), 20),
        (60, (300, Kind::Rarely(33)), 20),
        // 300 hang when a packet of each honest one is lost: 300 × 2 s ÷ 16 places later.
        (60, (300, Kind::Turncoat(49)), 49),
    ] {
        let mut sim = Sim::new(32, secs(timeout), &[(100, Kind::Stumbles), others]);
        sim.run(Duration::from_mins(40));
        let gap = sim.gap();
        assert!(gap <= secs(soon), "beside {others:?}, {timeout} s: {gap:?}");
    }
}

/// Honest targets that are added to a fleet of hung ones, alone and among more hung ones. Among
/// `more`, it takes at most `more` × 2 s ÷ the places kept for those on trial.
#[test]
fn who_is_added_late_is_asked_soon() {
    let secs = Duration::from_secs;
    for (timeout, hung, more, soon) in
        [(20, 1000, 0, 2), (60, 1000, 0, 2), (60, 1000, 500, 252), (60, 0, 500, 252)]
    {
        let old = [(100, Kind::Honest), (hung, Kind::Hung)];
        let mut sim = Sim::new(32, secs(timeout), &old);
        sim.run(Duration::from_mins(40));
        sim.added.clear();
        sim.add(secs(timeout), &[(more, Kind::Hung), (4, Kind::Honest)]);
        sim.run(Duration::from_mins(30));
        let first = sim.first();
        assert!(first <= secs(soon), "{hung} hung, {more} more, {timeout} s: {first:?}");
        assert!(sim.gap() <= 2 * INTERVAL, "{:?}", sim.gap());
    }
}

#[test]
fn who_is_added_by_a_reload_delays_nobody() {
    let timeout = Duration::from_secs(20);
    let mut sim = Sim::new(32, timeout, &[(100, Kind::Honest)]);
    sim.run(Duration::from_mins(5));
    sim.add(timeout, &[(500, Kind::Hung)]);
    sim.run(Duration::from_mins(30));
    assert!(sim.gap() <= 2 * INTERVAL, "{:?}", sim.gap());
}

/// A fleet of slow targets alone has every place.
#[test]
fn places_that_nobody_prompt_needs_are_used() {
    let takes = Duration::from_secs(8);
    let mut sim = Sim::new(32, Duration::from_secs(20), &[(30, Kind::Slow(takes))]);
    sim.run(Duration::from_mins(10));
    assert!(sim.most > 16, "{}", sim.most);
    let least = sim.told.values().min().unwrap();
    assert!(*least >= 25, "{least}");
}

#[test]
fn a_question_that_could_not_be_asked_is_asked_later() {
    let terms = Terms { pace: Pace::default(), whole: PROMPT };
    let mut places = Places::new(1, Some(1));
    let zero = Duration::ZERO;
    places.replace(zero, [("a".to_owned(), terms, false)], || 0);
    let Next::Ask(question) = places.next(zero) else { panic!() };
    assert_eq!(places.next(zero), Next::Wait(Duration::MAX));
    let second = Duration::from_secs(1);
    places.put_back(zero, question.id, second);
    assert_eq!(places.next(zero), Next::Wait(second));
    let Next::Ask(question) = places.next(second) else { panic!() };
    assert!(!places.is_finished());
    // Its whole time was up, so there is nothing to ask again.
    let told = places.end(second, question.id, (PROMPT, End::TimeUp), 0).unwrap();
    assert_eq!(told.failures, 1);
    assert!(places.is_finished());
    assert_eq!(places.end(second, question.id, (PROMPT, End::Failed), 0), None);
}

#[test]
fn a_target_elsewhere_starts_anew_and_the_old_question_keeps_its_place() {
    let terms = Terms { pace: Pace::default(), whole: PROMPT };
    let mut places = Places::new(1, None);
    let zero = Duration::ZERO;
    places.replace(zero, [("a".to_owned(), terms, false)], || 0);
    let Next::Ask(old) = places.next(zero) else { panic!() };
    places.replace(zero, [("a".to_owned(), terms, false)], || 0);
    assert_eq!(places.next(zero), Next::Wait(Duration::MAX));
    assert_eq!(places.end(zero, old.id, (zero, End::Accepted), 0), None);
    let Next::Ask(new) = places.next(zero) else { panic!() };
    assert!(places.end(zero, new.id, (zero, End::Accepted), 0).is_some());
}

//! `verify --watch`: a fleet of VMs, verified over and over.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use casemate_measurements::appraisal::{CheckName, KnownRelease};
use casemate_measurements::causes;
use casemate_validator::fleet::metrics::Metrics;
use casemate_validator::fleet::targets::{self, TargetsError, Watched};
use casemate_validator::fleet::watch::{Answer, Asked, Event, Flags, Watch};
use casemate_validator::fleet::{serve, signals};
use casemate_validator::{files, trust, verify};
use serde::Serialize;

use super::judge;
use crate::args::{Format, WatchArgs};
use crate::feed::Feed;
use crate::outcome::Outcome;
use crate::printer::{self, OutputError, Tone};
use crate::verbs::release as signed;

/// The shortest time between two drawings of the table.
const REDRAW: Duration = Duration::from_millis(250);
/// Most rows of it.
const MOST_ROWS: usize = 200;
/// How long a watch that was told to end waits for its output to be read.
const GOODBYE: Duration = Duration::from_secs(1);

/// Watches until told to end.
pub(crate) fn watch(args: &WatchArgs) -> anyhow::Result<Outcome> {
    let roots = Arc::new(trust::roots_with(
        args.trust_simulated.as_deref(),
        args.gpus.gpu_manifests.as_deref(),
    )?);
    let flags = Flags::default();
    signals::register(&flags)?;
    let metrics = Arc::new(Mutex::new(Metrics::new()));
    if let Some(address) = args.metrics {
        let address = serve::serve(address, Arc::clone(&metrics))
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        printer::say(&format!("metrics at http://{address}/metrics"));
    }
    let signers = args.signers.as_deref().map(signed::policy).transpose()?;
    let accept = |dir: &Path, release: &KnownRelease| -> Result<(), Box<dyn Error + Send + Sync>> {
        match &signers {
            Some(signers) if !signed::is_signed(dir, release.sha256(), signers)? => {
                Err("too few of the signers signed it".into())
            }
            _ => Ok(()),
        }
    };
    let load = || targets::read(&args.targets, &roots, &accept);
    let all = load()?;
    let watch = Watch {
        roots: Arc::clone(&roots),
        certificates: Arc::new(judge::source(
            &args.certificates.services,
            Some(&args.certificates.kds),
            Some(&args.gpus),
        )?),
        revocation_lists: files::revocation_lists(&args.certificates.crl)?.into(),
        at_once: args.at_once.into(),
        rounds: args.rounds,
        clock: verify::now,
    };
    let feed = Feed::start(Arc::clone(&flags.stop)).context("cannot start a thread")?;
    let mut board = Board::new(args.output.format, feed);
    follow(&args.targets, &flags).context("cannot start a thread")?;
    watch.run(all, &flags, load, |event| {
        let mut metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
        match &event {
            Event::Asked(asked) => metrics.count(asked),
            Event::Reloaded(watched) => metrics.watching(watched),
            Event::ReloadFailed(_) => metrics.reload_failed(),
            Event::Lacking(_) | Event::Quiet => {}
        }
        drop(metrics);
        board.take(&event);
    });
    let stopped = flags.stop.load(Ordering::Relaxed);
    let outcome = if stopped { Outcome::Done } else { board.outcome() };
    // Who says that it shall end does not wait for a reader who does not read.
    board.end(stopped.then_some(GOODBYE))?;
    Ok(outcome)
}

/// Asks for a reload whenever the file has changed.
fn follow(path: &Path, flags: &Flags) -> std::io::Result<()> {
    let (path, stop, reload) =
        (path.to_owned(), Arc::clone(&flags.stop), Arc::clone(&flags.reload));
    let state = move || -> Option<(SystemTime, u64)> {
        let metadata = fs::metadata(&path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let mut last = state();
    let look = move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(500));
            let now = state();
            // A file that is being replaced is not there for a moment.
            if now.is_some() && now != last {
                last = now;
                reload.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::Builder::new().name("targets".into()).spawn(look).map(drop)
}

/// A line for machines.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    target: &'a str,
    address: String,
    answer: &'static str,
    seconds: f64,
    failures: u32,
    next_seconds: f64,
    failed: Vec<CheckName>,
    summary: String,
}

impl<'a> Line<'a> {
    fn new(asked: &'a Asked) -> Self {
        Self {
            time: asked.at.to_string(),
            target: &asked.watched.name,
            address: asked.watched.target.to_string(),
            answer: asked.answer().name(),
            seconds: asked.elapsed.as_secs_f64(),
            failures: asked.failures,
            next_seconds: asked.next.as_secs_f64(),
            failed: asked.failed(),
            summary: asked.summary(),
        }
    }
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    address: String,
    answer: Option<Answer>,
    time: String,
    accepted: String,
    seconds: String,
    summary: String,
}

/// What was seen last of each target.
#[derive(Debug)]
struct Board {
    rows: BTreeMap<String, Row>,
    format: Format,
    feed: Feed,
    drawn: bool,
    /// When the table was drawn last, and whether something changed since.
    at: Option<Instant>,
    changed: bool,
}

impl Board {
    fn new(format: Format, feed: Feed) -> Self {
        let drawn = format == Format::Table && std::io::stdout().is_terminal();
        Self { rows: BTreeMap::new(), format, feed, drawn, at: None, changed: false }
    }

    fn take(&mut self, event: &Event<'_, TargetsError>) {
        match event {
            Event::Asked(asked) => self.asked(asked),
            Event::Reloaded(watched) => self.watching(watched),
            Event::ReloadFailed(error) => {
                let error = anyhow::Error::msg(causes::in_one_line(error));
                printer::warn(&format!("the targets are watched as before: {error}"));
            }
            Event::Lacking(lack) => printer::warn(&format!(
                "this machine cannot ask as many targets at once ({lack}); nothing is told of \
                 those that wait. Raise its limits (ulimit -n, ulimit -u) or lower --at-once"
            )),
            Event::Quiet => {}
        }
        if self.drawn && self.changed && self.at.is_none_or(|at| at.elapsed() >= REDRAW) {
            self.draw();
        }
    }

    fn draw(&mut self) {
        self.feed.screen(self.table());
        (self.at, self.changed) = (Some(Instant::now()), false);
    }

    /// Has the rest written.
    fn end(mut self, patience: Option<Duration>) -> Result<(), OutputError> {
        if self.drawn && self.changed {
            self.draw();
        }
        self.feed.end(patience)
    }

    fn watching(&mut self, watched: &[Arc<Watched>]) {
        let mut old = std::mem::take(&mut self.rows);
        for one in watched {
            let address = one.target.to_string();
            let row = old.remove(&one.name).filter(|row| row.address == address);
            let (time, accepted, seconds) = (String::new(), String::new(), String::new());
            let summary = "not asked yet".to_owned();
            let new = Row { address, answer: None, time, accepted, seconds, summary };
            self.rows.insert(one.name.clone(), row.unwrap_or(new));
        }
        self.changed = true;
        if !self.drawn {
            printer::say(&format!("watching {} targets", watched.len()));
        }
    }

    fn asked(&mut self, asked: &Asked) {
        let line = Line::new(asked);
        self.changed = true;
        if self.format == Format::Json {
            // Strings and numbers are written without fail.
            self.feed.line(serde_json::to_string(&line).unwrap_or_default());
        } else if !self.drawn {
            let Line { time, target, answer, seconds, summary, .. } = &line;
            self.feed.line(format!("{time} {target} {answer} {seconds:.2} s: {summary}"));
        }
        if let Some(row) = self.rows.get_mut(&asked.watched.name) {
            row.answer = Some(asked.answer());
            row.time.clone_from(&line.time);
            row.seconds = format!("{:.2}", line.seconds);
            if asked.answer() == Answer::Accepted {
                row.accepted.clone_from(&line.time);
            }
            row.summary = line.summary;
        }
    }

    /// The table: of many targets those first that are not accepted, and no more than can be read.
    fn table(&self) -> String {
        let headings = ["TARGET", "ADDRESS", "ANSWER", "SECONDS>", "ASKED", "LAST ACCEPTED", ""];
        let mut all: Vec<(&String, &Row)> = self.rows.iter().collect();
        if all.len() > MOST_ROWS {
            all.sort_by_key(|(_, row)| match row.answer {
                Some(Answer::Accepted) => 2,
                None => 1,
                Some(_) => 0,
            });
        }
        let more = all.len().saturating_sub(MOST_ROWS);
        all.truncate(MOST_ROWS);
        let rows = all.iter().map(|(name, row)| {
            let answer = row.answer.map_or("", Answer::name).to_owned();
            let summary: String = row.summary.chars().take(60).collect();
            let Row { address, seconds, time, accepted, .. } = row;
            let [address, seconds, time, accepted] =
                [address, seconds, time, accepted].map(String::clone);
            vec![(*name).clone(), address, answer, seconds, time, accepted, summary]
        });
        let table = printer::table(&headings, rows);
        let answers = std::iter::once(None).chain(all.iter().map(|(_, row)| row.answer));
        let toned = table.lines().zip(answers).map(|(line, answer)| match answer {
            Some(Answer::Accepted) => printer::toned(Tone::Good, line),
            Some(Answer::Unreachable) => printer::toned(Tone::Warn, line),
            Some(_) => printer::toned(Tone::Bad, line),
            None => line.to_owned(),
        });
        let mut lines: Vec<String> = toned.collect();
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.join("\n")
    }

    /// The worst of what was seen last: not genuine, not acceptable, then not reached.
    fn outcome(&self) -> Outcome {
        let seen = |answer| self.rows.values().any(|row| row.answer == Some(answer));
        if seen(Answer::NotGenuine) {
            return Outcome::Refused(2);
        }
        if seen(Answer::NotAcceptable) {
            return Outcome::Refused(3);
        }
        if seen(Answer::Unreachable) { Outcome::Refused(1) } else { Outcome::Done }
    }
}

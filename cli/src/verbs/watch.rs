//! `verify --watch`: a fleet of VMs, verified over and over.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

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
use crate::outcome::Outcome;
use crate::printer::{self, Tone};
use crate::verbs::release as signed;

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
    let mut board = Board::new(args.output.format);
    let _changes = follow(&args.targets, &flags);
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
    if flags.stop.load(Ordering::Relaxed) {
        return Ok(Outcome::Done);
    }
    Ok(board.outcome())
}

/// Asks for a reload whenever the file has changed.
fn follow(path: &Path, flags: &Flags) -> std::thread::JoinHandle<()> {
    let (path, stop, reload) =
        (path.to_owned(), Arc::clone(&flags.stop), Arc::clone(&flags.reload));
    let state = move || -> Option<(SystemTime, u64)> {
        let metadata = fs::metadata(&path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    let mut last = state();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(500));
            let now = state();
            // A file that is being replaced is not there for a moment.
            if now.is_some() && now != last {
                last = now;
                reload.store(true, Ordering::Relaxed);
            }
        }
    })
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
    drawn: bool,
}

impl Board {
    fn new(format: Format) -> Self {
        let drawn = format == Format::Table && std::io::stdout().is_terminal();
        Self { rows: BTreeMap::new(), format, drawn }
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
            Event::Quiet => return,
        }
        if self.drawn {
            printer::screen(&self.table());
        }
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
        if !self.drawn {
            printer::say(&format!("watching {} targets", watched.len()));
        }
    }

    fn asked(&mut self, asked: &Asked) {
        let line = Line::new(asked);
        if self.format == Format::Json {
            printer::json_line(&line);
        } else if !self.drawn {
            let Line { time, target, answer, seconds, summary, .. } = &line;
            printer::line(&format!("{time} {target} {answer} {seconds:.2} s: {summary}"));
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

    fn table(&self) -> String {
        let headings = ["TARGET", "ADDRESS", "ANSWER", "SECONDS>", "ASKED", "LAST ACCEPTED", ""];
        let rows = self.rows.iter().map(|(name, row)| {
            let answer = row.answer.map_or("", Answer::name).to_owned();
            let summary: String = row.summary.chars().take(60).collect();
            let Row { address, seconds, time, accepted, .. } = row;
            let [address, seconds, time, accepted] =
                [address, seconds, time, accepted].map(String::clone);
            vec![name.clone(), address, answer, seconds, time, accepted, summary]
        });
        let table = printer::table(&headings, rows);
        let toned = table.lines().enumerate().map(|(at, line)| {
            let row = at.checked_sub(1).and_then(|at| self.rows.values().nth(at));
            match row.and_then(|row| row.answer) {
                Some(Answer::Accepted) => printer::toned(Tone::Good, line),
                Some(Answer::Unreachable) => printer::toned(Tone::Warn, line),
                Some(_) => printer::toned(Tone::Bad, line),
                None => line.to_owned(),
            }
        });
        toned.collect::<Vec<_>>().join("\n")
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

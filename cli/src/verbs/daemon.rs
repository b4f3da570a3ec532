//! What is asked of the daemon: `status`, `events`, `start`, `forget`, and the daemon's part of
//! `run`, `ps` and `stop`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use casemate_launcher::plan::{LaunchPlan, SSH_PORT};
use casemate_launcher::progress::{Event as Step, Progress};
use casemate_launcher::serve::client::{Client, ClientError};
use casemate_launcher::serve::restart::Restart;
use casemate_launcher::serve::view::VmView;
use casemate_launcher::serve::{self, Doing, Event, EventKind, RunRequest};
use casemate_launcher::state::{StageCode, VmName, VmState};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::platform::Platform;
use casemate_measurements::stage::Stage;

use crate::args::{Daemon, DaemonArgs, EventsArgs, Format, NamedArgs, StatusArgs};
use crate::outcome::{Hinted, Outcome};
use crate::printer;

/// Seconds that one question for events waits.
const WAIT: u64 = 30;

/// The daemon, if it is to be asked.
pub(crate) fn find(args: &DaemonArgs) -> anyhow::Result<Option<Client>> {
    if args.daemon == Daemon::Never {
        return Ok(None);
    }
    let socket = args.socket.clone().or_else(serve::find_socket);
    let client = socket.as_deref().map(Client::new);
    match (client, args.daemon) {
        (Some(client), Daemon::Always) => Ok(Some(client)),
        // A socket that a killed daemon left is nobody.
        (Some(client), _) => Ok(client.host().is_ok().then_some(client)),
        (None, Daemon::Always) => Err(nobody()),
        (None, _) => Ok(None),
    }
}

fn nobody() -> anyhow::Error {
    let error = anyhow::anyhow!("no daemon serves here: its socket is not there");
    Hinted::new(error, "start it with `casemate serve`, or name it with --socket").into()
}

fn at(socket: Option<&PathBuf>) -> anyhow::Result<Client> {
    let socket = socket.cloned().or_else(serve::find_socket).ok_or_else(nobody)?;
    Ok(Client::new(&socket))
}

/// An answer of the daemon, or its refusal with its hint.
fn heard<T>(answer: Result<T, ClientError>) -> anyhow::Result<T> {
    answer.map_err(|error| match &error {
        ClientError::Refused { hint: Some(hint), .. } => {
            let hint = hint.clone();
            Hinted::new(error, hint).into()
        }
        _ => error.into(),
    })
}

/// Has a plan executed and follows its boot.
pub(crate) fn run(
    client: &Client,
    plan: &LaunchPlan,
    release: &Path,
    restart: Restart,
    tell: &mut dyn FnMut(&Progress),
) -> anyhow::Result<VmState> {
    let last = heard(client.host())?.last_event;
    let release = release.to_str().context("the release's path is not UTF-8")?.to_owned();
    let plan_json = serde_json::to_value(plan)?;
    let request = RunRequest { schema: RunRequest::SCHEMA, release, plan: plan_json, restart };
    let view = heard(client.run(&request))?;
    follow(client, &view.name, last, tell)
}

/// Follows the boot of a VM until it is up or is not.
fn follow(
    client: &Client,
    name: &VmName,
    mut last: u64,
    tell: &mut dyn FnMut(&Progress),
) -> anyhow::Result<VmState> {
    loop {
        for event in heard(client.events(Some(last), Some(name), WAIT))? {
            last = event.id;
            match event.kind {
                EventKind::Running => {
                    let view = heard(client.status(name))?;
                    if let Some(state) = view.state {
                        return Ok(state);
                    }
                }
                EventKind::Failed
                | EventKind::Ended
                | EventKind::Stopped
                | EventKind::Quarantined => {
                    let view = heard(client.status(name))?;
                    let error = anyhow::anyhow!("{name} did not come up: {}", event.text);
                    let hint = view.hint.unwrap_or_else(|| next(view.doing));
                    return Err(Hinted::new(error, hint).into());
                }
                _ => tell_event(&event, client, name, tell),
            }
        }
    }
}

fn next(doing: Doing) -> String {
    match doing {
        Doing::Waiting | Doing::Starting | Doing::Booting => {
            "it is tried again; `casemate events` says how it goes".to_owned()
        }
        _ => "`casemate events` says what happened".to_owned(),
    }
}

fn tell_event(event: &Event, client: &Client, name: &VmName, tell: &mut dyn FnMut(&Progress)) {
    let told = || client.status(name).ok().and_then(|view| view.state);
    let progress = match (event.kind, event.stage.and_then(Stage::from_code)) {
        (EventKind::QemuStarted, _) => told()
            .map(|state| Progress { at_ms: 0, event: Step::QemuStarted { accel: state.accel } }),
        (EventKind::Stage, Some(stage)) => {
            let at_ms = told().and_then(|state| state.reached_ms.get(&stage.code()).copied());
            let event = Step::Stage { stage: StageCode(stage) };
            Some(Progress { at_ms: at_ms.unwrap_or(0), event })
        }
        _ => None,
    };
    if let Some(progress) = progress {
        tell(&progress);
    }
}

/// A row of the table of VMs.
pub(crate) fn row(view: &VmView) -> Vec<String> {
    let state = view.state.as_ref();
    let port = |guest| state.and_then(|state| state.host_port(guest));
    let evidence = port(casemate_measurements::evidence::PORT);
    let live = view.doing.is_live();
    vec![
        view.name.to_string(),
        doing(view),
        view.release.clone(),
        platform(view.platform).to_owned(),
        evidence.filter(|_| live).map(|port| format!("127.0.0.1:{port}")).unwrap_or_default(),
        port(SSH_PORT).filter(|_| live).map(|port| port.to_string()).unwrap_or_default(),
    ]
}

fn platform(platform: Platform) -> &'static str {
    match platform {
        Platform::Snp => "snp",
        Platform::Simulated => "SIMULATED",
    }
}

/// What a VM is doing, and why.
fn doing(view: &VmView) -> String {
    let stage = view.state.as_ref().and_then(|state| state.stage);
    let reason = || view.reason.clone().unwrap_or_default();
    match view.doing {
        Doing::Booting => {
            let stage = stage.map_or("firmware and kernel", |stage| stage.0.text());
            format!("booting: {stage}")
        }
        Doing::Waiting | Doing::Ended | Doing::Stopped | Doing::Quarantined => {
            let text: String = reason().chars().take(60).collect();
            format!("{}: {text}", view.doing.name())
        }
        _ => view.doing.name().to_owned(),
    }
}

/// Prints what there is to know of one VM.
pub(crate) fn status(args: &StatusArgs) -> anyhow::Result<Outcome> {
    let name: VmName = args.name.parse()?;
    let Some(client) = find(&args.daemon)? else { return super::run::status_alone(&name, args) };
    let view = heard(client.status(&name))?;
    match args.output.format {
        Format::Json => printer::json(&view)?,
        Format::Table => printer::line(&text(&view))?,
    }
    Ok(Outcome::Done)
}

fn text(view: &VmView) -> String {
    let mut rows = vec![
        ("name", view.name.to_string()),
        ("state", doing(view)),
        ("since", time(view.since_ms)),
        ("release", format!("{} ({})", view.release, view.release_dir)),
        ("platform", platform(view.platform).to_owned()),
        ("shape", view.shape.clone()),
        ("memory", format!("{} MiB", view.memory_mib)),
        ("measurement", view.measurement.to_string()),
        ("host data", view.host_data.to_string()),
    ];
    if let Some(reason) = &view.reason {
        rows.push(("reason", reason.clone()));
    }
    if let Some(hint) = &view.hint {
        rows.push(("hint", hint.clone()));
    }
    let (when, row) = (&view.restart.when, view.ends_in_a_row);
    let when = serde_json::to_value(when).unwrap_or_default();
    let when = when.as_str().unwrap_or_default();
    let limit = view.restart.limit;
    rows.push((
        "restart",
        format!("{when}, {} so far, {row} of {limit} ends in a row", view.restarts),
    ));
    if let Some(at) = view.next_at_ms {
        rows.push(("next start", time(at)));
    }
    if let Some(state) = view.state.as_ref().filter(|_| view.doing.is_live()) {
        let [evidence, ssh] = [casemate_measurements::evidence::PORT, SSH_PORT].map(|guest| {
            state.host_port(guest).map_or(String::new(), |p| format!("127.0.0.1:{p}"))
        });
        rows.extend([("evidence", evidence), ("ssh", ssh)]);
        for (code, ms) in &state.reached_ms {
            let stage = Stage::from_code(*code).map_or("unknown", Stage::text);
            rows.push((
                "stage",
                format!("{:>8.2} s  {stage}", Duration::from_millis(*ms).as_secs_f64()),
            ));
        }
    }
    let lines = rows.iter().map(|(key, value)| format!("{key:<12} {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn time(ms: u64) -> String {
    UnixTime(ms / 1000).to_string()
}

/// Prints what happened, and what happens.
pub(crate) fn events(args: &EventsArgs) -> anyhow::Result<Outcome> {
    let client = at(args.socket.as_ref())?;
    let name: Option<VmName> = args.name.as_deref().map(str::parse).transpose()?;
    let mut events = heard(client.events(args.after, name.as_ref(), 0))?;
    let mut last = args.after.unwrap_or(0);
    if !args.follow {
        match args.output.format {
            Format::Json => printer::json(&events)?,
            Format::Table => {
                let headings = ["NUMBER>", "TIME", "VM", "EVENT", ""];
                printer::line(&printer::table(&headings, events.iter().map(event_row)))?;
            }
        }
        return Ok(Outcome::Done);
    }
    loop {
        for event in events {
            last = event.id;
            match args.output.format {
                Format::Json => printer::json_line(&event)?,
                Format::Table => {
                    let row = event_row(&event);
                    printer::line(&format!(
                        "{}  {:<20}  {:<13}  {}",
                        row[1], row[2], row[3], row[4]
                    ))?;
                }
            }
        }
        events = match client.events(Some(last), name.as_ref(), WAIT) {
            Ok(events) => events,
            // It is being started again.
            Err(ClientError::Connect { .. } | ClientError::Broken { .. }) => {
                thread::sleep(Duration::from_millis(500));
                Vec::new()
            }
            refused => heard(refused)?,
        };
    }
}

fn event_row(event: &Event) -> Vec<String> {
    let kind = serde_json::to_value(event.kind).unwrap_or_default();
    let kind = kind.as_str().unwrap_or_default().to_owned();
    let vm = event.vm.clone().unwrap_or_default();
    vec![event.id.to_string(), time(event.at_ms), vm, kind, event.text.clone()]
}

/// Has a VM stopped, and waits until it is.
pub(crate) fn stop(client: &Client, name: &VmName, timeout: Duration) -> anyhow::Result<Outcome> {
    let mut last = heard(client.host())?.last_event;
    let mut view = heard(client.stop(name, timeout))?;
    loop {
        // What happened before it stopped is told before that.
        let wait = if view.doing.is_live() { WAIT } else { 0 };
        for event in heard(client.events(Some(last), Some(name), wait))? {
            last = event.id;
            if event.kind == EventKind::Stopping {
                printer::say(&format!("{name}: {}", event.text));
            }
        }
        if !view.doing.is_live() {
            break;
        }
        view = heard(client.status(name))?;
    }
    printer::say(&format!("{name}: {}", doing(&view)));
    Ok(Outcome::Done)
}

/// Has a known VM started again.
pub(crate) fn start(args: &NamedArgs, tell: &mut dyn FnMut(&Progress)) -> anyhow::Result<Outcome> {
    let client = at(args.socket.as_ref())?;
    let name: VmName = args.name.parse()?;
    let last = heard(client.host())?.last_event;
    heard(client.start(&name))?;
    follow(&client, &name, last, tell)?;
    Ok(Outcome::Done)
}

/// Has a VM forgotten.
pub(crate) fn forget(args: &NamedArgs) -> anyhow::Result<Outcome> {
    let client = at(args.socket.as_ref())?;
    heard(client.forget(&args.name.parse()?))?;
    Ok(Outcome::Done)
}

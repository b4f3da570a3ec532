//! `run`, `ps`, `stop`: VMs on this host, through the daemon where one serves.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use casemate_launcher::authority::{Authority, ROOT_FILE};
use casemate_launcher::host::HostFacts;
use casemate_launcher::launch_file::LaunchFile;
use casemate_launcher::machine::Memory;
use casemate_launcher::plan::{AccelChoice, LaunchPlan, LaunchRequest, PlanError, SSH_PORT};
use casemate_launcher::progress::{Event, Progress};
use casemate_launcher::release::Release;
use casemate_launcher::serve::client::Client;
use casemate_launcher::serve::restart::{Restart, When};
use casemate_launcher::state::{Phase, StateRoot, VmName, VmState};
use casemate_launcher::topology::{GpuChoice, GpuRequest};
use casemate_launcher::{Listed, StartError, SupervisorCommand};
use casemate_measurements::evidence;
use casemate_measurements::hash::{HostData, LaunchDigest};
use casemate_measurements::launch::VcpuCount;
use casemate_measurements::platform::Platform;
use casemate_measurements::ssh_key::key_lines;
use casemate_measurements::stage::Stage;
use serde::Serialize;

use super::daemon;
use crate::args::{
    Accel, Format, Mebibytes, OutputArgs, PsArgs, RestartWhen, RunArgs, StatusArgs, StopArgs,
};
use crate::outcome::{HintExt as _, Hinted, Outcome};
use crate::printer::{self, Tone};
use crate::verbs::release as signed;
use crate::verbs::release::channel::Following;
use crate::verbs::release::store::locate;

/// Boots a release, or prints how it would be booted.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Outcome> {
    let file = args.config.as_deref().map(LaunchFile::read).transpose()?.unwrap_or_default();
    let following = Following {
        signers: args.signers.as_deref(),
        platform: platform(args, &file),
        memory: &args.memory_of_indexes,
    };
    let Some(dir) = locate(&args.release, &args.fetch, following)? else {
        return Ok(Outcome::Refused(signed::NOT_TRUSTED));
    };
    // This holds every file to the manifest.
    let release = Release::open(&dir)?;
    if let Some(signers) = &args.signers
        && !signed::is_signed(&dir, release.manifest_sha256(), &signed::policy(signers)?)?
    {
        return Ok(Outcome::Refused(signed::NOT_TRUSTED));
    }
    let client = daemon::find(&args.daemon)?;
    let host_view = client.as_ref().map(Client::host).transpose()?;
    let state = match &host_view {
        Some(view) => StateRoot::of_daemon(Path::new(&view.state_root)),
        None => StateRoot::from_environment()?,
    };
    let known = client.as_ref().map(Client::list).transpose()?.unwrap_or_default();
    let known: Vec<VmName> = known.into_iter().map(|view| view.name).collect();
    let restart = restart(args, file.restart);
    let request = request(args, file, &release, &state, known)?;
    let mut host = HostFacts::probe(Path::new("/"), &state, None)?;
    if request.gpus.is_some() {
        host.gpus = Some(Box::new(super::devices::offer(&host)?));
    }
    let paths = state.vm(&request.name)?;
    let plan = LaunchPlan::new(&release, &request, &host, &paths).map_err(hinted)?;
    if args.plan {
        match args.output.format {
            Format::Table => printer::line(plan.to_string().trim_end())?,
            Format::Json => printer::json(&plan)?,
        }
        return Ok(Outcome::Done);
    }
    let state = if let Some(client) = client {
        daemon::run(&client, &plan, release.dir(), restart, &mut tell)?
    } else {
        let supervisor =
            SupervisorCommand::this_program().context("cannot tell which program this is")?;
        let started = casemate_launcher::start(&plan, &supervisor, &mut tell);
        started.map_err(with_hint)?.state
    };
    let report = Report::new(&state, release.dir());
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.text())?,
    }
    Ok(Outcome::Done)
}

/// The platform that was typed, else the file's.
fn platform(args: &RunArgs, file: &LaunchFile) -> Platform {
    args.platform.or(file.platform).unwrap_or(Platform::Snp)
}

/// A refusal with its hint.
fn hinted(error: PlanError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error, hint).into(),
        None => error.into(),
    }
}

/// A failed start with what the supervisor said would help.
fn with_hint(error: StartError) -> anyhow::Error {
    match &error {
        StartError::Failed { hint: Some(hint), .. } => {
            let hint = hint.clone();
            Hinted::new(error, hint).into()
        }
        _ => error.into(),
    }
}

/// What becomes of the VM when it ends: what was typed, else what the file says.
fn restart(args: &RunArgs, file: Option<Restart>) -> Restart {
    let usual = file.unwrap_or_default();
    let when = match args.restart {
        Some(RestartWhen::Never) => When::Never,
        Some(RestartWhen::OnFailure) => When::OnFailure,
        Some(RestartWhen::Always) => When::Always,
        None => usual.when,
    };
    Restart { when, limit: args.restart_limit.unwrap_or(usual.limit), ..usual }
}

/// What was typed, else what the file says, else what is usual, as the launcher's words.
fn request(
    args: &RunArgs,
    file: LaunchFile,
    release: &Release,
    state: &StateRoot,
    known: Vec<VmName>,
) -> anyhow::Result<LaunchRequest> {
    let platform = platform(args, &file);
    let name = match (&args.name, file.name) {
        (Some(name), _) => name.parse()?,
        (None, Some(name)) => name,
        (None, None) => free_name(&release.manifest().release.name, state, known)?,
    };
    let ssh_keys = if args.ssh_key.is_empty() {
        [file.ssh_keys, public_keys(&file.ssh_key_files)?].concat()
    } else {
        public_keys(&args.ssh_key)?
    };
    if ssh_keys.is_empty() {
        let error = anyhow::anyhow!("no SSH key may log in, expected one at least");
        return Err(error)
            .hint("name a public key file: --ssh-key, or ssh_key_files in launch.toml");
    }
    let wanted = (args.ssh_port.or(file.ssh_port), args.evidence_port.or(file.evidence_port));
    let (ssh_port, evidence_port) = ports(wanted)?;
    let cpus = args.cpus.map(|count| VcpuCount::new(count.into())).transpose()?;
    let memory = |wanted: Mebibytes| -> anyhow::Result<Memory> {
        Ok(Memory::from_mib(u32::try_from(wanted.0)?)?)
    };
    let memory = args.memory.map(memory).transpose()?;
    let model = args.cpu_model.as_deref().map(str::parse).transpose()?;
    Ok(LaunchRequest {
        name,
        platform,
        vcpus: cpus.or(file.cpus).map_or_else(|| VcpuCount::new(2), Ok)?,
        cpu_model: model.or(file.cpu_model),
        memory: memory.or(file.memory).map_or_else(|| Memory::from_mib(2048), Ok)?,
        ssh_keys,
        ssh_port,
        evidence_port,
        network: file.network.unwrap_or_default(),
        gpus: gpus(args, file.gpus),
        accel: match args.accel {
            Some(Accel::Auto) => AccelChoice::Auto,
            Some(Accel::Kvm) => AccelChoice::Kvm,
            Some(Accel::Tcg) => AccelChoice::Tcg,
            None => file.accel.unwrap_or_default(),
        },
        timeouts: None,
        extra_disks: Vec::new(),
        consoles: Vec::new(),
    })
}

/// The GPUs that were typed, else those of the file.
fn gpus(args: &RunArgs, file: Option<GpuRequest>) -> Option<GpuRequest> {
    let choice = match args.gpus {
        Some(count) => GpuChoice::Any { family: args.gpu_family.clone(), count },
        None if args.gpu.is_empty() => return file,
        None => GpuChoice::These(args.gpu.clone()),
    };
    Some(GpuRequest { choice, board: file.and_then(|file| file.board) })
}

/// The keys in public key files, a line each.
pub(crate) fn public_keys(files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the public key {}", path.display()))
            .hint("make a key pair with `ssh-keygen -t ed25519` and name its .pub file")?;
        let keys = key_lines(&text);
        all.extend(keys.with_context(|| format!("the key file {} is refused", path.display()))?);
    }
    Ok(all)
}

/// The release's name, with the first number behind it that no VM has.
fn free_name(release: &str, state: &StateRoot, known: Vec<VmName>) -> anyhow::Result<VmName> {
    let base: String = release
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(48)
        .collect();
    let taken = if known.is_empty() { state.names()? } else { known };
    let mut name: VmName = base.trim_matches('-').parse()?;
    let mut number = 1_u32;
    while taken.contains(&name) {
        number += 1;
        name = format!("{}-{number}", base.trim_matches('-')).parse()?;
    }
    Ok(name)
}

/// The ports asked for, or free ones; both are held until both are known.
fn ports((ssh, evidence): (Option<u16>, Option<u16>)) -> anyhow::Result<(u16, u16)> {
    let mut held = Vec::new();
    let mut port =
        |wanted: Option<u16>| -> anyhow::Result<u16> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted.unwrap_or(0)))
                .with_context(|| match wanted {
                    Some(port) => format!("port {port} of 127.0.0.1 cannot be used"),
                    None => "no free port on 127.0.0.1".to_owned(),
                })?;
            let port = listener.local_addr()?.port();
            held.push(listener);
            Ok(port)
        };
    Ok((port(ssh)?, port(evidence)?))
}

/// Says how the boot goes.
pub(super) fn tell(progress: &Progress) {
    let seconds = Duration::from_millis(progress.at_ms).as_secs_f64();
    let text = match &progress.event {
        Event::MakingSimulatedRoot => "making the SIMULATED root of this user, once".to_owned(),
        Event::TakingDevices { count } => format!("taking {count} GPUs and switches"),
        Event::QemuStarted { accel } => format!("QEMU started with {accel}"),
        Event::KvmBroken { reason } => {
            return printer::warn(&format!("KVM does not run this VM ({reason}); trying TCG"));
        }
        Event::Stage { stage } => stage.0.text().to_owned(),
        Event::Ready { .. } | Event::Failed { .. } => return,
    };
    printer::say(&format!("{seconds:>8.2} s  {text}"));
}

/// A stage and when it was reached.
#[derive(Debug, Serialize)]
struct Reached {
    code: u8,
    text: &'static str,
    /// Since QEMU's start.
    seconds: f64,
}

/// A running VM, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    release: String,
    platform: Platform,
    accel: String,
    evidence_address: String,
    ssh_port: u16,
    measurement: LaunchDigest,
    host_data: HostData,
    stages: Vec<Reached>,
    #[serde(skip)]
    dir: String,
}

impl Report {
    fn new(state: &VmState, dir: &Path) -> Self {
        let reached = state.reached_ms.iter().filter_map(|(code, ms)| {
            let text = Stage::from_code(*code)?.text();
            Some(Reached { code: *code, text, seconds: Duration::from_millis(*ms).as_secs_f64() })
        });
        Self {
            name: state.name.to_string(),
            release: state.release.clone(),
            platform: state.platform,
            accel: state.accel.to_string(),
            evidence_address: address(state),
            ssh_port: state.host_port(SSH_PORT).unwrap_or(0),
            measurement: state.digest,
            host_data: state.host_data,
            stages: reached.collect(),
            dir: dir.display().to_string(),
        }
    }

    fn text(&self) -> String {
        let (dir, address, port) = (&self.dir, &self.evidence_address, self.ssh_port);
        let mut lines =
            vec![format!("name         {}", self.name), format!("release      {}", self.release)];
        if address.is_empty() {
            lines.push(format!("evidence     the VM's own address, port {}", evidence::PORT));
        } else {
            lines.push(format!("evidence     https://{address}"));
            lines.push(format!("ssh port     {port}"));
        }
        lines.push(format!("measurement  {}", self.measurement));
        let trust = match self.platform {
            Platform::Snp => "",
            Platform::Simulated => {
                lines.push(printer::toned(Tone::Warn, "SIMULATED: this VM proves nothing"));
                " --trust-simulated $(casemate simulated-root)"
            }
        };
        if !address.is_empty() {
            let ssh = format!("casemate ssh {address} -p {port} --release {dir}{trust}");
            lines.push(format!("connect      {ssh}"));
        }
        lines.join("\n")
    }
}

fn address(state: &VmState) -> String {
    match state.host_port(evidence::PORT) {
        Some(port) => format!("127.0.0.1:{port}"),
        None => String::new(),
    }
}

/// Lists the daemon's VMs, or this user's.
pub(crate) fn ps(args: &PsArgs) -> anyhow::Result<Outcome> {
    let headings = ["NAME", "STATE", "RELEASE", "PLATFORM", "EVIDENCE", "SSH PORT>"];
    if let Some(client) = daemon::find(&args.daemon)? {
        let views = client.list()?;
        match args.output.format {
            Format::Json => printer::json(&views)?,
            Format::Table => {
                printer::line(&printer::table(&headings, views.iter().map(daemon::row)))?;
            }
        }
        return Ok(Outcome::Done);
    }
    let listed = casemate_launcher::list(&StateRoot::from_environment()?)?;
    match args.output.format {
        Format::Json => printer::json(&listed)?,
        Format::Table => printer::line(&printer::table(&headings, listed.iter().map(row)))?,
    }
    Ok(Outcome::Done)
}

/// What a VM's own directory says of it, without the daemon.
pub(super) fn status_alone(name: &VmName, args: &StatusArgs) -> anyhow::Result<Outcome> {
    let listed = casemate_launcher::list(&StateRoot::from_environment()?)?;
    let found = listed.into_iter().find(|vm| vm.name == *name);
    let vm = found
        .with_context(|| format!("no VM named {name} runs"))
        .hint("`casemate ps` lists the VMs of this user")?;
    match args.output.format {
        Format::Json => printer::json(&vm)?,
        Format::Table => {
            let keys = ["name", "state", "release", "platform", "evidence", "ssh port"];
            let rows = keys.iter().zip(row(&vm)).map(|(key, value)| format!("{key:<12} {value}"));
            let mut lines: Vec<String> = rows.collect();
            if let Some(state) = &vm.state {
                lines.push(format!("{:<12} {}", "measurement", state.digest));
                lines.push(format!("{:<12} {}", "host data", state.host_data));
            }
            printer::line(&lines.join("\n"))?;
        }
    }
    Ok(Outcome::Done)
}

fn row(vm: &Listed) -> Vec<String> {
    let name = vm.name.to_string();
    let Some(state) = &vm.state else {
        return vec![name, if vm.alive { "starting" } else { "dead" }.into()];
    };
    let phase = match &state.phase {
        Phase::Ended { reason, .. } => format!("ended: {reason}"),
        _ if !vm.alive => "dead: its supervisor is gone".to_owned(),
        Phase::Running => "running".to_owned(),
        Phase::Booting => match state.stage {
            Some(reached) => format!("booting: {}", reached.0.text()),
            None => "booting: firmware and kernel".to_owned(),
        },
    };
    let platform = match state.platform {
        Platform::Snp => "snp",
        Platform::Simulated => "SIMULATED",
    };
    let port = state.host_port(SSH_PORT).map(|port| port.to_string()).unwrap_or_default();
    vec![name, phase, state.release.clone(), platform.into(), address(state), port]
}

/// Stops a VM.
pub(crate) fn stop(args: &StopArgs) -> anyhow::Result<Outcome> {
    let name: VmName = args.name.parse()?;
    let timeout = Duration::from_secs(args.timeout);
    if let Some(client) = daemon::find(&args.daemon)? {
        return daemon::stop(&client, &name, timeout);
    }
    let state = StateRoot::from_environment()?;
    let mut tell = |step| printer::say(&format!("{name}: {step}"));
    let how = casemate_launcher::stop(&state, &name, timeout, &mut tell)
        .hint("`casemate ps` lists the VMs of this user")?;
    printer::say(&format!("{name}: stopped: {how}"));
    Ok(Outcome::Done)
}

/// Watches over one VM until it ends.
pub(crate) fn supervise(dir: &Path) -> anyhow::Result<Outcome> {
    casemate_launcher::supervise(dir)?;
    Ok(Outcome::Done)
}

/// Prints where this user's simulated root certificate lies, making it when there is none.
pub(crate) fn simulated_root(output: OutputArgs) -> anyhow::Result<Outcome> {
    #[derive(Serialize)]
    struct Root {
        simulated: bool,
        path: String,
    }
    let dir = Authority::default_dir()?;
    Authority::open_or_make(&dir)?;
    let path = dir.join(ROOT_FILE).display().to_string();
    match output.format {
        Format::Json => printer::json(&Root { simulated: true, path })?,
        Format::Table => printer::line(&path)?,
    }
    Ok(Outcome::Done)
}

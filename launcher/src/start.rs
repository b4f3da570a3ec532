//! Starting, listing and stopping VMs: what a person asks for, carried out through the
//! supervisor of each VM.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::patience;
use crate::plan::LaunchPlan;
use crate::process;
use crate::progress::{Event, Progress};
use crate::state::{self, StateError, StateRoot, VmName, VmPaths, VmState};
use crate::stopping::{StopStep, Stopped, Word};
use crate::watch;

const TICK: Duration = Duration::from_millis(20);
/// How long a supervisor may take to report for duty; one that ends is not waited for, so only a
/// host that is overloaded takes long.
const REPORT_FOR_DUTY: Duration = Duration::from_mins(1);
/// How long a supervisor may take to clean up behind QEMU: twelve devices are reset.
const CLEAN_UP: Duration = Duration::from_secs(90);
/// Most bytes of one line of progress.
const MAX_LINE: u64 = 1024 * 1024;
/// Most bytes of what a supervisor says of an order to stop.
const MAX_ANSWER: u64 = 4096;
/// The sector that disks are made of.
const SECTOR: usize = 512;

/// Why a VM was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The name is taken.
    #[error("a VM named {name} runs already: stop it or choose another name")]
    NameTaken {
        /// The name.
        name: VmName,
    },
    /// State cannot be kept.
    #[error("cannot keep the state of the VM")]
    State(#[from] StateError),
    /// The supervisor cannot be started.
    #[error("cannot start the supervisor {}", program.display())]
    Supervisor {
        /// What was started.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The supervisor cannot be listened to.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The supervisor ended without a word.
    #[error("the supervisor of {name} ended without a word ({status})")]
    Silent {
        /// The VM.
        name: VmName,
        /// How it ended, or that it did not.
        status: String,
    },
    /// The VM did not come up.
    #[error("{name} did not come up: {message}")]
    Failed {
        /// The VM.
        name: VmName,
        /// Why: the supervisor's errors, causes last.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// Why a VM was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// No such VM runs.
    #[error("no VM named {name} runs")]
    NotRunning {
        /// The name.
        name: VmName,
    },
    /// State cannot be read.
    #[error("cannot read the state of the VM")]
    State(#[from] StateError),
    /// It still runs after all that can be done.
    #[error("{name} still runs, although its supervisor and QEMU were killed")]
    StillRunning {
        /// The name.
        name: VmName,
    },
}

/// The program that becomes a VM's supervisor by calling [`crate::supervise()`] with the
/// directory that is its last argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupervisorCommand {
    /// The program.
    pub program: PathBuf,
    /// What comes before the directory.
    pub arguments: Vec<OsString>,
    /// Variables set for it beside the caller's own.
    pub environment: Vec<(OsString, OsString)>,
}

impl SupervisorCommand {
    /// This program with the verb `supervise`.
    ///
    /// # Errors
    /// When the system does not say which program this is.
    pub fn this_program() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Self { program, arguments: vec!["supervise".into()], environment: Vec::new() })
    }
}

/// A VM that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunningVm {
    /// What it is.
    pub state: VmState,
    /// Where its state lies.
    pub paths: VmPaths,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The VM's name.
    pub name: VmName,
    /// Whether its supervisor lives. One that does not is forgotten once it was listed.
    pub alive: bool,
    /// What it last was; `None` for one that is only being started.
    pub state: Option<VmState>,
}

/// Executes a plan and waits until the VM is up. `progress` hears how it goes.
///
/// # Errors
/// When the name is taken or the VM does not come up; nothing of it is left then.
pub fn start(
    plan: &LaunchPlan,
    supervisor: &SupervisorCommand,
    progress: &mut dyn FnMut(&Progress),
) -> Result<RunningVm, StartError> {
    let paths = &plan.paths;
    let lock = prepare(plan)?;
    let forget = Forget(Some(paths));
    let path = paths.start_socket();
    let listen = |source| StartError::Listen { path: path.clone(), source };
    let listener = UnixListener::bind(&path).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let mut child = spawn(plan, supervisor, lock)?;
    let result = connect(&listener, &mut child, &plan.name)
        .and_then(|stream| follow(stream, &mut child, &plan.name, progress));
    match result {
        Ok(state) => {
            forget.disarm();
            Ok(RunningVm { state, paths: paths.clone() })
        }
        Err(error) => {
            // It gives up by itself when nobody listens any more; this makes it certain.
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Starts the supervisor of a plan and waits for nothing: its state says how it goes.
///
/// # Errors
/// When the name is taken or the supervisor cannot be started; nothing of it is left then.
pub(crate) fn start_detached(
    plan: &LaunchPlan,
    supervisor: &SupervisorCommand,
) -> Result<Child, StartError> {
    let lock = prepare(plan)?;
    let forget = Forget(Some(&plan.paths));
    let child = spawn(plan, supervisor, lock)?;
    forget.disarm();
    Ok(child)
}

/// Takes the name and writes what the supervisor reads; the lock of the name.
fn prepare(plan: &LaunchPlan) -> Result<File, StartError> {
    let paths = &plan.paths;
    let lock = lock_for_start(&paths.root()?, &plan.name)?;
    // Nobody holds the lock, so what is there is what a dead one left.
    paths.remove()?;
    paths.create()?;
    let forget = Forget(Some(paths));
    state::write_file(&paths.launch_disk(), &padded(plan.launch_config.as_bytes()))?;
    state::write_json(&paths.plan(), plan)?;
    forget.disarm();
    Ok(lock)
}

/// Starts the supervisor. The lock is its standard input: it is free when the supervisor is gone.
fn spawn(
    plan: &LaunchPlan,
    supervisor: &SupervisorCommand,
    lock: File,
) -> Result<Child, StartError> {
    let mut command = Command::new(&supervisor.program);
    command.args(&supervisor.arguments).arg(plan.paths.dir());
    command.envs(supervisor.environment.iter().map(|(name, value)| (name, value)));
    command.current_dir("/").stdin(lock).stdout(Stdio::null()).stderr(Stdio::null());
    process::in_own_session(&mut command);
    // The command holds a copy of the lock, and goes; the supervisor has its own.
    command
        .spawn()
        .map_err(|source| StartError::Supervisor { program: supervisor.program.clone(), source })
}

/// Removes a VM's directory unless it came up.
struct Forget<'a>(Option<&'a VmPaths>);

impl Forget<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(paths) = self.0 {
            // What cannot be removed now is removed by the next listing.
            let _ = paths.remove();
        }
    }
}

/// Takes the lock of a name. A listing holds it for a moment, so it is tried for a while.
fn lock_for_start(root: &StateRoot, name: &VmName) -> Result<File, StartError> {
    let until = Instant::now() + Duration::from_millis(300);
    loop {
        if let Some(lock) = root.lock(name)? {
            return Ok(lock);
        }
        if Instant::now() >= until {
            return Err(StartError::NameTaken { name: name.clone() });
        }
        thread::sleep(TICK);
    }
}

/// The launch config as a disk: whole sectors, at least one.
fn padded(config: &[u8]) -> Vec<u8> {
    let mut bytes = config.to_vec();
    bytes.resize(config.len().max(1).next_multiple_of(SECTOR), 0);
    bytes
}

fn connect(
    listener: &UnixListener,
    child: &mut Child,
    name: &VmName,
) -> Result<UnixStream, StartError> {
    let until = Instant::now() + REPORT_FOR_DUTY;
    loop {
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(false).is_ok()
        {
            return Ok(stream);
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(StartError::Silent { name: name.clone(), status: status.to_string() });
        }
        if Instant::now() >= until {
            let status = format!("not heard of for {} s", REPORT_FOR_DUTY.as_secs());
            return Err(StartError::Silent { name: name.clone(), status });
        }
        thread::sleep(TICK);
    }
}

/// Hears the supervisor out until the VM is up or is not.
fn follow(
    stream: UnixStream,
    child: &mut Child,
    name: &VmName,
    progress: &mut dyn FnMut(&Progress),
) -> Result<VmState, StartError> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let read = (&mut reader).take(MAX_LINE).read_line(&mut line);
        let heard = read.ok().filter(|len| *len > 0);
        let heard = heard.and_then(|_| serde_json::from_str::<Progress>(&line).ok());
        let Some(heard) = heard else {
            let status = match child.try_wait() {
                Ok(Some(status)) => status.to_string(),
                _ => "it broke off".to_owned(),
            };
            return Err(StartError::Silent { name: name.clone(), status });
        };
        progress(&heard);
        match heard.event {
            Event::Ready { state } => return Ok(*state),
            Event::Failed { messages, hint } => {
                let message = messages.join(": ");
                return Err(StartError::Failed { name: name.clone(), message, hint });
            }
            _ => {}
        }
    }
}

/// Lists this user's VMs. One that is dead is listed once more and then forgotten.
///
/// # Errors
/// When the state cannot be read.
pub fn list(root: &StateRoot) -> Result<Vec<Listed>, StateError> {
    let mut listed = Vec::new();
    for name in root.names()? {
        let paths = root.vm(&name)?;
        let lock = root.lock(&name)?;
        // A file that is malformed says nothing, but its VM must be listed all the same.
        let state = paths.read_state().unwrap_or_default();
        if lock.is_some() {
            paths.remove()?;
        }
        listed.push(Listed { name, alive: lock.is_none(), state });
    }
    Ok(listed)
}

/// Stops a VM: asks the guest to power off, and after `timeout` ends QEMU; with a `timeout` of
/// zero the guest is not asked. `progress` hears how it goes. Returns how the VM ended.
///
/// # Errors
/// When no such VM runs, or it cannot be stopped.
pub fn stop(
    root: &StateRoot,
    name: &VmName,
    timeout: Duration,
    progress: &mut dyn FnMut(StopStep),
) -> Result<Stopped, StopError> {
    let paths = root.vm(name)?;
    if root.lock(name)?.is_some() {
        paths.remove()?;
        return Err(StopError::NotRunning { name: name.clone() });
    }
    let plan = paths.read_plan().ok().flatten();
    let release =
        |least| plan.as_ref().map_or(least, |p| patience::release(p.machine.memory, least));
    let answer = ask_to_stop(&paths, timeout, release(watch::GRACE) * 3, progress);
    let until = Instant::now() + if answer.is_some() { CLEAN_UP } else { Duration::ZERO };
    if let Some(lock) = wait_for_lock(root, name, until)? {
        paths.remove()?;
        drop(lock);
        return Ok(answer.unwrap_or(Stopped::HadEnded));
    }
    // The supervisor hangs. QEMU dies with it.
    if let Ok(Some(state)) = paths.read_state() {
        state.supervisor.kill();
        if let Some(qemu) = state.qemu {
            qemu.kill();
        }
    }
    match wait_for_lock(root, name, Instant::now() + release(CLEAN_UP))? {
        Some(_lock) => {
            paths.remove()?;
            Ok(Stopped::KilledWithSupervisor)
        }
        None => Err(StopError::StillRunning { name: name.clone() }),
    }
}

/// Has a VM that is being stopped end sooner. What is left of it is removed by who stops it.
pub(crate) fn hasten(paths: &VmPaths, timeout: Duration) {
    let _ = ask_to_stop(paths, timeout, watch::GRACE, &mut |_| ());
}

/// Gives the order and hears the supervisor out; `None` when it says no end.
fn ask_to_stop(
    paths: &VmPaths,
    timeout: Duration,
    release: Duration,
    progress: &mut dyn FnMut(StopStep),
) -> Option<Stopped> {
    let mut stream = UnixStream::connect(paths.control_socket()).ok()?;
    writeln!(stream, "stop {}", timeout.as_millis()).ok()?;
    stream.set_read_timeout(Some(timeout + release)).ok()?;
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match Word::parse(&line) {
            Word::Step(step) => progress(step),
            Word::Stopped(stopped) => return Some(stopped),
        }
    }
}

fn wait_for_lock(
    root: &StateRoot,
    name: &VmName,
    until: Instant,
) -> Result<Option<File>, StateError> {
    loop {
        if let Some(lock) = root.lock(name)? {
            return Ok(Some(lock));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_disks_are_whole_sectors() {
        assert_eq!(padded(b"{}").len(), 512);
        assert_eq!(padded(&[1; 512]).len(), 512);
        assert_eq!(padded(&[1; 513]).len(), 1024);
        assert_eq!(padded(b"").len(), 512);
    }
}

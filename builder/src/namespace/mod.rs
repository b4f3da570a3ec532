//! Runs a program of the tool closure so that its output depends on its inputs alone.
//!
//! The program sees the tool root (read-only), its inputs and outputs under `/work`, an empty
//! `/tmp`, a minimal `/dev`, its own `/proc` and nothing else of this machine: no network, no
//! environment, no host name, no other process. It needs no privilege where the kernel lets
//! users make user namespaces; the caller's user is root inside, and no other user exists.

mod child;
mod watch;

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use watch::Stuck;
pub use watch::{Patience, free_bytes};

/// Where inputs, outputs and the working directory are seen by the program.
pub const WORK: &str = "/work";
/// Bytes that fit into a program's input before it reads.
const PIPE: i32 = 1 << 20;
/// Most bytes of a program's messages that an error repeats.
const TAIL: usize = 4096;

/// Something of this machine that the program may see, at `/work/<name>`.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Path on this machine.
    pub host: PathBuf,
    /// A single name below `/work`.
    pub name: String,
    /// Whether the program may write there.
    pub writable: bool,
}

/// A program to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The assembled tool root.
    pub root: PathBuf,
    /// Absolute path of the program inside it, then its arguments.
    pub argv: Vec<OsString>,
    /// What it may see.
    pub binds: Vec<Bind>,
    /// Variables besides `LANG`, `TZ`, `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Absolute working directory inside.
    pub cwd: String,
    /// How long it may do nothing.
    pub patience: Patience,
    /// A line on its standard error that begins so is a failure, whatever its status says.
    pub failure: Option<&'static str>,
}

/// Why a program of the tool closure did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// A path or argument cannot be handed over.
    #[error("cannot hand {what:?} to a program: it has a NUL byte or is no single name")]
    Argument {
        /// The refused text.
        what: OsString,
    },
    /// The namespace could not be made.
    #[error(
        "cannot run {program} apart from this machine: {step} failed\nhint: building needs user \
         namespaces; as an unprivileged user allow them (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns) or \
         build as root"
    )]
    Setup {
        /// The program.
        program: String,
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The program could not be started or talked to.
    #[error("cannot run {program} in {root}")]
    Start {
        /// The program.
        program: String,
        /// The tool root.
        root: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Feeding the program its input failed.
    #[error("cannot feed {program} its input")]
    Input {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did nothing for too long, and was ended.
    #[error(
        "{argv} used no processor and wrote nothing for {seconds} s, and was ended\n{stderr}\nhint: \
         it waits for what does not come; if the machine had nothing to give it, build again"
    )]
    Still {
        /// The whole command line.
        argv: String,
        /// How long it did nothing.
        seconds: u64,
        /// The end of what it said.
        stderr: String,
    },
    /// It waits for room, and was ended.
    #[error(
        "{argv} was ended: the disk of {} is full\n{stderr}\nhint: make room, or name another cache: \
         CASEMATE_CACHE, --cache",
        path.display()
    )]
    DiskFull {
        /// The whole command line.
        argv: String,
        /// What it writes to.
        path: PathBuf,
        /// The end of what it said.
        stderr: String,
    },
    /// The program failed.
    #[error("{argv} ended with {status}\n{stderr}")]
    Failed {
        /// The whole command line.
        argv: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: String,
    },
}

impl Program {
    /// A program of the tool root `root` without arguments, in `/work`.
    #[must_use]
    pub fn new(root: &Path, program: &str) -> Self {
        Self {
            root: root.to_owned(),
            argv: vec![program.into()],
            binds: Vec::new(),
            env: Vec::new(),
            cwd: WORK.to_owned(),
            patience: Patience::default(),
            failure: None,
        }
    }

    /// Takes a line on standard error that begins with `start` for a failure: for programs that
    /// end with success though they did not succeed.
    #[must_use]
    pub const fn failing_on(mut self, start: &'static str) -> Self {
        self.failure = Some(start);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Shows `host` read-only at `/work/<name>`.
    #[must_use]
    pub fn input(mut self, host: &Path, name: &str) -> Self {
        self.binds.push(Bind { host: host.to_owned(), name: name.to_owned(), writable: false });
        self
    }

    /// Shows `host` writable at `/work/<name>`.
    #[must_use]
    pub fn output(mut self, host: &Path, name: &str) -> Self {
        self.binds.push(Bind { host: host.to_owned(), name: name.to_owned(), writable: true });
        self
    }

    /// Starts the program in `dir`, an absolute path inside.
    #[must_use]
    pub fn in_dir(mut self, dir: &str) -> Self {
        dir.clone_into(&mut self.cwd);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Runs the program with an empty input and returns what it wrote to its output.
    ///
    /// # Errors
    /// When the namespace cannot be made or the program fails.
    pub fn run(&self) -> Result<Vec<u8>, NamespaceError> {
        self.run_fed(|_| Ok(()))
    }

    /// Runs the program; `feed` writes its input.
    ///
    /// # Errors
    /// When the namespace cannot be made, the program fails, does nothing for longer than its
    /// [`Patience`], or `feed` fails.
    pub fn run_fed(
        &self,
        feed: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<Vec<u8>, NamespaceError> {
        let mut child = self.spawn()?;
        let start = |source| NamespaceError::Start {
            program: self.name(),
            root: self.root.clone(),
            source,
        };
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let outputs = self.binds.iter().filter(|bind| bind.writable);
        let outputs: Vec<PathBuf> = outputs.map(|bind| bind.host.clone()).collect();
        let pid = child.id();
        let (ended, over) = mpsc::channel();
        let (input, stuck, out, err) = std::thread::scope(|scope| {
            let out = scope.spawn(move || read_all(stdout));
            let watcher = scope.spawn(move || {
                let stuck = watch::watch(pid, &outputs, self.patience, &over);
                if stuck.is_some() {
                    end(pid);
                }
                stuck
            });
            let err = scope.spawn(move || read_tail(stderr));
            let input = stdin.map_or(Ok(()), |stdin| {
                let mut pipe = File::from(std::os::fd::OwnedFd::from(stdin));
                // Fewer turns between the two processes; a machine that refuses is only slower.
                let _ = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE));
                feed(&mut pipe)
            });
            // Its number is its own until `wait` takes it away, which is after the watch.
            wait_for_end(pid);
            drop(ended);
            (input, watcher.join(), out.join(), err.join())
        });
        let status = child.wait().map_err(start)?;
        let panicked = |_| start(io::Error::other("a reading thread panicked"));
        let stdout = out.map_err(panicked)?.map_err(start)?;
        let stderr = err.map_err(panicked)?.map_err(start)?;
        let argv = || {
            let words: Vec<_> = self.argv.iter().map(|a| a.to_string_lossy()).collect();
            words.join(" ")
        };
        match stuck.map_err(panicked)? {
            Some(Stuck::Full(path)) => {
                return Err(NamespaceError::DiskFull { argv: argv(), path, stderr });
            }
            Some(Stuck::Still(time)) => {
                return Err(NamespaceError::Still {
                    argv: argv(),
                    seconds: time.as_secs(),
                    stderr,
                });
            }
            None => {}
        }
        let failed = self.failure.is_some_and(|start| stderr.lines().any(|l| l.starts_with(start)));
        if failed || !status.success() {
            return Err(NamespaceError::Failed { argv: argv(), status, stderr });
        }
        input.map_err(|source| NamespaceError::Input { program: self.name(), source })?;
        Ok(stdout)
    }

    fn name(&self) -> String {
        self.argv.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default()
    }

    fn spawn(&self) -> Result<Child, NamespaceError> {
        let setup = child::Setup {
            root: c_string(self.root.as_os_str().as_bytes())?,
            cwd: c_string(self.cwd.as_bytes())?,
            binds: self.binds.iter().map(bind).collect::<Result<_, _>>()?,
            maps: child::Maps::of_caller(),
        };
        let program = self.argv.first().ok_or(NamespaceError::Argument { what: "".into() })?;
        let mut command = Command::new(program);
        command.args(&self.argv[1..]).env_clear();
        command.envs([("LANG", "C"), ("LC_ALL", "C"), ("TZ", "UTC"), ("HOME", "/tmp")]);
        command.env("PATH", "/usr/sbin:/usr/bin").envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = child::prepare(&mut command, setup).map_err(|source| {
            NamespaceError::Start { program: self.name(), root: self.root.clone(), source }
        })?;
        command.spawn().map_err(|source| {
            drop(command);
            match failed.step() {
                Some(step) => NamespaceError::Setup { program: self.name(), step, source },
                None => {
                    NamespaceError::Start { program: self.name(), root: self.root.clone(), source }
                }
            }
        })
    }
}

/// Ends a program and, as it is the first process of its namespace or that one's parent, all that it
/// started.
fn end(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // One that is gone needs no end.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Waits until the process is over, and leaves it to be waited for.
fn wait_for_end(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    let how = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(pid)), how) == Err(nix::errno::Errno::EINTR) {}
}

fn bind(bind: &Bind) -> Result<child::Bind, NamespaceError> {
    if bind.name.is_empty() || bind.name.contains('/') || bind.name.starts_with('.') {
        return Err(NamespaceError::Argument { what: bind.name.clone().into() });
    }
    Ok(child::Bind {
        host: c_string(bind.host.as_os_str().as_bytes())?,
        inside: c_string(format!("work/{}", bind.name).as_bytes())?,
        directory: bind.host.is_dir(),
        writable: bind.writable,
    })
}

fn c_string(bytes: &[u8]) -> Result<CString, NamespaceError> {
    CString::new(bytes).map_err(|_| NamespaceError::Argument {
        what: std::ffi::OsStr::from_bytes(bytes).to_owned(),
    })
}

fn read_all(from: Option<impl io::Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        from.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Reads everything and keeps the end.
fn read_tail(from: Option<impl io::Read>) -> io::Result<String> {
    let mut tail = Vec::new();
    if let Some(mut from) = from {
        let mut chunk = [0; 4096];
        loop {
            let n = from.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            tail.extend(&chunk[..n]);
            let excess = tail.len().saturating_sub(TAIL);
            tail.drain(..excess);
        }
    }
    Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
}

#[cfg(test)]
pub(crate) mod tests;

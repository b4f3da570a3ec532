//! Other programs: run with a time limit and a cleared environment, no shell between. They die
//! with who started them: nothing goes on working on a device that nobody watches.

use std::ffi::OsString;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::process;

/// Most bytes that are kept of what a program says.
const MAX_LEN: u64 = 256 * 1024;
const TICK: Duration = Duration::from_millis(5);
/// How long a program may take to be gone once it was killed.
const DYING: Duration = Duration::from_secs(5);
/// How long what it said may take to arrive once it has ended.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Where programs are looked for.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin";

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// It cannot be started.
    #[error("cannot start `{command}`")]
    Start {
        /// Program and arguments.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It said no.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// Program and arguments.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// It took too long.
    #[error("`{command}` did not end within {} s and was {}", limit.as_secs(), fate(*gone))]
    TooLong {
        /// Program and arguments.
        command: String,
        /// How long it had.
        limit: Duration,
        /// Whether killing it helped.
        gone: bool,
    },
}

fn fate(gone: bool) -> &'static str {
    if gone { "killed" } else { "killed, but the kernel still holds it: the device hangs" }
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program; a bare name is looked up.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// A program without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new() }
    }

    /// Adds arguments.
    #[must_use]
    pub fn with<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    fn text(&self) -> String {
        let mut text = self.program.display().to_string();
        for argument in &self.arguments {
            text.push(' ');
            text.push_str(&argument.to_string_lossy());
        }
        text
    }

    /// Runs it to its end with `input` as its standard input; what it wrote to its standard
    /// output.
    ///
    /// # Errors
    /// When it cannot be started, fails, or takes longer than `limit`: then it is killed with
    /// all that it started.
    pub fn run(&self, input: &[u8], limit: Duration) -> Result<Vec<u8>, OutsideError> {
        let command = self.text();
        let start = |source| OutsideError::Start { command: command.clone(), source };
        let mut child = self.spawn().map_err(start)?;
        let (output, errors) = (listen(child.stdout.take()), listen(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            let input = input.to_vec();
            // What it does not read is its own affair.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let Some(status) = wait(&mut child, limit).map_err(start)? else {
            let gone = end(&mut child);
            return Err(OutsideError::TooLong { command, limit, gone });
        };
        let hear = |words: &Receiver<Vec<u8>>| words.recv_timeout(LAST_WORDS).unwrap_or_default();
        let (output, errors) = (hear(&output), hear(&errors));
        if status.success() {
            return Ok(output);
        }
        let said = tail(if errors.is_empty() { &output } else { &errors });
        Err(OutsideError::Failed { command, status: status.to_string(), said })
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().env("PATH", PATH).env("LC_ALL", "C");
        command.current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::tied_to_this_thread(&mut command);
        command.spawn()
    }
}

/// Reads all that a program says, in a thread of its own.
fn listen(words: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        if let Some(mut words) = words {
            let _ = (&mut words).take(MAX_LEN).read_to_end(&mut kept);
            let _ = sender.send(kept);
            // It must not be held up by what nobody keeps.
            let _ = io::copy(&mut words, &mut io::sink());
        }
    });
    receiver
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        thread::sleep(TICK);
    }
}

/// Kills a program and all of its session; whether it is gone then.
fn end(child: &mut Child) -> bool {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = child.kill();
    matches!(wait(child, DYING), Ok(Some(_)))
}

fn tail(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let plain = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let lines: Vec<String> = text
        .lines()
        .rev()
        .take(5)
        .map(|line| line.chars().take(300).map(plain).collect())
        .collect();
    let text = lines.into_iter().rev().collect::<Vec<_>>().join("; ");
    if text.trim().is_empty() { "it said nothing".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").with(["-c", script])
    }

    #[test]
    fn what_it_says_is_heard() {
        let limit = Duration::from_secs(30);
        assert_eq!(shell("cat").run(b"words", limit).unwrap(), b"words");
        let error = shell("echo out; echo why >&2; exit 3").run(b"", limit).unwrap_err();
        assert!(error.to_string().contains("exit status: 3): why"), "{error}");
        let error = Program::new("/absent/program").run(b"", limit).unwrap_err();
        assert!(matches!(error, OutsideError::Start { .. }), "{error}");
    }

    #[test]
    fn what_hangs_is_killed_with_its_children() {
        let started = Instant::now();
        let limit = Duration::from_millis(100);
        let error = shell("sleep 60 & sleep 60; true").run(b"", limit).unwrap_err();
        assert!(matches!(error, OutsideError::TooLong { gone: true, .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_flood_of_words_holds_nothing_up() {
        let error = shell("yes | head -c 4000000; exit 1").run(b"", Duration::from_mins(1));
        assert!(matches!(error, Err(OutsideError::Failed { .. })), "{error:?}");
    }
}

//! The one way out to other programs: an argument vector, no shell, an environment of our own.
//!
//! Every failure names the program with all its arguments, how it ended, and the end of what it
//! wrote to standard error.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// How much of standard error an error shows, in bytes.
const TAIL: usize = 4096;

/// Where programs are looked for.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started.
    #[error("cannot start {argv}")]
    Start {
        /// Program and arguments.
        argv: Argv,
        /// Why.
        source: io::Error,
    },
    /// Its input or output broke off.
    #[error("lost the pipes to {argv}")]
    Pipe {
        /// Program and arguments.
        argv: Argv,
        /// Why.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("{argv} ended with {status}{}", indent(stderr))]
    Failed {
        /// Program and arguments.
        argv: Argv,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
}

/// An argument vector, shown so that it could be pasted into a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv(Vec<OsString>);

impl Argv {
    /// The program and its arguments.
    #[must_use]
    pub fn as_slice(&self) -> &[OsString] {
        &self.0
    }
}

impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, word) in self.0.iter().enumerate() {
            let word = word.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
            let gap = if index == 0 { "" } else { " " };
            if !word.is_empty() && word.chars().all(plain) {
                write!(f, "{gap}{word}")?;
            } else {
                write!(f, "{gap}'{}'", word.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

fn indent(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().collect();
    if lines.is_empty() { String::new() } else { format!("\n    {}", lines.join("\n    ")) }
}

/// A program to run. Its environment holds only a search path, the C.UTF-8 locale and what is
/// added here.
#[derive(Debug)]
pub struct Process {
    argv: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    input: Vec<u8>,
    output: Option<File>,
    any_status: bool,
}

/// What a program that ran to its end wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended: with success, unless [`Process::any_status`] was called.
    pub status: ExitStatus,
    /// Standard output; empty if it went to a file.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Process {
    /// A program, by path or by name.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let env = [("PATH", SEARCH_PATH), ("LC_ALL", "C.UTF-8")];
        Self {
            argv: vec![program.as_ref().to_owned()],
            env: env.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            dir: None,
            input: Vec::new(),
            output: None,
            any_status: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(key.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Passes on those of these variables that our own environment has.
    #[must_use]
    pub fn inherit<K: AsRef<OsStr>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        for key in keys {
            if let Some(value) = std::env::var_os(&key) {
                self.env.insert(key.as_ref().to_owned(), value);
            }
        }
        self
    }

    /// Runs it in this folder.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_owned());
        self
    }

    /// Gives it these bytes on standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = bytes.into();
        self
    }

    /// Sends its standard output to this file instead of into memory.
    #[must_use]
    pub fn output_to(mut self, file: File) -> Self {
        self.output = Some(file);
        self
    }

    /// Takes every way of ending as success: the caller looks at [`Output::status`].
    #[must_use]
    pub fn any_status(mut self) -> Self {
        self.any_status = true;
        self
    }

    /// Program and arguments.
    #[must_use]
    pub fn argv(&self) -> Argv {
        Argv(self.argv.clone())
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or ends with anything but success.
    pub fn run(self) -> Result<Output, ProcessError> {
        self.run_with(|_| ())
    }

    /// Runs it to its end after `adjust` has changed what is beyond this type: namespaces,
    /// limits.
    ///
    /// # Errors
    ///
    /// As [`Process::run`].
    pub fn run_with(self, adjust: impl FnOnce(&mut Command)) -> Result<Output, ProcessError> {
        let argv = Argv(self.argv);
        let mut command = Command::new(&argv.0[0]);
        command.args(&argv.0[1..]).env_clear().envs(&self.env);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(if self.input.is_empty() { Stdio::null() } else { Stdio::piped() });
        command.stdout(self.output.map_or_else(Stdio::piped, Stdio::from)).stderr(Stdio::piped());
        adjust(&mut command);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(source) => return Err(ProcessError::Start { argv, source }),
        };
        // The command still holds the output file; a reader at its other end waits for this.
        drop(command);
        let mut stdin = child.stdin.take();
        let input = &self.input;
        let output = std::thread::scope(|scope| {
            // A program that does not read all of its input is no failure: its status says.
            scope.spawn(move || {
                if let Some(mut pipe) = stdin.take() {
                    let _ = pipe.write_all(input);
                }
            });
            child.wait_with_output()
        });
        let output = match output {
            Ok(output) => output,
            Err(source) => return Err(ProcessError::Pipe { argv, source }),
        };
        let status = output.status;
        if status.success() || self.any_status {
            return Ok(Output { status, stdout: output.stdout, stderr: output.stderr });
        }
        let stderr = tail(&output.stderr);
        Err(ProcessError::Failed { argv, status, stderr })
    }
}

/// The last whole lines of `bytes`, at most [`TAIL`] of them, without control characters.
fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(TAIL);
    let kept = &bytes[start..];
    let from = if start == 0 {
        0
    } else {
        kept.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1)
    };
    String::from_utf8_lossy(&kept[from..])
        .chars()
        .filter(|&c| c == '\n' || c == '\t' || !c.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_ours() {
        let output = Process::new("env").env("CASEMATE_X", "a b").run().unwrap();
        let mut lines: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["CASEMATE_X=a b", "LC_ALL=C.UTF-8", &format!("PATH={SEARCH_PATH}")]);
    }

    #[test]
    fn input_goes_in_and_comes_out() {
        let big = vec![b'x'; 1 << 20];
        assert_eq!(Process::new("cat").input(big.clone()).run().unwrap().stdout, big);
        assert!(Process::new("true").input(big).run().is_ok(), "unread input is no failure");
        assert_eq!(Process::new("cat").run().unwrap().stdout, b"");
    }

    #[test]
    fn a_failure_shows_argv_status_and_the_end_of_stderr() {
        let script = "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 3";
        let error = Process::new("sh").arg("-c").arg(script).run().unwrap_err().to_string();
        assert!(error.starts_with("sh -c 'i=0; while"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.ends_with("\n    line 1999"), "{error}");
        assert!(!error.contains("line 100\n"), "only the end is kept");
        let error = Process::new("/no/such/program").arg("it's").run().unwrap_err().to_string();
        assert_eq!(error, r"cannot start /no/such/program 'it'\''s'");
    }

    #[test]
    fn output_goes_to_a_file() {
        let mut file = tempfile::tempfile().unwrap();
        let process = Process::new("echo").arg("hello").output_to(file.try_clone().unwrap());
        assert!(process.run().unwrap().stdout.is_empty());
        let mut text = String::new();
        io::Seek::rewind(&mut file).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "hello\n");
    }
}

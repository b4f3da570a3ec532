//! Runs a program that must end in time.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Most that a program may print.
pub(super) const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// Pause between two looks whether a program that said all has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started, or waited for.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It failed.
    #[error("{program} ended with {status}")]
    Failed {
        /// The program with its arguments.
        program: String,
        /// How.
        status: std::process::ExitStatus,
    },
    /// It took too long, and was killed.
    #[error("{program} took longer than {} s", patience.as_secs_f32())]
    TimedOut {
        /// The program with its arguments.
        program: String,
        /// How long it had.
        patience: Duration,
    },
    /// It printed more than anybody asked for.
    #[error("{program} printed more than {MAX_OUTPUT} bytes")]
    TooLong {
        /// The program with its arguments.
        program: String,
    },
}

/// Runs `argv` with `arguments` behind it, without an environment, and returns what it printed.
pub(super) fn run(
    argv: &[OsString],
    arguments: &[&str],
    patience: Duration,
) -> Result<Vec<u8>, RunError> {
    let (first, rest) = argv.split_first().ok_or_else(|| RunError::Run {
        program: String::new(),
        source: io::ErrorKind::InvalidInput.into(),
    })?;
    let words = argv.iter().map(|word| word.to_string_lossy().into_owned());
    let words = words.chain(arguments.iter().map(|word| (*word).to_owned()));
    let program = words.collect::<Vec<_>>().join(" ");
    let wrap = |source| RunError::Run { program: program.clone(), source };
    let mut child = Command::new(first)
        .args(rest)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(wrap)?;
    let (done, output) = sync_channel(1);
    if let Some(stdout) = child.stdout.take() {
        let read = move || {
            let mut bytes = Vec::new();
            let result = stdout.take(MAX_OUTPUT + 1).read_to_end(&mut bytes);
            let _ = done.try_send(result.map(|_| bytes));
        };
        thread::Builder::new().name("output".into()).spawn(read).map_err(wrap)?;
    }
    let end = Instant::now() + patience;
    let output = output.recv_timeout(patience);
    let too_long = |bytes: &[u8]| bytes.len() as u64 > MAX_OUTPUT;
    let mut alive = matches!(&output, Ok(Ok(bytes)) if !too_long(bytes));
    // It may have closed its output and go on.
    while alive && child.try_wait().map_err(wrap)?.is_none() {
        alive = Instant::now() < end;
        thread::sleep(PAUSE);
    }
    if !alive {
        let _ = child.kill();
    }
    let status = child.wait().map_err(wrap)?;
    match output {
        Err(RecvTimeoutError::Timeout) => Err(RunError::TimedOut { program, patience }),
        Err(RecvTimeoutError::Disconnected) => Err(wrap(io::ErrorKind::BrokenPipe.into())),
        Ok(Err(source)) => Err(wrap(source)),
        Ok(Ok(bytes)) if too_long(&bytes) => Err(RunError::TooLong { program }),
        Ok(Ok(_)) if !alive => Err(RunError::TimedOut { program, patience }),
        Ok(Ok(_)) if !status.success() => Err(RunError::Failed { program, status }),
        Ok(Ok(bytes)) => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh() -> Vec<OsString> {
        ["/bin/sh", "-c"].map(OsString::from).to_vec()
    }

    #[test]
    fn output_and_failures_come_back() {
        let minute = Duration::from_mins(1);
        assert_eq!(run(&sh(), &["echo out; echo err >&2"], minute).unwrap(), b"out\n");
        let error = run(&sh(), &["exit 3"], minute).unwrap_err();
        assert!(error.to_string().ends_with("-c exit 3 ended with exit status: 3"), "{error}");
        let error = run(&["/nowhere/x".into()], &[], minute).unwrap_err();
        assert!(matches!(error, RunError::Run { .. }), "{error}");
        let error = run(&sh(), &["cat /dev/zero"], minute).unwrap_err();
        assert!(matches!(error, RunError::TooLong { .. }), "{error}");
    }

    #[test]
    fn who_hangs_is_killed() {
        for script in ["exec sleep 600", "exec sleep 600 >&-"] {
            let error = run(&sh(), &[script], Duration::from_millis(50)).unwrap_err();
            assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
        }
    }
}

//! How the program ends: 0 done, 1 usage or environment, 2 not genuine, 3 not acceptable.

use std::process::ExitCode;

use crate::printer;

/// How a verb ended when nothing went wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It did what it was asked.
    Done,
    /// A judgement or comparison said no, with its exit code.
    Refused(u8),
    /// Another program ran and ended with this code.
    Passed(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Refused(code) | Outcome::Passed(code) => code.into(),
        }
    }
}

/// An error with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub(crate) struct Hinted {
    source: anyhow::Error,
    hint: String,
}

impl Hinted {
    /// `error` with `hint`.
    pub(crate) fn new(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { source: error.into(), hint: hint.into() }
    }
}

/// Adds a hint to an error.
pub(crate) trait HintExt<T> {
    /// The value, or the error with `hint`.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| Hinted::new(error, hint).into())
    }
}

/// Prints an error and says 1.
pub(crate) fn of_error(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Hinted>() {
        Some(hinted) => printer::error(&hinted.source, Some(&hinted.hint)),
        None => printer::error(error, None),
    }
    ExitCode::from(1)
}

/// Prints what clap has to say: help and version are no errors, the rest is usage and so 1.
pub(crate) fn of_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match printer::line(error.render().ansi().to_string().trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => of_error(&error.into()),
        };
    }
    // There is nowhere left to say that standard error is closed.
    let _ = error.print();
    ExitCode::from(1)
}

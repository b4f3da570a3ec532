//! The command line of casemate: parses what was typed, calls a library, prints the result.

mod args;
mod feed;
mod outcome;
mod printer;
mod progress;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return outcome::of_usage(&error),
    };
    match verbs::dispatch(cli.verb) {
        Ok(outcome) => outcome.into(),
        Err(error) => outcome::of_error(&error),
    }
}

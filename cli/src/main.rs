//! The command line of casemate: parses what was typed, calls a library, prints the result.

mod args;
mod printer;

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    match args::Cli::try_parse() {
        Ok(_) => 0.into(),
        Err(error) => 1.into()
    }
}

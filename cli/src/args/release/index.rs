//! `casemate release index`, `list`, `revoke`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use casemate_measurements::hash::Sha256Hash;
use clap::{ArgGroup, Args};

use super::SignerArgs;
use crate::args::OutputArgs;

/// Where a reader remembers what he saw.
#[derive(Debug, Args)]
pub(crate) struct MemoryArgs {
    /// Where it is remembered which index was seen last, so that nobody can hand out an older one
    /// [default: $XDG_STATE_HOME/casemate/indexes, else ~/.local/state/casemate/indexes]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}

/// `casemate release index`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("base").required(true).args(["new", "signers", "countersign"])))]
pub(crate) struct ReleaseIndexArgs {
    /// File of the index
    pub(crate) index: PathBuf,
    /// Begin an index of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) new: Option<String>,
    /// Make the next version of an index that enough of these signers signed
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Add a signature to the version that is there; look at what it lists first
    #[arg(long, conflicts_with_all = ["add", "minimum", "channel"])]
    pub(crate) countersign: bool,
    /// Release directory to list; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) add: Vec<PathBuf>,
    /// Channel that the added releases become current in; may be repeated
    #[arg(long, value_name = "NAME", requires = "add")]
    pub(crate) channel: Vec<String>,
    /// Least version of an image that may be used, as NAME=VERSION; may be repeated
    #[arg(long, value_name = "NAME=VERSION", value_parser = minimum)]
    pub(crate) minimum: Vec<(String, String)>,
    /// Days until readers refuse this version: sign a new one before
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
    pub(crate) days: u64,
    #[command(flatten)]
    pub(crate) signer: SignerArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate release revoke`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["release", "manifest"])))]
pub(crate) struct ReleaseRevokeArgs {
    /// File of the index
    pub(crate) index: PathBuf,
    /// Directory of the release
    #[arg(long, value_name = "DIR")]
    pub(crate) release: Option<PathBuf>,
    /// SHA-256 of its manifest.json
    #[arg(long, value_name = "HEX")]
    pub(crate) manifest: Option<Sha256Hash>,
    /// Why, in one line
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// Whom to believe that the index is the current one
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: PathBuf,
    /// Days until readers refuse this version: sign a new one before
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
    pub(crate) days: u64,
    #[command(flatten)]
    pub(crate) signer: SignerArgs,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate release list`
#[derive(Debug, Args)]
pub(crate) struct ReleaseListArgs {
    /// File of the index
    pub(crate) index: PathBuf,
    /// Whom to believe, and how many of them must have signed
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: PathBuf,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn minimum(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, version)) if !name.is_empty() && !version.is_empty() => {
            Ok((name.to_owned(), version.to_owned()))
        }
        _ => Err("expected NAME=VERSION".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_versions_have_a_name() {
        assert_eq!(minimum("a=1.0.0"), Ok(("a".into(), "1.0.0".into())));
        for wrong in ["a", "=1", "a=", ""] {
            assert!(minimum(wrong).is_err(), "{wrong}");
        }
    }
}

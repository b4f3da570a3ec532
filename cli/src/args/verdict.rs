//! `casemate verdict`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

/// What can be done with verdicts.
#[derive(Debug, Subcommand)]
pub(crate) enum VerdictVerb {
    /// Believe a verdict that another verifier signed: exit 0, 2 or 3 as he judged, 2 for a forgery
    Verify(VerdictVerifyArgs),
}

/// `casemate verdict verify`
#[derive(Debug, Args)]
pub(crate) struct VerdictVerifyArgs {
    /// The envelope that `verify --sign-verdict` wrote
    pub(crate) file: PathBuf,
    /// Public key of the verifier, PEM
    #[arg(long, value_name = "PUBLIC.pem")]
    pub(crate) key: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Signing what was judged.
#[derive(Debug, Args)]
pub(crate) struct SignVerdictArgs {
    /// Sign the verdict with this private key: PEM, ECDSA on P-256 or P-384, or Ed25519
    #[arg(long, value_name = "KEY.pem")]
    pub(crate) sign_verdict: Option<PathBuf>,
    /// Where the signed verdict goes
    #[arg(
        long,
        value_name = "FILE",
        default_value = "verdict.dsse.json",
        requires = "sign_verdict"
    )]
    pub(crate) signed_verdict: PathBuf,
    /// URI that names the verifier; the hash of the public key when left out
    #[arg(long, value_name = "URI", requires = "sign_verdict")]
    pub(crate) verifier_id: Option<String>,
}

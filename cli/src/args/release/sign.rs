//! `casemate release keygen`, `public-key`, `sign`, `attest`.

use std::path::PathBuf;

use casemate_registry::attestation::LOCAL_BUILDER;
use clap::Args;

use super::SignerArgs;
use crate::args::OutputArgs;

/// `casemate release keygen`
#[derive(Debug, Args)]
pub(crate) struct ReleaseKeygenArgs {
    /// Where the private key goes; nothing is replaced
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate release public-key`
#[derive(Debug, Args)]
pub(crate) struct ReleasePublicKeyArgs {
    /// The private key: a PEM file or a PKCS#11 URI, as for `casemate release sign --key`
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate release sign`
#[derive(Debug, Args)]
pub(crate) struct ReleaseSignArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    #[command(flatten)]
    pub(crate) signer: SignerArgs,
    /// What the provenance calls the builder: a URI
    #[arg(long, value_name = "URI", default_value = LOCAL_BUILDER)]
    pub(crate) builder_id: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate release attest`
#[derive(Debug, Args)]
pub(crate) struct ReleaseAttestArgs {
    /// Directory of the release that was published
    pub(crate) release: PathBuf,
    /// Directory of the release that you built yourself, from the same recipe, lock and inputs
    #[arg(long, value_name = "DIR")]
    pub(crate) rebuilt: PathBuf,
    #[command(flatten)]
    pub(crate) signer: SignerArgs,
    /// What the provenance calls the builder: a URI
    #[arg(long, value_name = "URI", default_value = LOCAL_BUILDER)]
    pub(crate) builder_id: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

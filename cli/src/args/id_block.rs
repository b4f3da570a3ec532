//! `casemate id-block`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputArgs;

/// `casemate id-block …`
#[derive(Debug, Subcommand)]
pub(crate) enum IdBlockVerb {
    /// Make a key of P-384: FILE gets the private key, FILE.pub the public one
    Keygen(KeygenArgs),
    /// Sign an ID block for every launch digest of a release and write id-blocks.json beside its
    /// manifest
    Sign(SignArgs),
    /// Hold id-blocks.json to the release's manifest, every signature of it: exit 0 or 2
    Verify(ReleaseArgs),
    /// Show what the ID blocks state and who signed; with a shape, also the bytes for QEMU
    Show(ShowArgs),
}

/// `casemate id-block keygen`
#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where the private key goes; nothing is replaced
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate id-block sign`
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    /// Key that signs the blocks: a PEM file, or a PKCS#11 URI
    /// (pkcs11:token=…;object=…?module-path=…&pin-source=…). Without module-path the module is
    /// $PKCS11_MODULE_PATH, without a PIN it is $CASEMATE_PKCS11_PIN
    #[arg(long, value_name = "KEY")]
    pub(crate) id_key: String,
    /// Key that signs the ID key, likewise
    #[arg(long, value_name = "KEY")]
    pub(crate) author_key: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate id-block verify`
#[derive(Debug, Args)]
pub(crate) struct ReleaseArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate id-block show`
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    /// Virtual CPUs of the launch whose block is wanted
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u16>,
    /// CPU model of that launch [default: the first of the manifest with so many]
    #[arg(long, value_name = "MODEL", requires = "cpus")]
    pub(crate) cpu_model: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

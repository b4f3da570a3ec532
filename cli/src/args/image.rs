//! `casemate image`.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use casemate_measurements::platform::Platform;
use clap::{Args, Subcommand};

use super::{Format, OutputArgs, StoreArgs, platform};

/// `casemate image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Resolve the recipe's packages and write image.lock
    Lock(LockArgs),
    /// Build a release directory from image.toml and image.lock
    Build(BuildArgs),
    /// Write everything that a recipe is built from into one bundle, so that it can be built from
    /// again when no mirror has it any more
    ExportInputs(ExportInputsArgs),
    /// Name the first difference between two release directories, and its likely cause
    Diff(DiffArgs),
    /// Build a release again from its recipe, lock and inputs, and compare: exit 0 the same, 3 not
    Rebuild(RebuildArgs),
}

/// Where packages come from and are kept: the machine's affair, never the recipe's.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Mirror of an archive of the recipe; may be repeated, tried in order. Without it:
    /// `CASEMATE_MIRRORS`, the configuration file, then this machine's apt sources
    #[arg(long, value_name = "ARCHIVE=URL")]
    pub(crate) mirror: Vec<String>,
    /// Package cache [default: $CASEMATE_CACHE, else $XDG_CACHE_HOME/casemate]
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Parallel jobs [default: one per processor]
    #[arg(long, short, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
}

/// `casemate image lock`
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// Folder of the recipe, with image.toml
    pub(crate) dir: PathBuf,
    /// Move only this package, and what it then needs; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) update: Vec<String>,
    /// Move also what the lock of the extended recipe has. Without it a lock of a recipe that
    /// extends another keeps those versions, the kernel and the compiler among them
    #[arg(long, conflicts_with = "update")]
    pub(crate) newest: bool,
    /// Keyring to look for the archive's keys in, beside the machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) keyring: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate image build`
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Folder of the recipe, with image.toml and image.lock
    pub(crate) dir: PathBuf,
    /// Release directory to write [default: out/<name of the image>]
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Platform that the measured command line names
    #[arg(long, value_parser = platform, default_value = "snp")]
    pub(crate) platform: Platform,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Use the cache and what --inputs names alone, no mirror
    #[arg(long)]
    pub(crate) offline: bool,
    /// Take what the cache lacks from this input bundle, as of `image export-inputs`: a directory
    /// or a reference
    #[arg(long, value_name = "DIR|REF")]
    pub(crate) inputs: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Unpack packages in an order drawn from this number; the result must not depend on it
    #[arg(long, value_name = "SEED", hide = true)]
    pub(crate) unpack_order: Option<u64>,
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `casemate image rebuild`
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    /// Directory of the release to hold the build to
    pub(crate) release: PathBuf,
    /// Folder of the recipe, with image.toml and image.lock
    #[arg(long, value_name = "DIR")]
    pub(crate) recipe: PathBuf,
    /// Where the build goes; `release attest --rebuilt` takes it
    #[arg(long, short, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Use the cache alone, no network
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `casemate image export-inputs`
#[derive(Debug, Args)]
pub(crate) struct ExportInputsArgs {
    /// Folder of the recipe, with image.toml and image.lock
    pub(crate) dir: PathBuf,
    /// Where to: a directory, or a reference (oci://, file:///)
    #[arg(long, short, value_name = "DIR|REF")]
    pub(crate) output: String,
    /// Use the cache alone, no network to fetch from
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// `casemate image diff`
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// One release directory
    pub(crate) a: PathBuf,
    /// The other
    pub(crate) b: PathBuf,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

//! What was typed: pure parsing, no file is opened and nothing is looked up here.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Confidential VMs that anyone can check: build, launch, verify, connect.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lock, build and compare images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Boot a release as a VM and wait until it serves evidence
    Run(RunArgs),
    /// List the VMs of this user
    Ps(OutputArgs),
    /// Stop a VM
    Stop(StopArgs),
    /// Ask a VM for evidence and judge it: exit 0 accepted, 2 not genuine, 3 not acceptable
    Verify(VerifyArgs),
    /// Verify a VM with a fresh nonce, then open an SSH session pinned to the attested host key
    Ssh(SshArgs),
    /// Print the root certificate that simulated VMs of this user are signed under
    SimulatedRoot(OutputArgs),
    /// Print a shell's completion script
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// Where to; it is made when missing.
        dir: PathBuf,
    },
    /// Watch over one VM; started by `run`, not by hand
    #[command(hide = true)]
    Supervise {
        /// The VM's state directory.
        dir: PathBuf,
    },
}

/// `casemate image …`
#[derive(Debug, Subcommand)]
pub(crate) enum ImageVerb {
    /// Resolve the recipe's packages and write image.lock
    Lock(LockArgs),
    /// Build a release directory from image.toml and image.lock
    Build(BuildArgs),
    /// Name the first difference between two release directories, and its likely cause
    Diff(DiffArgs),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// Form of the result on standard output
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// Form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For machines.
    Json,
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
    /// Use the cache alone, no network
    #[arg(long)]
    pub(crate) offline: bool,
    /// Unpack packages in an order drawn from this number; the result must not depend on it
    #[arg(long, value_name = "SEED", hide = true)]
    pub(crate) unpack_order: Option<u64>,
    #[command(flatten)]
    pub(crate) sources: SourceArgs,
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

/// `casemate run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    /// Platform to launch on; it must be the release's. SIMULATED proves nothing
    #[arg(long, value_parser = platform, default_value = "snp")]
    pub(crate) platform: Platform,
    /// Name of the VM [default: the release's name, with a number where it is taken]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Public key file whose keys may log in; may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) ssh_key: Vec<PathBuf>,
    /// Virtual CPUs; the launch digest depends on it
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub(crate) cpus: u16,
    /// Memory, as 2G or 512M
    #[arg(long, default_value = "2G", value_parser = memory, value_name = "SIZE")]
    pub(crate) memory: Mebibytes,
    /// CPU model; the launch digest depends on it [default: the first of the manifest]
    #[arg(long, value_name = "MODEL")]
    pub(crate) cpu_model: Option<String>,
    /// Accelerator of the simulated platform
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Port on 127.0.0.1 forwarded to the VM's port 22 [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) ssh_port: Option<u16>,
    /// Port on 127.0.0.1 forwarded to the VM's evidence port [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub(crate) evidence_port: Option<u16>,
    /// Print the plan, the digest and QEMU's exact arguments, and do nothing
    #[arg(long)]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which accelerator QEMU uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where a VM really boots with it, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// `casemate stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Name of the VM
    pub(crate) name: String,
    /// Seconds to wait for the guest before QEMU is ended
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// What a verdict rests on.
#[derive(Debug, Args)]
pub(crate) struct JudgeArgs {
    /// Where the VM serves evidence, as HOST:PORT
    pub(crate) address: String,
    /// Release directory with the manifest to expect
    #[arg(long, value_name = "DIR")]
    pub(crate) release: PathBuf,
    /// Accept a SIMULATED VM signed under this root certificate. It proves nothing
    #[arg(long, value_name = "ROOT.pem")]
    pub(crate) trust_simulated: Option<PathBuf>,
    /// Public key file: refuse a VM that any other key may log in to; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) only_key: Vec<PathBuf>,
    /// Seconds for the whole exchange
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub(crate) timeout: u64,
}

/// `casemate verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate ssh`
#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    #[command(flatten)]
    pub(crate) judge: JudgeArgs,
    /// Port of the VM's sshd on the same host
    #[arg(long, short = 'p', default_value_t = 22, value_name = "PORT")]
    pub(crate) ssh_port: u16,
    /// Private key to log in with
    #[arg(long, short, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Command to run instead of a shell
    #[arg(last = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

pub(crate) use casemate_measurements::platform::Platform;

/// An amount of memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mebibytes(pub(crate) u64);

fn platform(text: &str) -> Result<Platform, String> {
    Platform::from_name(text).ok_or_else(|| "expected snp or simulated".to_owned())
}

fn memory(text: &str) -> Result<Mebibytes, String> {
    let expected = || "expected a whole number with M or G, from 256M to 16384G".to_owned();
    let unit = |suffix, factor| text.strip_suffix(suffix).map(|digits| (digits, factor));
    let (digits, factor) = unit('M', 1).or_else(|| unit('G', 1024)).ok_or_else(expected)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let mebibytes = if plain { digits.parse::<u64>().ok() } else { None };
    match mebibytes.and_then(|n| n.checked_mul(factor)) {
        Some(n) if (256..=16384 * 1024).contains(&n) => Ok(Mebibytes(n)),
        _ => Err(expected()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn memory_is_whole_and_bounded() {
        assert_eq!(memory("2G"), Ok(Mebibytes(2048)));
        assert_eq!(memory("512M"), Ok(Mebibytes(512)));
        for wrong in [
            "",
            "G",
            "2",
            "2g",
            "-2G",
            "+2G",
            "1.5G",
            "255M",
            "16385G",
            "99999999999999999999G",
            "2é",
        ] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn platforms_have_two_names() {
        assert_eq!(platform("simulated"), Ok(Platform::Simulated));
        assert!(platform("SNP").is_err());
    }
}

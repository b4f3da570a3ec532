//! What was typed: pure parsing, no file is opened and nothing is looked up here.

mod host;
mod id_block;
mod image;
mod judge;
mod measure;
mod policy;
mod release;
mod run;
mod serve;
mod verdict;
mod watch;

use std::path::PathBuf;

use casemate_measurements::platform::Platform;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use host::{DevicesArgs, DoctorArgs, HostVerb, InventoryArgs, Mode, PrepareArgs};
pub(crate) use id_block::{IdBlockVerb, KeygenArgs, ReleaseArgs, ShowArgs, SignArgs};
pub(crate) use image::{
    BuildArgs, DiffArgs, ExportInputsArgs, ImageVerb, LockArgs, RebuildArgs, SourceArgs,
};
pub(crate) use judge::{
    CertificateArgs, GpuArgs, JudgeArgs, ServiceArgs, SshArgs, VerifyArgs, VerifyGpuArgs,
    VerifyReportArgs, VerifyVerb,
};
pub(crate) use measure::{
    DigestArgs, ExplainArgs, Input, LaunchArgs, LawArgs, MatrixArgs, MeasureFormat, MeasureVerb,
    VerifyManifestArgs,
};
pub(crate) use policy::{CheckArgs, InitArgs, PolicyVerb, SchemaArgs, SchemaOf};
pub(crate) use release::{
    ChannelArgs, CurrentArgs, FetchArgs, MemoryArgs, ReleaseAttestArgs, ReleaseIndexArgs,
    ReleaseKeygenArgs, ReleaseListArgs, ReleaseMirrorArgs, ReleasePageArgs, ReleasePublicKeyArgs,
    ReleasePublishArgs, ReleasePullArgs, ReleaseRevokeArgs, ReleaseShowArgs, ReleaseSignArgs,
    ReleaseVerb, ReleaseVerifyArgs, SignerArgs, StoreArgs,
};
pub(crate) use run::{Accel, Mebibytes, RestartWhen, RunArgs, StopArgs};
pub(crate) use serve::{
    Daemon, DaemonArgs, EventsArgs, NamedArgs, PsArgs, PublishArgs, PublishFormat, ServeArgs,
    StatusArgs, UnitFile,
};
pub(crate) use verdict::{SignVerdictArgs, VerdictVerb, VerdictVerifyArgs};
pub(crate) use watch::WatchArgs;

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
    /// Compute, check and export launch digests
    #[command(subcommand)]
    Measure(MeasureVerb),
    /// Say which launch a digest is of, and what differs from known releases: exit 3 if none is found
    Explain(ExplainArgs),
    /// Sign, verify and show the ID blocks that vouch for a release's launches
    #[command(subcommand)]
    IdBlock(IdBlockVerb),
    /// Sign, verify, show, publish, fetch and copy releases
    #[command(subcommand)]
    Release(ReleaseVerb),
    /// Look at this machine: can it launch confidential VMs?
    #[command(subcommand)]
    Host(HostVerb),
    /// Boot a release as a VM and wait until it serves evidence
    Run(RunArgs),
    /// List the VMs of this user, or of the daemon
    Ps(PsArgs),
    /// Say all there is to know of a VM
    Status(StatusArgs),
    /// Stop a VM
    Stop(StopArgs),
    /// Start a VM again that the daemon knows, whatever became of it
    Start(NamedArgs),
    /// Have the daemon forget a VM that does not run
    Forget(NamedArgs),
    /// Say what happened to the daemon's VMs
    Events(EventsArgs),
    /// Keep VMs running, and publish what they must measure
    Serve(Box<ServeArgs>),
    /// Print the launch digests of a release as a miner publishes them
    Publish(PublishArgs),
    /// Ask a VM for evidence and judge it: exit 0 accepted, 2 not genuine, 3 not acceptable
    Verify(Box<VerifyArgs>),
    /// Verify a VM with a fresh nonce, then open an SSH session pinned to the attested host key
    Ssh(SshArgs),
    /// Write and read back what a verifier accepts
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Read verdicts that another verifier signed
    #[command(subcommand)]
    Verdict(VerdictVerb),
    /// Print the JSON schema of a format
    Schema(SchemaArgs),
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

fn platform(text: &str) -> Result<Platform, String> {
    Platform::from_name(text).ok_or_else(|| "expected snp or simulated".to_owned())
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
    fn platforms_have_two_names() {
        assert_eq!(platform("simulated"), Ok(Platform::Simulated));
        assert!(platform("SNP").is_err());
    }
}

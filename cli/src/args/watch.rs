//! `casemate verify --watch`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CertificateArgs, GpuArgs, OutputArgs};

/// `casemate verify --watch`
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The targets: a TOML file; read again when it changes or on SIGHUP
    pub(crate) targets: PathBuf,
    /// Believe only releases that enough of these signers signed; asked again at each reading of
    /// the targets
    #[arg(long, value_name = "FILE")]
    pub(crate) signers: Option<PathBuf>,
    /// Accept SIMULATED VMs signed under this root certificate. They prove nothing
    #[arg(long, value_name = "ROOT.pem")]
    pub(crate) trust_simulated: Option<PathBuf>,
    /// Serve metrics for Prometheus over HTTP, at the path /metrics of this address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Most targets asked at once; half of the places are kept for those that answer promptly
    #[arg(long, default_value_t = 32, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub(crate) at_once: u16,
    /// Ask each target so often, then end with the exit code of the worst last answer
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    #[command(flatten)]
    pub(crate) certificates: CertificateArgs,
    #[command(flatten)]
    pub(crate) gpus: GpuArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

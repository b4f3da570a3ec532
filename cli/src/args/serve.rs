//! `casemate serve`, and what is asked of the daemon: `status`, `events`, `start`, `forget`,
//! `publish`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::OutputArgs;

/// `casemate serve`
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Directory of the records [default: /var/lib/casemate/serve for root, else in the user's
    /// state directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) records: Option<PathBuf>,
    /// Directory of wanted VMs, a NAME.toml for each: started when a file appears, stopped when it
    /// goes
    #[arg(long, value_name = "DIR")]
    pub(crate) vms: Option<PathBuf>,
    /// Publish what the VMs must measure, over HTTP
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) publish: Option<SocketAddr>,
    /// Host under which others reach the VMs' evidence, as it is published
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) public_host: String,
    /// User that QEMU runs as; needs root [default: casemate-qemu where root finds it]
    #[arg(long, value_name = "USER")]
    pub(crate) qemu_user: Option<String>,
    /// Delegated control group below which each VM gets one [default: the service's]
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Print a file for the service manager, and do nothing
    #[arg(long, value_enum, value_name = "FILE")]
    pub(crate) print_unit: Option<UnitFile>,
}

/// A file that installs the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnitFile {
    /// systemd's service.
    Service,
    /// systemd's socket.
    Socket,
    /// The user that QEMU runs as, for systemd-sysusers.
    Sysusers,
    /// The devices that it opens, for udev.
    Udev,
}

/// Whether the daemon is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Daemon {
    /// Where its socket is.
    #[default]
    Auto,
    /// It must answer.
    Always,
    /// It is not asked.
    Never,
}

/// Which daemon.
#[derive(Debug, Clone, Args)]
pub(crate) struct DaemonArgs {
    /// Whether `casemate serve` is asked; without it, the verb works alone
    #[arg(long, value_enum, default_value_t = Daemon::Auto)]
    pub(crate) daemon: Daemon,
    /// The daemon's socket [default: this user's, else /run/casemate/api.sock]
    #[arg(long, value_name = "PATH", env = "CASEMATE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

/// `casemate ps`
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Name of the VM
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate events`
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only of this VM
    pub(crate) name: Option<String>,
    /// Go on with what happens
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only those after this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) after: Option<u64>,
    /// The daemon's socket [default: this user's, else /run/casemate/api.sock]
    #[arg(long, value_name = "PATH", env = "CASEMATE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `casemate start`, `casemate forget`
#[derive(Debug, Args)]
pub(crate) struct NamedArgs {
    /// Name of the VM
    pub(crate) name: String,
    /// The daemon's socket [default: this user's, else /run/casemate/api.sock]
    #[arg(long, value_name = "PATH", env = "CASEMATE_SOCKET")]
    pub(crate) socket: Option<PathBuf>,
}

/// `casemate publish`
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// Release directory
    pub(crate) release: PathBuf,
    /// Form of what is printed
    #[arg(long, value_enum, default_value_t = PublishFormat::Json)]
    pub(crate) format: PublishFormat,
    /// Only launches with so many virtual CPUs
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u16>,
}

/// Form of what a miner publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishFormat {
    /// The rows of the manifest.
    Json,
    /// The document that sek8s validators load.
    Sek8sYaml,
}

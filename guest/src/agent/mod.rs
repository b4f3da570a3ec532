//! What the agent decides: whether this VM may start serving, and what it says about itself.
//!
//! It refuses a launch config that `HOST_DATA` does not name before it parses a byte of it, makes
//! the SSH host key and the TLS key of this boot, and serves evidence that binds them to a
//! report of the platform which the measured command line names. It exits only to end the VM:
//! its unit powers off when it does, in order where the host asked for it, else at once.

mod deadline;
mod error;
mod gpus;
mod http;
mod issuer;
mod keys;
mod launch;
mod notify;
pub mod report;
mod reporter;
mod server;
mod worker;

pub use error::AgentError;
pub use gpus::{GpuEvidenceError, Gpus};
pub use http::{Refusal, parse};
pub use issuer::Issuer;
pub use keys::{KeyError, SshHostKey, TlsIdentity};
pub use launch::{LaunchBytes, LaunchError};
pub use reporter::{Reporter, ReporterError};
pub use server::{Limits, serve};
pub use worker::WorkerError;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use casemate_measurements::binding::Binding;
use casemate_measurements::cmdline::BootParams;
use casemate_measurements::evidence::PORT;
use casemate_measurements::hash::ReportData;
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::stage::{Request, Stage};
use rustls::ServerConfig;

use crate::gpu::helper::Helper;
use crate::stage_port::StagePort;
use crate::sysfs::SysRoot;

/// How long the first report may take.
const FIRST_REPORT: Duration = Duration::from_secs(30);
/// Where sshd listens.
const SSHD: u16 = 22;
/// Pause between two looks whether the VM can be used.
const READY_PAUSE: Duration = Duration::from_millis(100);
/// How long one look at what the host asks for takes; between two it is seen whether the server
/// still runs.
const ASKED_PAUSE: Duration = Duration::from_secs(1);
/// Addresses that no machine has (RFC 5737, RFC 3849): a route to them is a way out of the VM.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What serves once everything is in place.
#[derive(Debug)]
pub struct Agent {
    /// Answers nonces.
    pub issuer: Issuer,
    /// How TLS is spoken.
    pub tls: Arc<ServerConfig>,
}

/// Runs as the service `casemate-agent`; an exit code is the end of the VM.
#[must_use]
pub fn main() -> ExitCode {
    let root = SysRoot::default();
    let mut stages = StagePort::new(root.clone());
    match run(&root, &mut stages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stages.report_last(error.stage());
            ExitCode::FAILURE
        }
    }
}

/// Serves until the host asks for the end.
fn run(root: &SysRoot, stages: &mut StagePort) -> Result<(), AgentError> {
    let agent = prepare(root, &Helper::default(), stages)?;
    let listener = listen().map_err(AgentError::Listen)?;
    notify::ready().map_err(AgentError::Notify)?;
    let (tls, issuer) = (agent.tls, Arc::new(agent.issuer));
    let server = thread::Builder::new()
        .name("server".into())
        .spawn(move || serve(&listener, &tls, &issuer, Limits::default()))
        .map_err(AgentError::Spawn)?;
    // A VM that is ready can be logged in to: sshd starts once systemd was notified, and what
    // asks before there is an address is not heard and repeats itself only seconds later.
    let usable = || TcpStream::connect((Ipv4Addr::LOCALHOST, SSHD)).is_ok() && has_route();
    while !server.is_finished() && !usable() {
        thread::sleep(READY_PAUSE);
    }
    stages.report(Stage::Ready);
    stages.settle();
    while !server.is_finished() {
        if let Some(Request::PowerOff) = stages.request(ASKED_PAUSE) {
            stages.report(Stage::ShuttingDown);
            stages.settle();
            return Ok(());
        }
    }
    match server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

/// Does everything that comes before serving: reads what the guest was told, holds it to
/// `HOST_DATA`, holds the GPUs to it with `helper`, makes the keys and writes what sshd reads.
///
/// # Errors
/// When the guest must not serve; the error names the stage that the host is told.
pub fn prepare(
    root: &SysRoot,
    helper: &Helper,
    stages: &mut StagePort,
) -> Result<Agent, AgentError> {
    stages.report(Stage::AgentStarted);
    let line =
        fs::read_to_string(root.path("proc/cmdline")).map_err(AgentError::ReadCommandLine)?;
    let BootParams { platform, .. } = BootParams::from_cmdline(&line)?;

    let bytes = LaunchBytes::read(root)?;
    let reporter = Reporter::start(report::source(platform, root)).map_err(AgentError::Spawn)?;
    let zeroes = ReportData::from_bytes([0; ReportData::LEN]);
    let quote = reporter.report(zeroes, FIRST_REPORT)?;
    bytes.check(&quote.host_data())?;
    let config = LaunchConfig::from_bytes(bytes.as_bytes()).map_err(LaunchError::Malformed)?;
    stages.report(Stage::LaunchConfigAccepted);
    let gpus = Gpus::check(root, helper, config.gpus.as_ref())?;
    if gpus.is_some() {
        stages.report(Stage::GpusChecked);
    }

    let ssh = SshHostKey::generate()?;
    let tls = TlsIdentity::generate()?;
    let binding = Binding {
        tls_spki_sha256: tls.spki_sha256(),
        ssh_host_key: ssh.public().to_owned(),
        gpu_evidence_sha256: None,
        launch_config_sha256: bytes.sha256(),
    };
    let launch_config = text(bytes.as_bytes().to_vec())?;
    launch::write_session_files(root, &config, &ssh)?;
    stages.report(Stage::KeysMade);

    let issuer = Issuer { platform, binding, launch_config, reporter, gpus };
    Ok(Agent { issuer, tls: Arc::new(tls.into_server_config()?) })
}

/// Whether there is a way out of the VM. Connecting a datagram socket sends nothing.
fn has_route() -> bool {
    OUTSIDE.into_iter().any(|address| {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, SSHD))).is_ok()
    })
}

/// JSON that was just parsed or written is UTF-8.
fn text(bytes: Vec<u8>) -> Result<String, LaunchError> {
    String::from_utf8(bytes).map_err(LaunchError::NotUtf8)
}

/// Listens on IPv6 and IPv4, or on IPv4 alone where the kernel has no IPv6.
fn listen() -> io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))
}

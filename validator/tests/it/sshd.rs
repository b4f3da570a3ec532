//! Real sshds on loopback, each with a host key of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use casemate_validator::host_key::HostKey;
use casemate_validator::ssh::Session;
use tempfile::TempDir;

/// Whether `program` runs here. Where `CASEMATE_REQUIRE` names `ssh`, its absence is a failure;
/// else the caller's test is skipped with a printed reason.
pub(crate) fn has(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let reason = match &output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == "ssh"), "{program} is required: {reason}");
    println!("skipped: {program} does not run here: {reason}");
    false
}

/// Whether sshd and ssh can be run here; see [`has`].
pub(crate) fn available() -> bool {
    if is_root() {
        // sshd insists on it; a service's start makes it elsewhere.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    keygen(&dir.path().join("key"), "ed25519");
    let key = dir.path().join("key").to_str().unwrap().to_owned();
    has("ssh", &["-V"]) && has(SSHD, &["-t", "-f", "/dev/null", "-h", &key])
}

const SSHD: &str = "/usr/sbin/sshd";

fn is_root() -> bool {
    stdout("id", &["-u"]) == "0"
}

pub(crate) fn stdout(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn keygen(path: &Path, kind: &str) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "", "-t", kind, "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(status.success());
}

/// A client's key, allowed by every [`Sshd`] made with it.
pub(crate) struct Client {
    dir: TempDir,
}

impl Client {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("id"), "ed25519");
        Self { dir }
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// A session that runs `command` on what listens at `address` and `port`.
    pub(crate) fn session(&self, address: &str, port: u16, command: &str) -> Session {
        let mut session = Session::new(address.parse().unwrap(), port);
        session.user = stdout("id", &["-un"]).parse().unwrap();
        session.identity = Some(self.identity());
        session.command = vec![command.into()];
        session
    }
}

/// A running sshd. A command run in its sessions finds its name in `$WHO`.
pub(crate) struct Sshd {
    dir: TempDir,
    child: Child,
    pub(crate) address: String,
    pub(crate) port: u16,
}

impl Sshd {
    /// Starts one on a free port of 127.0.0.1.
    pub(crate) fn start(name: &str, client: &Client) -> Self {
        Self::start_with(name, client, "127.0.0.1", None, "ed25519")
    }

    /// Starts one with another kind of host key, or at an address and port of choice.
    pub(crate) fn start_with(
        name: &str,
        client: &Client,
        address: &str,
        port: Option<u16>,
        kind: &str,
    ) -> Self {
        // A free port can be taken before sshd binds it: try another then.
        for _ in 0..5 {
            let port = port.unwrap_or_else(|| free_port(address));
            if let Some(sshd) = Self::try_start(name, client, address, port, kind) {
                return sshd;
            }
        }
        panic!("sshd {name} did not start on {address}");
    }

    fn try_start(
        name: &str,
        client: &Client,
        address: &str,
        port: u16,
        kind: &str,
    ) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        keygen(&path("host"), kind);
        let config = format!(
            "ListenAddress {address}\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nSetEnv WHO={name}\n",
            path("host").display(),
            client.identity().with_extension("pub").display(),
        );
        fs::write(path("config"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(path("config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        for _ in 0..600 {
            if speaks_ssh(address, port) {
                return Some(Self { dir, child, address: address.into(), port });
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill().unwrap();
        panic!("sshd does not answer: {}", fs::read_to_string(path("log")).unwrap());
    }

    /// The host key as evidence would carry it, for an ed25519 one.
    pub(crate) fn host_key(&self) -> HostKey {
        self.public().parse().unwrap()
    }

    /// A line of `known_hosts` that takes any host for this one.
    pub(crate) fn any_host_line(&self) -> String {
        format!("* {}\n", self.public())
    }

    fn public(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("host.pub")).unwrap();
        text.trim().to_owned()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port(address: &str) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

fn speaks_ssh(address: &str, port: u16) -> bool {
    let Ok(tcp) = TcpStream::connect((address, port)) else { return false };
    let mut line = String::new();
    BufReader::new(tcp).read_line(&mut line).is_ok() && line.starts_with("SSH-2.0-")
}

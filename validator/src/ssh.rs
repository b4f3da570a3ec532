//! Opens an SSH session that cannot be redirected: to the attested host key or to nobody.
//!
//! The system's `ssh` does the work, with everything that could weaken the check decided on its
//! command line. No configuration file is read (`-F`), and the options that matter are given
//! besides, each on its own enough: a configuration could otherwise replace the connection
//! (`ProxyCommand`, `ProxyJump`, `Hostname`, `CanonicalizeHostname`, a `ControlPath` with a live
//! master), the keys that are trusted (`UserKnownHostsFile`, `GlobalKnownHostsFile`,
//! `KnownHostsCommand`, `VerifyHostKeyDNS`, `UpdateHostKeys`, `NoHostAuthenticationForLocalhost`)
//! or run something of its own (`LocalCommand`). What a tenant's agent or display could be used
//! for by the VM is not forwarded.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGQUIT};
use tempfile::TempDir;

use crate::host_key::HostKey;
use crate::target::Host;

/// The name that the attested key has in `known_hosts` and in what `ssh` prints.
pub const HOST_KEY_ALIAS: &str = "casemate-attested";
/// The user of a casemate.
pub const USER: &str = "sandbox";

/// Options that are the same for every session, as `ssh -o` takes them.
///
/// `ssh` keeps the first value it sees of each, so that none of them can be undone later.
const OPTIONS: [&str; 24] = [
    // Older versions lack these; they read no configuration either.
    "IgnoreUnknown=KnownHostsCommand,RemoteCommand,ProxyUseFdpass",
    "StrictHostKeyChecking=yes",
    "HostKeyAlgorithms=ssh-ed25519",
    "GlobalKnownHostsFile=/dev/null",
    "KnownHostsCommand=none",
    "VerifyHostKeyDNS=no",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "NoHostAuthenticationForLocalhost=no",
    "ProxyCommand=none",
    "ProxyUseFdpass=no",
    "CanonicalizeHostname=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ControlPersist=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ForwardAgent=no",
    "ForwardX11=no",
    // Ports, sockets and tunnels.
    "ClearAllForwardings=yes",
    "AddKeysToAgent=no",
    // The VM knows no password; a prompt could only be another machine's.
    "PreferredAuthentications=publickey",
    "ConnectTimeout=30",
    "ServerAliveInterval=30",
];

/// Variables that `ssh` gets from this program's environment, and no others.
const ENVIRONMENT: [&str; 16] = [
    "DISPLAY",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LC_MESSAGES",
    "LOGNAME",
    "PATH",
    "SSH_ASKPASS",
    "SSH_ASKPASS_REQUIRE",
    "SSH_AUTH_SOCK",
    "TERM",
    "USER",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// The name of a user to log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User(String);

impl Default for User {
    fn default() -> Self {
        Self(USER.into())
    }
}

impl FromStr for User {
    type Err = SshError;

    fn from_str(text: &str) -> Result<Self, SshError> {
        let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
        let rest = |b: u8| first(b) || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len())
            && text.bytes().take(1).all(first)
            && text.bytes().all(rest)
        {
            return Ok(Self(text.into()));
        }
        Err(SshError::User { text: text.chars().take(80).collect() })
    }
}

/// A session to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The program that opens it: `ssh`, looked up in PATH, or a path.
    pub program: PathBuf,
    /// Where sshd is reached. Need not be trusted: the key decides.
    pub host: Host,
    /// Its TCP port.
    pub port: u16,
    /// Who logs in.
    pub user: User,
    /// The private key to log in with; `None` for the keys that `ssh` tries by itself.
    pub identity: Option<PathBuf>,
    /// The remote command, which the remote shell gets joined by spaces as `ssh` always does;
    /// empty for an interactive session.
    pub command: Vec<OsString>,
}

impl Session {
    /// An interactive session of [`USER`] with the system's `ssh` and the keys it tries itself.
    #[must_use]
    pub fn new(host: Host, port: u16) -> Self {
        let user = User::default();
        Self { program: "ssh".into(), host, port, user, identity: None, command: Vec::new() }
    }
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The user's name is none.
    #[error("{text:?} is no user name: expected 1 to 32 of a-z, 0-9, '_' and '-'")]
    User {
        /// The refused text, shortened.
        text: String,
    },
    /// The identity cannot be used.
    #[error("cannot use {} as the key to log in with; name a private key's file", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// `ssh` would read another path than the one meant.
    #[error(
        "cannot hand {} to ssh as {option}: a path with '\"', '\\', '$', a control character or \
         no UTF-8 means something else to it; use another path (TMPDIR decides the temporary one)",
        path.display()
    )]
    Path {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
    },
    /// The `known_hosts` file cannot be written.
    #[error("cannot write the attested host key under {}", path.display())]
    KnownHosts {
        /// The directory or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// `ssh` cannot be run.
    #[error("cannot run {}; install the OpenSSH client", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A `known_hosts` file with one line, in a directory that only this user can enter. Both are
/// removed when the value is dropped.
#[derive(Debug)]
pub struct KnownHosts {
    dir: TempDir,
}

impl KnownHosts {
    /// Writes the file for `key`.
    ///
    /// # Errors
    /// When the temporary directory or the file cannot be made.
    pub fn write(key: &HostKey) -> Result<Self, SshError> {
        let parent = std::env::temp_dir();
        let dir = tempfile::Builder::new()
            .prefix("casemate-ssh-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(&parent)
            .map_err(|source| SshError::KnownHosts { path: parent, source })?;
        let this = Self { dir };
        let path = this.path();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{HOST_KEY_ALIAS} {key}"))
            .map_err(|source| SshError::KnownHosts { path, source })?;
        Ok(this)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }
}

/// The arguments of `ssh` for `session`, trusting what `known_hosts` says and nothing else.
///
/// # Errors
/// When a path cannot be written so that `ssh` reads it as it is.
pub fn arguments(session: &Session, known_hosts: &Path) -> Result<Vec<OsString>, SshError> {
    let mut arguments: Vec<OsString> = vec!["-F".into(), "/dev/null".into()];
    let mut option = |text: &str| arguments.extend(["-o".into(), OsString::from(text)]);
    for text in OPTIONS {
        option(text);
    }
    option(&format!("HostKeyAlias={HOST_KEY_ALIAS}"));
    option(&quoted("UserKnownHostsFile", known_hosts)?);
    option(&format!("Hostname={}", session.host));
    if let Some(identity) = &session.identity {
        option("IdentitiesOnly=yes");
        option(&quoted("IdentityFile", identity)?);
    }
    arguments.extend(["-p".into(), session.port.to_string().into()]);
    arguments.extend(["-l".into(), session.user.0.as_str().into()]);
    // After the host `ssh` looks for options once more; a `--` before it would not end that in
    // every version, and a host never looks like an option.
    arguments.extend([session.host.to_string().into(), "--".into()]);
    arguments.extend(session.command.iter().cloned());
    Ok(arguments)
}

/// An option whose value is one path, so that neither spaces nor `%` change it.
fn quoted(option: &'static str, path: &Path) -> Result<String, SshError> {
    let refused = |c: char| c.is_control() || matches!(c, '"' | '\\' | '$');
    match path.to_str() {
        Some(text) if path.is_absolute() && !text.contains(refused) => {
            Ok(format!("{option}=\"{}\"", text.replace('%', "%%")))
        }
        _ => Err(SshError::Path { option, path: path.into() }),
    }
}

/// The process that opens `session` with exactly the key in `known_hosts`. Its streams are this
/// program's, its environment is cleared but for what `ssh` needs.
///
/// # Errors
/// When the identity cannot be read or a path cannot be handed to `ssh`.
pub fn command(session: &Session, known_hosts: &KnownHosts) -> Result<Command, SshError> {
    let mut session = session.clone();
    if let Some(path) = session.identity.take() {
        let absolute = std::path::absolute(&path)
            .and_then(|absolute| fs::File::open(&absolute).map(|_| absolute))
            .map_err(|source| SshError::Identity { path, source })?;
        session.identity = Some(absolute);
    }
    let mut command = Command::new(&session.program);
    command.args(arguments(&session, &known_hosts.path())?).env_clear();
    let kept = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.envs(kept);
    Ok(command)
}

/// Opens `session` to the machine that holds `key`, waits for its end and returns the exit code
/// that a shell would report: the remote command's, 255 for a failure of `ssh` itself, or 128
/// plus the number of the signal that killed `ssh`.
///
/// From here on an interrupt or quit key is the session's business and does not end this program.
///
/// # Errors
/// When the `known_hosts` file cannot be written or `ssh` cannot be run.
pub fn run(session: &Session, key: &HostKey) -> Result<u8, SshError> {
    let known_hosts = KnownHosts::write(key)?;
    let spawn = |source| SshError::Spawn { program: session.program.clone(), source };
    for signal in [SIGINT, SIGQUIT] {
        let ignored = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, ignored).map_err(spawn)?;
    }
    let status = command(session, &known_hosts)?.status().map_err(spawn)?;
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// How a person would type `command`, for a plan that is printed and not run.
#[must_use]
pub fn shell_words<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    let words = words.into_iter().map(|word| {
        let word = word.to_string_lossy();
        if !word.is_empty() && word.chars().all(plain) {
            return word.into_owned();
        }
        format!("'{}'", word.replace('\'', "'\\''"))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";

    fn session() -> Session {
        Session::new("192.0.2.7".parse().unwrap(), 2222)
    }

    #[test]
    fn known_hosts_is_one_private_line_and_goes_away() {
        let known_hosts = KnownHosts::write(&KEY.parse().unwrap()).unwrap();
        let path = known_hosts.path();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("casemate-attested {KEY}\n"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(known_hosts);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn arguments_end_with_host_and_command() {
        let mut session = session();
        session.command = vec!["-oProxyCommand=x".into(), "a b".into()];
        let arguments = arguments(&session, Path::new("/tmp/k")).unwrap();
        let end = arguments.iter().position(|word| word == "-p").unwrap();
        assert_eq!(
            arguments[end..].join(OsStr::new("|")),
            "-p|2222|-l|sandbox|192.0.2.7|--|-oProxyCommand=x|a b"
        );
        assert_eq!(arguments[..2].join(OsStr::new(" ")), "-F /dev/null");
    }

    #[test]
    fn paths_reach_ssh_as_they_are_or_not_at_all() {
        let quoted = |path: &str| quoted("IdentityFile", Path::new(path));
        assert_eq!(quoted("/a b/%d#x").unwrap(), r#"IdentityFile="/a b/%%d#x""#);
        for path in ["relative", "none", "~/x", "/a\"b", "/a\\b", "/${HOME}/b", "/a\nb"] {
            assert!(matches!(quoted(path), Err(SshError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn user_names_are_no_options() {
        assert_eq!("sandbox".parse::<User>().unwrap(), User::default());
        for text in ["", "-x", "1a", "a b", "a@b", "A", "a\n", &"a".repeat(33)] {
            assert!(matches!(text.parse::<User>(), Err(SshError::User { .. })), "{text:?}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(255 << 8)), 255);
        assert_eq!(exit_code(ExitStatus::from_raw(9)), 137);
    }

    #[test]
    fn plans_can_be_pasted() {
        let words = ["ssh", "-o", "A=\"/a b\"", "it's", ""].map(OsStr::new);
        assert_eq!(shell_words(words), r#"ssh -o 'A="/a b"' 'it'\''s' ''"#);
    }
}

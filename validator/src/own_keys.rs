//! Which SSH keys are the user's own, so that a session is not opened to a VM that others may
//! enter too.
//!
//! A key is the user's own when he can log in with it: the key named by `--identity`, every key
//! of his SSH agent, and every `NAME.pub` in `~/.ssh` beside which a private key `NAME` lies. A
//! public key without a private key may be anybody's and does not count.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::appraisal::SshKey;
use casemate_measurements::ssh_key::string;

/// Most bytes of a key's file.
const MAX_FILE: u64 = 64 * 1024;
/// Most bytes of an agent's answer.
const MAX_ANSWER: u32 = 1024 * 1024;
/// How long an agent may take for a piece of its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What asks an agent for its keys, and how its answer starts: RFC draft-miller-ssh-agent,
/// section "Requesting a list of keys".
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
/// How OpenSSH's private keys start: OpenSSH, PROTOCOL.key, section 1.
const PRIVATE_MAGIC: &[u8] = b"openssh-key-v1\0";

/// Where a user has his keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// The key that he names: a private key, or the public key of one that the agent has.
    pub identity: Option<PathBuf>,
    /// The socket of his agent.
    pub agent: Option<PathBuf>,
    /// The folder of his keys: `~/.ssh`.
    pub folder: Option<PathBuf>,
}

impl OwnKeys {
    /// The places that the environment names: the agent's socket is `SSH_AUTH_SOCK`.
    #[must_use]
    pub fn from_environment(identity: Option<PathBuf>) -> Self {
        let set = |text: &OsString| !text.is_empty();
        Self {
            identity,
            agent: std::env::var_os("SSH_AUTH_SOCK").filter(set).map(PathBuf::from),
            folder: std::env::home_dir().map(|home| home.join(".ssh")),
        }
    }

    /// The keys found. A file or an agent that cannot be read has none: then more keys are
    /// strangers', never fewer.
    #[must_use]
    pub fn find(&self) -> Vec<SshKey> {
        let mut all: Vec<SshKey> = self.identity.iter().filter_map(|path| named(path)).collect();
        let agent = self.agent.as_ref().and_then(|socket| of_agent(socket).ok());
        all.extend(agent.unwrap_or_default());
        all.extend(self.folder.as_ref().map(|folder| of_folder(folder)).unwrap_or_default());
        let mut keys: Vec<SshKey> = Vec::new();
        for key in all {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }
}

/// The public key of the one that is named, from where `ssh` takes it: the file itself where it
/// is a public key, the public part of a private key, the file beside it with `.pub`.
fn named(path: &Path) -> Option<SshKey> {
    let text = read(path).ok()?;
    public(&text).or_else(|| public_part(&text)).or_else(|| beside(path))
}

fn beside(path: &Path) -> Option<SshKey> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    public(&read(Path::new(&name)).ok()?)
}

/// The first key of a public key file.
fn public(text: &str) -> Option<SshKey> {
    text.lines().find_map(|line| line.parse().ok())
}

/// The public part of a private key in OpenSSH's format, which a passphrase does not hide.
fn public_part(text: &str) -> Option<SshKey> {
    let (_, rest) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END OPENSSH PRIVATE KEY-----")?;
    let body: String = body.split_whitespace().collect();
    let bytes = STANDARD.decode(body).ok()?;
    let mut rest = bytes.strip_prefix(PRIVATE_MAGIC)?;
    for _cipher_kdf_options in 0..3 {
        (_, rest) = string(rest)?;
    }
    let (_count, rest) = rest.split_first_chunk::<4>()?;
    of_blob(string(rest)?.0)
}

/// A key as the SSH protocol writes it: the type, then what the type says.
fn of_blob(blob: &[u8]) -> Option<SshKey> {
    let kind = std::str::from_utf8(string(blob)?.0).ok()?;
    format!("{kind} {}", STANDARD.encode(blob)).parse().ok()
}

/// The keys of the agent at `socket`.
fn of_agent(socket: &Path) -> io::Result<Vec<SshKey>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_ANSWER {
        return Err(io::Error::other("the agent's answer is too long"));
    }
    let mut answer = Vec::new();
    stream.take(length.into()).read_to_end(&mut answer)?;
    Ok(listed(&answer).unwrap_or_default())
}

/// The keys that an agent's answer lists.
fn listed(answer: &[u8]) -> Option<Vec<SshKey>> {
    let rest = answer.strip_prefix(&[IDENTITIES_ANSWER])?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (blob, after) = string(rest)?;
        let (_comment, after) = string(after)?;
        // A certificate, or a key of a type that no launch config names.
        keys.extend(of_blob(blob));
        rest = after;
    }
    Some(keys)
}

/// The public keys in `folder` whose private keys lie beside them.
fn of_folder(folder: &Path) -> Vec<SshKey> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let is_own = |path: &PathBuf| {
        let beside = path.with_extension("");
        path.extension().is_some_and(|kind| kind == "pub")
            && beside.is_file()
            && read(&beside).is_ok_and(|text| is_private(&text))
    };
    let own = paths.iter().filter(|path| is_own(path));
    own.filter_map(|path| public(&read(path).ok()?)).collect()
}

/// Whether it holds a private key, in whatever format: a line `-----BEGIN … PRIVATE KEY-----`.
fn is_private(text: &str) -> bool {
    let begins = |line: &str| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with("PRIVATE KEY-----")
    };
    text.lines().any(begins)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const PUBLIC: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKKPqjlb4NQbvHfCZF5b43xsEhuELZvW8qdlxqQeDCa+";

    /// A private key in OpenSSH's format, as far as its public part.
    fn private(public: &str) -> String {
        let blob = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
        let mut bytes = PRIVATE_MAGIC.to_vec();
        for text in [&b"aes256-ctr"[..], b"bcrypt", b"salt and rounds"] {
            bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text);
        }
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(u32::try_from(blob.len()).unwrap().to_be_bytes());
        bytes.extend(blob);
        let text = STANDARD.encode(bytes);
        let (start, end) = text.split_at(70);
        format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{start}\n{end}\n-----END OPENSSH PRIVATE KEY-----\n"
        )
    }

    fn keys(texts: &[&str]) -> Vec<SshKey> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_named_key_is_read_from_the_private_one_or_the_file_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let own = OwnKeys { identity: Some(path.clone()), ..OwnKeys::default() };
        assert_eq!(own.find(), []);
        for text in [private(PUBLIC), format!("{PUBLIC} me\n")] {
            fs::write(&path, text).unwrap();
            assert_eq!(own.find(), keys(&[PUBLIC]));
        }
        fs::write(&path, "-----BEGIN RSA PRIVATE KEY-----\n").unwrap();
        assert_eq!(own.find(), []);
        fs::write(dir.path().join("id.pub"), PUBLIC).unwrap();
        assert_eq!(own.find(), keys(&[PUBLIC]));
    }

    #[test]
    fn a_public_key_alone_is_not_the_users_own() {
        let dir = tempfile::tempdir().unwrap();
        let other = PUBLIC.replace("DCa+", "DCb+");
        fs::write(dir.path().join("id_ed25519"), private(PUBLIC)).unwrap();
        fs::write(dir.path().join("id_ed25519.pub"), PUBLIC).unwrap();
        fs::write(dir.path().join("colleague.pub"), &other).unwrap();
        // Something else lies beside it.
        fs::write(dir.path().join("team.pub"), &other).unwrap();
        fs::write(dir.path().join("team"), format!("-----BEGIN PUBLIC KEY-----\n{other}\n"))
            .unwrap();
        let own = OwnKeys { folder: Some(dir.path().to_owned()), ..OwnKeys::default() };
        assert_eq!(own.find(), keys(&[PUBLIC]));
        for kind in ["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "] {
            let text = format!("-----BEGIN {kind}PRIVATE KEY-----\nAAAA\n");
            fs::write(dir.path().join("team"), text).unwrap();
            assert_eq!(own.find(), keys(&[PUBLIC, &other]), "{kind}");
        }
    }

    #[test]
    fn the_agent_is_asked_and_an_agent_that_lies_has_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let blob = STANDARD.decode(PUBLIC.split(' ').nth(1).unwrap()).unwrap();
        let text =
            |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        let certificate = text(b"ssh-ed25519-cert-v01@openssh.com");
        let identities = [text(&certificate), text(b""), text(&blob), text(b"me")].concat();
        let good = [&[IDENTITIES_ANSWER, 0, 0, 0, 2][..], &identities].concat();
        for (number, (answer, expected)) in [
            (text(&good), keys(&[PUBLIC])),
            (text(&[IDENTITIES_ANSWER, 0xff, 0xff, 0xff, 0xff]), vec![]),
            (text(&[5]), vec![]),
            (vec![0xff; 4], vec![]),
            (vec![], vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            let socket = dir.path().join(number.to_string());
            let listener = UnixListener::bind(&socket).unwrap();
            let agent = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 5];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(request, [0, 0, 0, 1, REQUEST_IDENTITIES]);
                stream.write_all(&answer).unwrap();
            });
            let own = OwnKeys { agent: Some(socket), ..OwnKeys::default() };
            assert_eq!(own.find(), expected, "{number}");
            agent.join().unwrap();
        }
    }
}

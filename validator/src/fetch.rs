//! Fetches evidence over one TLS session and says whose session it was.
//!
//! The answer comes from a machine whose owner may be hostile. Whatever he does, a fetch ends
//! within [`Limits::total`], keeps at most [`evidence::MAX_LEN`] bytes, follows no redirect, and
//! names the key that signed the handshake of the session that the bytes came over. What the
//! bytes mean is not decided here.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use casemate_measurements::evidence;
use casemate_measurements::hash::{Nonce, Sha256Hash};
use rustls::{ClientConnection, StreamOwned};

pub use crate::http::HttpError;
use crate::target::{Host, Target};
use crate::wire::{Bound, BoundedStream, remaining};
use crate::{http, tls};

/// Bytes that may arrive beside the evidence: handshake, headers, record and chunk overhead.
const OVERHEAD: usize = 1024 * 1024;

/// What a fetch may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for looking up the name and connecting.
    pub connect: Duration,
    /// Time for everything together. A guest with eight GPUs takes seconds to answer.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), total: Duration::from_mins(1) }
    }
}

/// Evidence and the session that it came over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The body of the answer, not yet looked at.
    pub evidence: Vec<u8>,
    /// SHA-256 of the DER `SubjectPublicKeyInfo` of the key that signed this session's handshake.
    pub tls_spki_sha256: Sha256Hash,
    /// The address that answered.
    pub peer: SocketAddr,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a fetch was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking up the name.
    Resolve,
    /// Connecting.
    Connect,
    /// The TLS handshake.
    Handshake,
    /// Sending the request.
    Request,
    /// Waiting for the answer and reading it.
    Response,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Resolve => "looking up the name",
            Self::Connect => "connecting",
            Self::Handshake => "the TLS handshake",
            Self::Request => "sending the request",
            Self::Response => "waiting for the evidence",
        })
    }
}

/// Why no evidence was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name has no address.
    #[error("{target}: the name has no address; check the spelling and this machine's resolver")]
    Resolve {
        /// Who was asked.
        target: Target,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nothing accepts connections there.
    #[error(
        "{target}: no connection; expected the evidence port of a running VM: check that it runs, \
         that the port is the one forwarded to its {}, and that no firewall is in between",
        evidence::PORT
    )]
    Connect {
        /// Who was asked.
        target: Target,
        /// What the operating system said.
        source: io::Error,
    },
    /// The time was up.
    #[error(
        "{target}: no answer within {} ms, given up while {phase}; a VM that is still booting \
         answers later, a hung or hostile one never does",
        after.as_millis()
    )]
    Deadline {
        /// Who was asked.
        target: Target,
        /// What it was doing.
        phase: Phase,
        /// The limit that passed.
        after: Duration,
    },
    /// The server sends without end.
    #[error("{target}: more than {limit} bytes arrived during {phase}; no evidence is that long")]
    Flood {
        /// Who was asked.
        target: Target,
        /// What it was doing.
        phase: Phase,
        /// The most bytes that are received.
        limit: usize,
    },
    /// No TLS session.
    #[error(
        "{target}: no TLS 1.3 session with a server that holds its certificate's key; check that \
         the port is the evidence port and not SSH's"
    )]
    Handshake {
        /// Who was asked.
        target: Target,
        /// What failed.
        source: io::Error,
    },
    /// The request could not be sent.
    #[error("{target}: the connection broke while the request was sent")]
    Request {
        /// Who was asked.
        target: Target,
        /// What the operating system said.
        source: io::Error,
    },
    /// The answer is no evidence.
    #[error("{target}: expected evidence from GET {}", evidence::PATH)]
    Response {
        /// Who was asked.
        target: Target,
        /// What is wrong with it.
        source: HttpError,
    },
    /// This program's TLS cannot be set up.
    #[error("cannot set up TLS 1.3 with the built-in crypto provider")]
    Setup(#[source] rustls::Error),
}

/// Asks `target` for evidence about `nonce`.
///
/// # Errors
/// When the name has no address, nothing listens, there is no TLS 1.3 session, the answer is not
/// a well-formed 200 of bounded length, or a limit passes.
pub fn fetch_evidence(
    target: &Target,
    nonce: &Nonce,
    limits: &Limits,
) -> Result<Fetched, FetchError> {
    let start = Instant::now();
    let session = Session {
        target,
        limits: *limits,
        connect_deadline: start + limits.connect.min(limits.total),
        deadline: start + limits.total,
    };
    let addresses = session.resolve()?;
    let (tcp, peer) = session.connect(&addresses)?;
    let mut tls = session.handshake(tcp)?;
    let tls_spki_sha256 = tls::peer_spki_sha256(&tls.conn)
        .map_err(|error| session.failed(Phase::Handshake, io::Error::other(error)))?;
    tls.write_all(request(target, nonce).as_bytes())
        .and_then(|()| tls.flush())
        .map_err(|error| session.failed(Phase::Request, error))?;
    let evidence = http::read_ok(&mut tls, evidence::MAX_LEN).map_err(|error| match error {
        HttpError::Read(error) => session.failed(Phase::Response, error),
        source => FetchError::Response { target: target.clone(), source },
    })?;
    Ok(Fetched { evidence, tls_spki_sha256, peer, elapsed: start.elapsed() })
}

/// The request, whole.
fn request(target: &Target, nonce: &Nonce) -> String {
    format!(
        "GET {}?nonce={nonce} HTTP/1.1\r\nHost: {target}\r\nAccept: application/json\r\n\
         User-Agent: casemate\r\nConnection: close\r\n\r\n",
        evidence::PATH
    )
}

/// One fetch under way.
struct Session<'a> {
    target: &'a Target,
    limits: Limits,
    connect_deadline: Instant,
    deadline: Instant,
}

impl Session<'_> {
    /// Addresses of the target. The system's resolver knows no deadline, so a name is looked up
    /// on a thread that is left behind when the resolver hangs.
    fn resolve(&self) -> Result<Vec<SocketAddr>, FetchError> {
        let port = self.target.port();
        let name = match self.target.host() {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, port)]),
            Host::Name(name) => name.clone(),
        };
        let left = remaining(self.connect_deadline)
            .map_err(|bound| self.failed(Phase::Resolve, bound.into()))?;
        let (sender, receiver) = mpsc::channel();
        let look_up = move || {
            let found = (name.as_ref(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // Nobody listens any more once the deadline passed.
            let _ = sender.send(found);
        };
        std::thread::Builder::new()
            .name("resolver".into())
            .spawn(look_up)
            .map_err(|source| self.failed(Phase::Resolve, source))?;
        match receiver.recv_timeout(left) {
            Ok(Ok(addresses)) if addresses.is_empty() => {
                let source = io::Error::from(io::ErrorKind::NotFound);
                Err(FetchError::Resolve { target: self.target.clone(), source })
            }
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(source)) => Err(FetchError::Resolve { target: self.target.clone(), source }),
            Err(_) => Err(self.failed(Phase::Resolve, Bound::Deadline.into())),
        }
    }

    /// Connects to the first address that answers; each gets an equal share of the time left.
    fn connect(&self, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), FetchError> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for (index, address) in addresses.iter().enumerate() {
            let left = remaining(self.connect_deadline)
                .map_err(|bound| self.failed(Phase::Connect, bound.into()))?;
            let shares = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
            let share = (left / shares).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(address, share) {
                Ok(tcp) => return Ok((tcp, *address)),
                Err(error) => last = error,
            }
        }
        if last.kind() == io::ErrorKind::TimedOut {
            last = Bound::Deadline.into();
        }
        Err(self.failed(Phase::Connect, last))
    }

    fn handshake(
        &self,
        tcp: TcpStream,
    ) -> Result<StreamOwned<ClientConnection, BoundedStream>, FetchError> {
        let config = Arc::new(tls::client_config().map_err(FetchError::Setup)?);
        let name = self.target.host().server_name();
        let mut connection = ClientConnection::new(config, name).map_err(FetchError::Setup)?;
        let mut stream = BoundedStream::new(tcp, self.deadline, evidence::MAX_LEN + OVERHEAD);
        while connection.is_handshaking() {
            connection
                .complete_io(&mut stream)
                .map_err(|error| self.failed(Phase::Handshake, error))?;
        }
        Ok(StreamOwned::new(connection, stream))
    }

    /// Names what failed: a bound first, else the phase.
    fn failed(&self, phase: Phase, source: io::Error) -> FetchError {
        let target = self.target.clone();
        match (Bound::of(&source), phase) {
            (Some(Bound::Deadline), Phase::Resolve | Phase::Connect) => {
                let after = self.limits.connect.min(self.limits.total);
                FetchError::Deadline { target, phase, after }
            }
            (Some(Bound::Deadline), _) => {
                FetchError::Deadline { target, phase, after: self.limits.total }
            }
            (Some(Bound::Flood), _) => {
                FetchError::Flood { target, phase, limit: evidence::MAX_LEN + OVERHEAD }
            }
            (None, Phase::Resolve) => FetchError::Resolve { target, source },
            (None, Phase::Connect) => FetchError::Connect { target, source },
            (None, Phase::Handshake) => FetchError::Handshake { target, source },
            (None, Phase::Request) => FetchError::Request { target, source },
            (None, Phase::Response) => {
                FetchError::Response { target, source: HttpError::Read(source) }
            }
        }
    }
}

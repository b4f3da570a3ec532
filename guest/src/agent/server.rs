//! Serves verifiers over TLS, one request per connection, whoever they are.
//!
//! Anybody may connect. A connection has a thread, a moment at which it ends, and bounded bytes;
//! when all places are taken, the oldest that has not asked yet is put out for the new one, so
//! that clients who connect and say nothing cannot keep others out.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::AgentError;
use super::deadline::Deadline;
use super::http::{self, MAX_HEAD, Refusal};
use super::issuer::Issuer;

/// Stack of a connection's thread.
const STACK: usize = 512 * 1024;
/// Pause after the kernel refused a connection (no descriptors, no memory).
const PAUSE: Duration = Duration::from_millis(50);
/// How long a client has to take note of the end of an answer.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long those who were put out may take to end.
const ENDING: Duration = Duration::from_secs(1);

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Time for the handshake and the request.
    pub request: Duration,
    /// Time for the report.
    pub report: Duration,
    /// Time for the client to read the answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            request: Duration::from_secs(10),
            report: Duration::from_secs(20),
            answer: Duration::from_secs(10),
        }
    }
}

/// Serves for ever.
///
/// # Errors
/// Never: a connection that fails is the client's loss.
pub fn serve(
    listener: &TcpListener,
    tls: &Arc<ServerConfig>,
    issuer: &Arc<Issuer>,
    limits: Limits,
) -> Result<Infallible, AgentError> {
    let places = Arc::new(Places::new(limits.connections));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(PAUSE);
            continue;
        };
        let Some(place) = Place::take(&places, &stream) else { continue };
        let (tls, issuer) = (Arc::clone(tls), Arc::clone(issuer));
        // Without a thread the connection is dropped, and its place with it.
        let _ = thread::Builder::new().stack_size(STACK).spawn(move || {
            let _ = converse(stream, &place, tls, &issuer, limits);
        });
    }
}

/// Reads one request, answers it, and says goodbye.
fn converse(
    stream: TcpStream,
    place: &Place,
    tls: Arc<ServerConfig>,
    issuer: &Issuer,
    limits: Limits,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut client = StreamOwned::new(connection, Deadline::new(stream, limits.request));
    let answer = match read_request(&mut client)? {
        Ok(nonce) => {
            if !place.asked() {
                return Ok(());
            }
            match issuer.evidence(&nonce, limits.report) {
                Ok(evidence) => http::found(&evidence),
                Err(refusal) => refusal.response(),
            }
        }
        Err(refusal) => refusal.response(),
    };
    client.sock.extend(limits.answer);
    client.write_all(&answer)?;
    client.conn.send_close_notify();
    client.flush()?;
    client.sock.stream().shutdown(Shutdown::Write)?;
    // Unread bytes at the end would make the kernel cut the answer off with a reset.
    client.sock.extend(GOODBYE);
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if client.sock.read(&mut rest)? == 0 {
            break;
        }
    }
    Ok(())
}

fn read_request(
    client: &mut StreamOwned<ServerConnection, Deadline>,
) -> io::Result<Result<casemate_measurements::hash::Nonce, Refusal>> {
    let mut head = [0; MAX_HEAD];
    let mut len = 0;
    loop {
        match http::parse(&head[..len]) {
            Ok(Some(nonce)) => return Ok(Ok(nonce)),
            Err(refusal) => return Ok(Err(refusal)),
            Ok(None) => {}
        }
        match client.read(&mut head[len..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => len += read,
        }
    }
}

/// The connections there are.
#[derive(Debug)]
struct Places {
    limit: usize,
    open: Mutex<Open>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// Threads that have not ended, those that were put out among them.
    threads: usize,
    waiting: BTreeMap<u64, TcpStream>,
    asked: usize,
}

impl Places {
    fn new(limit: usize) -> Self {
        Self { limit, open: Mutex::default(), ended: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // The counts are right between any two statements, so a panic spoils nothing.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place; given back when it is dropped.
#[derive(Debug)]
struct Place {
    id: u64,
    places: Arc<Places>,
    asked: AtomicBool,
}

impl Place {
    /// Takes a place, from the oldest connection that has not asked yet if there is no other.
    fn take(places: &Arc<Places>, stream: &TcpStream) -> Option<Self> {
        let handle = stream.try_clone().ok()?;
        let mut open = places.lock();
        if open.waiting.len() + open.asked >= places.limit {
            let (_, oldest) = open.waiting.pop_first()?;
            let _ = oldest.shutdown(Shutdown::Both);
        }
        // Those put out are about to end: their sockets are shut and nothing else holds them up.
        let full = |open: &mut Open| open.threads >= places.limit * 2;
        let (mut open, waited) = places
            .ended
            .wait_timeout_while(open, ENDING, full)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.threads += 1;
        open.waiting.insert(id, handle);
        Some(Self { id, places: Arc::clone(places), asked: false.into() })
    }

    /// Notes that the connection has asked: it is not put out any more. `false` if it was.
    fn asked(&self) -> bool {
        let mut open = self.places.lock();
        if open.waiting.remove(&self.id).is_none() {
            return false;
        }
        open.asked += 1;
        self.asked.store(true, Ordering::Relaxed);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.lock();
        open.threads -= 1;
        open.waiting.remove(&self.id);
        if self.asked.load(Ordering::Relaxed) {
            open.asked -= 1;
        }
        self.places.ended.notify_one();
    }
}

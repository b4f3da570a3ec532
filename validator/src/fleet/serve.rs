//! Serves the metrics over HTTP, to whoever asks on an address that the operator chose.
//!
//! A few connections at a time, each with a deadline and a bound on what is read. At most 32 hung
//! clients are waited for at once, each until its deadline. Nothing but the metrics waits for them.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use crate::wire::BoundedStream;

/// Most connections that are served at once; further ones wait.
const AT_ONCE: usize = 32;
/// Most bytes of a request.
const MAX_REQUEST: usize = 8 * 1024;
/// Time for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The type of what is served.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens on `address` and serves `metrics` from a thread of its own, for as long as the program
/// runs; the address that it listens on.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(address: SocketAddr, metrics: Arc<Mutex<Metrics>>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("metrics".into()).spawn(move || {
        let busy = Arc::new(AtomicUsize::new(0));
        for tcp in listener.incoming() {
            let served = tcp.and_then(|tcp| {
                while busy.load(Ordering::Acquire) >= AT_ONCE {
                    thread::sleep(Duration::from_millis(20));
                }
                let place = Place::take(&busy);
                let metrics = Arc::clone(&metrics);
                let serve = move || {
                    // Nobody waits for an answer to a client that went away.
                    let _ = answer(tcp, &metrics);
                    drop(place);
                };
                thread::Builder::new().name("metrics".into()).spawn(serve)
            });
            // The kernel has no connection or thread to give at the moment.
            if served.is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    })?;
    Ok(address)
}

/// A connection that is served; its place is free when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(busy: &Arc<AtomicUsize>) -> Self {
        busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(busy))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn answer(tcp: TcpStream, metrics: &Mutex<Metrics>) -> io::Result<()> {
    let mut stream = BoundedStream::new(tcp, Instant::now() + PATIENCE, MAX_REQUEST);
    let mut request = Vec::new();
    let (status, body) = loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&request) {
            Ok(httparse::Status::Complete(_)) => match (parsed.method, parsed.path) {
                (Some("GET"), Some("/metrics")) => {
                    let metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
                    break ("200 OK", metrics.encode().map_err(io::Error::other)?);
                }
                _ => break ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
            },
            Err(_) => break ("400 Bad Request", String::new()),
            Ok(httparse::Status::Partial) => {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes)?;
                if count == 0 {
                    return Ok(());
                }
                request.extend_from_slice(&bytes[..count]);
            }
        }
    };
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {len}\r\nConnection: \
         close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

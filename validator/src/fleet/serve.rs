//! Serves the metrics over HTTP, to whoever asks on an address that the operator chose.
//!
//! One connection at a time, each with a deadline and a bound on what is read: a client that
//! hangs delays other readers of the metrics and nothing else.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::metrics::Metrics;
use crate::wire::BoundedStream;

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
        for tcp in listener.incoming() {
            // A client that goes away is its own affair; so is one that the kernel cannot take.
            match tcp {
                Ok(tcp) => _ = answer(tcp, &metrics),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    })?;
    Ok(address)
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

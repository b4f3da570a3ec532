//! HTTP for both of the daemon's listeners, with bounds on everything that a client decides: how
//! long it takes, how much it sends, how many connections it holds. hyper parses.
//!
//! When every place is taken, the connection that has lasted longest is ended: an honest request
//! takes milliseconds, so a client that dawdles makes room for one that does not.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::AbortHandle;

/// Most bytes of a request's line and headers.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Pause after the system refused a connection, as when it has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener allows its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Connections at once from one address.
    pub(crate) from_one: usize,
    /// Time for a request's line and headers.
    pub(crate) head: Duration,
    /// Time for a connection, all in all.
    pub(crate) whole: Duration,
    /// Bytes of a request's body; it is not read when none are allowed.
    pub(crate) body: usize,
}

/// A request, read.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) body: Bytes,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
    /// The methods that would have been right.
    pub(crate) allow: Option<&'static str>,
}

/// The type of JSON.
pub(crate) const JSON: &str = "application/json";

impl Answer {
    /// A document.
    pub(crate) fn new(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: StatusCode::OK, content_type, body: body.into(), allow: None }
    }

    /// A value as JSON.
    pub(crate) fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self { status, ..Self::new(JSON, body) }
    }

    /// An error, with what to do about it where something can be done.
    pub(crate) fn error(status: StatusCode, message: &str, hint: Option<&str>) -> Self {
        Self::json(status, &serde_json::json!({"error": message, "hint": hint}))
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let nothing = HeaderValue::from_static("default-src 'none'");
        headers.insert(CONTENT_SECURITY_POLICY, nothing);
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// The answer to one.
    fn answer(&self, asked: Asked) -> impl Future<Output = Answer> + Send;
}

/// Where connections come from.
pub(crate) trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one, and its address where it has one.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<IpAddr>)>>;
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        let (stream, address) = self.accept().await?;
        Ok((stream, Some(address.ip())))
    }
}

/// A Unix socket: its clients are this user or root.
impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<(Self::Stream, Option<IpAddr>)> {
        loop {
            let (stream, _) = self.accept().await?;
            let own = nix::unistd::geteuid().as_raw();
            let allowed = stream.peer_cred().is_ok_and(|peer| [0, own].contains(&peer.uid()));
            if allowed {
                return Ok((stream, None));
            }
        }
    }
}

/// The connections that there are, oldest first.
#[derive(Debug, Default)]
struct Connections(VecDeque<(AbortHandle, Option<IpAddr>)>);

impl Connections {
    /// Makes room for one more.
    fn make_room(&mut self, limits: &Limits, from: Option<IpAddr>) {
        self.0.retain(|(task, _)| !task.is_finished());
        let of_it = |(_, address): &(AbortHandle, Option<IpAddr>)| *address == from;
        let many =
            from.is_some() && self.0.iter().filter(|one| of_it(one)).count() >= limits.from_one;
        let oldest = match (many, self.0.len() >= limits.connections) {
            (true, _) => self.0.iter().position(of_it),
            (false, true) => Some(0),
            (false, false) => None,
        };
        if let Some((task, _)) = oldest.and_then(|at| self.0.remove(at)) {
            task.abort();
        }
    }
}

/// Answers requests until the future is dropped.
pub(crate) async fn serve<L: Listener, H: Handler>(listener: L, limits: Limits, handler: Arc<H>) {
    let mut connections = Connections::default();
    loop {
        let Ok((stream, address)) = listener.next().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        connections.make_room(&limits, address);
        let task = tokio::spawn(connection(stream, limits, Arc::clone(&handler)));
        connections.0.push_back((task.abort_handle(), address));
    }
}

async fn connection<S, H>(stream: S, limits: Limits, handler: Arc<H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let service = service_fn(|request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, hyper::Error>(answer(request, limits, &*handler).await.response()) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // What a client does to its own connection concerns nobody else.
    let _ = tokio::time::timeout(limits.whole, served).await;
}

async fn answer<H: Handler>(request: Request<Incoming>, limits: Limits, handler: &H) -> Answer {
    let method = request.method().as_str().to_owned();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let body = if limits.body == 0 {
        Bytes::new()
    } else {
        let read = Limited::new(request.into_body(), limits.body).collect().await;
        let Ok(body) = read else {
            let text = format!("the body is not complete or has more than {} bytes", limits.body);
            return Answer::error(StatusCode::PAYLOAD_TOO_LARGE, &text, None);
        };
        body.to_bytes()
    };
    handler.answer(Asked { method, target, body }).await
}

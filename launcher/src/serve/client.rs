//! Asks the daemon over its socket. For command lines: every call waits for its answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::records::Event;
use super::view::{HostView, VmView};
use super::wire::RunRequest;
use crate::state::VmName;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Time for an answer, beside what the question itself waits for.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It cannot be reached.
    #[error("cannot ask the daemon at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its answer cannot be had.
    #[error("the daemon at {} broke off: {problem}", path.display())]
    Broken {
        /// Its socket.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// It refuses.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
}

/// A daemon that listens.
#[derive(Debug, Clone)]
pub struct Client(PathBuf);

impl Client {
    /// The daemon behind a socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.0
    }

    /// What the daemon tells of itself.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn host(&self) -> Result<HostView, ClientError> {
        self.ask(Method::GET, "/v1/host", None)
    }

    /// Every VM.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn list(&self) -> Result<Vec<VmView>, ClientError> {
        self.ask(Method::GET, "/v1/vms", None)
    }

    /// One VM.
    ///
    /// # Errors
    /// When it is not known, or the daemon cannot be asked.
    pub fn status(&self, name: &VmName) -> Result<VmView, ClientError> {
        self.ask(Method::GET, &format!("/v1/vms/{name}"), None)
    }

    /// Has a VM started. It is recorded when this returns; events say how its boot goes.
    ///
    /// # Errors
    /// When the daemon refuses it or cannot be asked.
    pub fn run(&self, request: &RunRequest) -> Result<VmView, ClientError> {
        let body = serde_json::to_vec(request).map_err(|error| self.broken(&error))?;
        self.ask(Method::POST, "/v1/vms", Some(body))
    }

    /// Has a VM stopped: the guest gets `timeout` to power off.
    ///
    /// # Errors
    /// When it is not known, or the daemon cannot be asked.
    pub fn stop(&self, name: &VmName, timeout: Duration) -> Result<VmView, ClientError> {
        let seconds = timeout.as_secs();
        self.ask(Method::POST, &format!("/v1/vms/{name}/stop?timeout={seconds}"), None)
    }

    /// Has a VM started again that is known and does not run, whatever became of it.
    ///
    /// # Errors
    /// When it runs or is not known, or the daemon cannot be asked.
    pub fn start(&self, name: &VmName) -> Result<VmView, ClientError> {
        self.ask(Method::POST, &format!("/v1/vms/{name}/start"), None)
    }

    /// Has a VM forgotten that does not run.
    ///
    /// # Errors
    /// When it runs or is not known, or the daemon cannot be asked.
    pub fn forget(&self, name: &VmName) -> Result<(), ClientError> {
        let gone: Value = self.ask(Method::DELETE, &format!("/v1/vms/{name}"), None)?;
        drop(gone);
        Ok(())
    }

    /// Events after a number, or the last ones; waits up to `wait_seconds` for one.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub fn events(
        &self,
        after: Option<u64>,
        name: Option<&VmName>,
        wait_seconds: u64,
    ) -> Result<Vec<Event>, ClientError> {
        let mut target = format!("/v1/events?wait={wait_seconds}");
        if let Some(after) = after {
            target = format!("{target}&after={after}");
        }
        if let Some(name) = name {
            target = format!("{target}&name={name}");
        }
        self.ask(Method::GET, &target, None)
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        let problem = casemate_measurements::causes::in_one_line(error);
        ClientError::Broken { path: self.0.clone(), problem }
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.broken(&error))?;
        let exchange = self.exchange(method, target, body.unwrap_or_default());
        let timed = async { tokio::time::timeout(PATIENCE * 2, exchange).await };
        let answered = runtime.block_on(timed);
        let (status, body) = answered.map_err(|error| self.broken(&error))??;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(&error));
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
        let message = text("error").unwrap_or_else(|| format!("the daemon answered {status}"));
        Err(ClientError::Refused { message, hint: text("hint") })
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<(hyper::StatusCode, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.0)
            .await
            .map_err(|source| ClientError::Connect { path: self.0.clone(), source })?;
        let broken = |error: hyper::Error| self.broken(&error);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(hyper::header::HOST, "casemate")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken(&*error))?.to_bytes();
        driver.abort();
        Ok((status, body))
    }
}

//! The daemon's own interface: JSON over HTTP on a Unix socket that only its user and root reach.

use std::sync::mpsc::Sender;
use std::time::Duration;

use casemate_measurements::causes::in_one_line;
use hyper::StatusCode;
use serde::Serialize;
use tokio::sync::{oneshot, watch};

use super::http::{Answer, Asked, Handler};
use super::manager::{Command, Refused, Reply};
use super::request::Accepted;
use super::view::HostView;
use super::wire::{self, EventsRequest, Refusal, Request, RunRequest};
use crate::state::{StateRoot, VmName};
use crate::stopping::DEFAULT_TIME;

/// Answers clients.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) sender: Sender<Command>,
    pub(crate) changed: watch::Receiver<u64>,
    pub(crate) root: StateRoot,
    pub(crate) host: HostView,
}

/// An error as an answer.
fn refused(refused: Refused) -> Answer {
    match refused {
        Refused::Unknown(name) => {
            let text = format!("no VM named {name} is known");
            Answer::error(StatusCode::NOT_FOUND, &text, Some("`casemate ps` lists the VMs"))
        }
        Refused::Conflict { message, hint } => {
            Answer::error(StatusCode::CONFLICT, &message, Some(hint))
        }
        Refused::Records(problem) => {
            let hint = "is the disk full or read-only? The request was not carried out";
            Answer::error(StatusCode::INSUFFICIENT_STORAGE, &problem, Some(hint))
        }
    }
}

fn ended() -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending", None)
}

fn malformed(error: &dyn std::error::Error) -> Answer {
    Answer::error(StatusCode::BAD_REQUEST, &in_one_line(error), None)
}

impl Handler for Api {
    async fn answer(&self, asked: Asked) -> Answer {
        match wire::parse(&asked.method, &asked.target, &asked.body) {
            Ok(request) => self.carry_out(request).await.unwrap_or_else(|answer| answer),
            Err(error) => {
                let (status, allow) = match &error {
                    Refusal::NotFound { .. } => (StatusCode::NOT_FOUND, None),
                    Refusal::Method { expected, .. } => {
                        (StatusCode::METHOD_NOT_ALLOWED, Some(*expected))
                    }
                    Refusal::TooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, None),
                    Refusal::Query { .. } | Refusal::Body { .. } => (StatusCode::BAD_REQUEST, None),
                };
                Answer { allow, ..Answer::error(status, &error.to_string(), None) }
            }
        }
    }
}

impl Api {
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(command(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(refused)
    }

    async fn carry_out(&self, request: Request) -> Result<Answer, Answer> {
        let name = |name: String| name.parse::<VmName>().map_err(|error| malformed(&error));
        match request {
            Request::Host => {
                let mut host = self.host.clone();
                host.last_event = *self.changed.borrow();
                host.trouble = self.ask(Command::Trouble).await?.map(|trouble| trouble.text);
                Ok(ok(&host))
            }
            Request::List => Ok(ok(&self.ask(Command::List).await?)),
            Request::Status { name: vm } => {
                let vm = name(vm)?;
                Ok(ok(&self.ask(|reply| Command::Status(vm, reply)).await?))
            }
            Request::Run(request) => self.run(*request).await,
            Request::Stop { name: vm, timeout } => {
                let vm = name(vm)?;
                let timeout = timeout.map_or(DEFAULT_TIME, Duration::from_secs);
                let view = self.ask(|reply| Command::Stop(vm, timeout, reply)).await?;
                Ok(Answer::json(StatusCode::ACCEPTED, &view))
            }
            Request::Start { name: vm } => {
                let vm = name(vm)?;
                let view = self.ask(|reply| Command::Start(vm, reply)).await?;
                Ok(Answer::json(StatusCode::ACCEPTED, &view))
            }
            Request::Forget { name: vm } => {
                let vm = name(vm)?;
                self.ask(|reply| Command::Forget(vm, reply)).await?;
                Ok(ok(&serde_json::Value::Null))
            }
            Request::Events(request) => self.events(request).await,
        }
    }

    async fn run(&self, request: RunRequest) -> Result<Answer, Answer> {
        let root = self.root.clone();
        // Reads a manifest and computes a digest.
        let checked = tokio::task::spawn_blocking(move || Accepted::check(request, &root));
        let accepted = checked.await.map_err(|_| ended())?.map_err(|error| malformed(&error))?;
        let view = self.ask(|reply| Command::Run(Box::new(accepted), reply)).await?;
        Ok(Answer::json(StatusCode::ACCEPTED, &view))
    }

    /// Events, after waiting for one if there is none.
    async fn events(&self, request: EventsRequest) -> Result<Answer, Answer> {
        let mut changed = self.changed.clone();
        let wait = tokio::time::sleep(Duration::from_secs(request.wait));
        tokio::pin!(wait);
        loop {
            changed.mark_unchanged();
            let asked = request.clone();
            let events = self.ask(|reply| Command::Events(asked, reply)).await?;
            if !events.is_empty() || request.wait == 0 {
                return Ok(ok(&events));
            }
            let woken = tokio::time::timeout_at(wait.deadline(), changed.changed()).await;
            if !matches!(woken, Ok(Ok(()))) {
                return Ok(ok(&events));
            }
        }
    }
}

fn ok(value: &impl Serialize) -> Answer {
    Answer::json(StatusCode::OK, value)
}

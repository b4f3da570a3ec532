//! What a miner publishes: for each VM its release, the launch digest that its reports must
//! carry and where to ask for them. Read-only, GET alone, over plain HTTP: a validator believes
//! the attestation report and the release's signature, not this.

pub(crate) mod document;
pub(crate) mod files;
mod metrics;

use std::sync::mpsc::Sender;

use casemate_measurements::causes::in_one_line;
use casemate_measurements::export::{Subject, sek8s_yaml};
use casemate_measurements::manifest::ReferenceValue;
use hyper::StatusCode;
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::serve::{Answer, Asked, Handler, JSON, ManagerCommand as Command, Reply};
use document::Published;

/// The description of this interface.
pub const OPENAPI: &str = include_str!("openapi.json");
/// The type of YAML.
const YAML: &str = "application/yaml";
/// Most files read at once: each may take megabytes.
const AT_ONCE: usize = 4;

/// Answers anyone on the network.
#[derive(Debug)]
pub(crate) struct Publisher {
    sender: Sender<Command>,
    readers: Semaphore,
}

/// How a document is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Sek8sYaml,
}

fn form(query: &str) -> Result<Form, Answer> {
    match query {
        "" | "format=json" => Ok(Form::Json),
        "format=sek8s-yaml" => Ok(Form::Sek8sYaml),
        _ => {
            let text = "the query may be format=json or format=sek8s-yaml, and nothing else";
            Err(Answer::error(StatusCode::BAD_REQUEST, text, None))
        }
    }
}

fn not_found() -> Answer {
    let hint = "/openapi.json describes what there is";
    Answer::error(StatusCode::NOT_FOUND, "there is no such document", Some(hint))
}

fn unavailable(problem: &str) -> Answer {
    Answer::error(StatusCode::SERVICE_UNAVAILABLE, problem, None)
}

impl Publisher {
    pub(crate) fn new(sender: Sender<Command>) -> Self {
        Self { sender, readers: Semaphore::new(AT_ONCE) }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        let ended = || unavailable("the publisher is ending");
        self.sender.send(command(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?.map_err(|_| ended())
    }

    async fn vms(&self) -> Result<Vec<Published>, Answer> {
        self.ask(Command::Publish).await
    }

    /// Does something that reads files, a few at a time.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Answer> {
        let _turn = self.readers.acquire().await.map_err(|_| unavailable("ending"))?;
        tokio::task::spawn_blocking(read).await.map_err(|_| unavailable("ending"))
    }

    async fn document(&self, path: &str, query: &str) -> Result<Answer, Answer> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match parts.as_slice() {
            ["openapi.json"] => Ok(Answer::new(JSON, OPENAPI)),
            ["health"] => match self.ask(Command::Trouble).await? {
                None => Ok(Answer::json(StatusCode::OK, &json!({"ok": true}))),
                Some(trouble) => Err(unavailable(&trouble.public)),
            },
            ["metrics"] => {
                let text = metrics::text(&self.vms().await?);
                text.map(|text| Answer::new(metrics::TYPE, text))
                    .map_err(|error| unavailable(&error.to_string()))
            }
            ["v1", "vms"] => {
                let vms = self.vms().await?;
                let all = move || vms.into_iter().map(Published::with_files).collect::<Vec<_>>();
                let vms = self.reading(all).await?;
                Ok(Answer::json(StatusCode::OK, &json!({"schema": 1, "vms": vms})))
            }
            ["v1", "vms", name] => {
                let form = form(query)?;
                let found = self.vms().await?.into_iter().find(|vm| vm.name() == *name);
                let vm = found.ok_or_else(not_found)?;
                if form == Form::Sek8sYaml {
                    return yaml(&vm, &[vm.reference_value()]);
                }
                let vm = self.reading(move || vm.with_files()).await?;
                Ok(Answer::json(StatusCode::OK, &vm))
            }
            ["v1", "releases", hash] => self.release(hash, form(query)?).await,
            ["v1", "releases", hash, file @ ..] if (1..=2).contains(&file.len()) => {
                self.file(hash, file.join("/")).await
            }
            _ => Err(not_found()),
        }
    }

    async fn of_release(&self, hash: &str) -> Result<Published, Answer> {
        let mut vms = self.vms().await?.into_iter();
        let found = vms.find(|vm| vm.release.manifest_sha256.to_string() == hash);
        found.ok_or_else(not_found)
    }

    /// The digests of every shape of a release.
    async fn release(&self, hash: &str, form: Form) -> Result<Answer, Answer> {
        let vm = self.of_release(hash).await?;
        if form == Form::Json {
            return self.file(hash, "manifest.json".to_owned()).await;
        }
        let (dir, sha256) = (vm.release.dir.clone(), vm.release.manifest_sha256);
        let manifest = self.reading(move || files::manifest(&dir, &sha256)).await?;
        let manifest = manifest.map_err(|error| gone(&error))?;
        yaml(&vm, &manifest.reference_values)
    }

    async fn file(&self, hash: &str, name: String) -> Result<Answer, Answer> {
        let vm = self.of_release(hash).await?;
        let (dir, sha256) = (vm.release.dir, vm.release.manifest_sha256);
        let read = self.reading(move || files::file(&dir, &name, &sha256)).await?;
        let bytes = read.map_err(|error| gone(&error))?.ok_or_else(not_found)?;
        Ok(Answer::new(JSON, bytes))
    }
}

/// A file that cannot be published any more. Where it lies is nobody's business.
fn gone(error: &files::FileError) -> Answer {
    let text = match error {
        files::FileError::Replaced { .. } => "the release was replaced since the launch",
        _ => "the file cannot be read",
    };
    Answer::error(StatusCode::GONE, text, None)
}

fn yaml(vm: &Published, rows: &[ReferenceValue]) -> Result<Answer, Answer> {
    let subject = Subject { name: &vm.release.name, version: &vm.release.version };
    let yaml = sek8s_yaml(subject, rows).map_err(|error| unavailable(&in_one_line(&error)))?;
    Ok(Answer::new(YAML, yaml))
}

impl Handler for Publisher {
    async fn answer(&self, asked: Asked) -> Answer {
        if asked.method != "GET" {
            let text = "everything here is read with GET";
            let answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, text, None);
            return Answer { allow: Some("GET"), ..answer };
        }
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        self.document(path, query).await.unwrap_or_else(|answer| answer)
    }
}

//! A directory behind a static web server as a store: it is only read.

use std::io::Read;

use ureq::http::Method;

use super::http::{Answer, Ask, Http};
use super::layout::{Files, Loaded};
use super::{Options, StoreError};
use crate::reference::Place;

/// A web server.
#[derive(Debug)]
pub(super) struct Web {
    base: String,
    http: Http,
}

impl Web {
    pub(super) fn new(place: &Place, options: &Options) -> Self {
        let base = place.to_string();
        let loopback = matches!(place, Place::Web { authority, .. } if authority.is_loopback());
        Self { http: Http::new(base.clone(), options.patience, loopback), base }
    }

    /// Asks for a file; `None` if it is not there.
    fn ask<'a>(
        &self,
        method: Method,
        path: &str,
        from: u64,
        length: u64,
    ) -> Result<(Ask<'a>, Option<Answer>), StoreError> {
        let mut ask = Ask::new(method, format!("{}/{path}", self.base), path);
        ask.length = length;
        if from > 0 {
            ask.headers.push(("Range", format!("bytes={from}-")));
        }
        let answer = self.http.ask(&ask)?;
        match answer.status() {
            200 | 206 => Ok((ask, Some(answer))),
            404 | 410 => Ok((ask, None)),
            _ => Err(self.http.refused(&ask, answer)),
        }
    }
}

impl Files for Web {
    fn name(&self) -> String {
        self.base.clone()
    }

    fn size(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let (_, answer) = self.ask(Method::HEAD, path, 0, 0)?;
        Ok(answer.and_then(|answer| answer.header("Content-Length")?.parse().ok()))
    }

    fn read(
        &self,
        path: &str,
        from: u64,
        rest: u64,
    ) -> Result<Option<Box<dyn Read + Send>>, StoreError> {
        let (ask, answer) = self.ask(Method::GET, path, from, rest)?;
        answer.map(|answer| self.http.from(&ask, answer, from)).transpose()
    }

    fn create(&self, _path: &str, _bytes: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { store: self.name() })
    }

    fn load(&self, path: &str, most: usize) -> Result<Option<Loaded>, StoreError> {
        let (ask, answer) = self.ask(Method::GET, path, 0, most as u64)?;
        let Some(answer) = answer else { return Ok(None) };
        let bytes = self.http.body(&ask, answer, most)?;
        Ok(Some(Loaded { bytes, version: None }))
    }

    fn swap(&self, _path: &str, _bytes: &[u8], _was: Option<&Loaded>) -> Result<bool, StoreError> {
        Err(StoreError::ReadOnly { store: self.name() })
    }
}

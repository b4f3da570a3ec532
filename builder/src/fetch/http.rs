//! Reading a URL from some byte on: over HTTP, or from a file.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::time::Duration;

use casemate_web::{Authorities, Proxies};
use url::Url;

/// Why a source did not serve a file, and what that says about asking it again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It does not have the file; asking again is useless.
    #[error("it does not have the file ({0})")]
    Gone(String),
    /// It refused or sent what makes no sense; asking again is useless.
    #[error("{0}")]
    Refused(String),
    /// It could not be reached, or broke off; asking again may help.
    #[error("{0}")]
    Transient(String),
}

/// A client of all sources. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Http {
    agent: ureq::Agent,
}

/// The bytes of a file from `from` on.
pub(crate) struct Body {
    /// Where they begin: the offset asked for, or 0 if the source does not resume.
    pub(crate) from: u64,
    /// The length of the whole file, if the source says it.
    pub(crate) size: Option<u64>,
    /// The bytes.
    pub(crate) reader: Box<dyn Read>,
}

impl Http {
    /// A client that trusts the system's certificate authorities and uses the proxies that the
    /// environment names. Without answer for `patience` a source counts as unreachable.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        let config = casemate_web::config(Authorities::System)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience));
        Self { agent: casemate_web::agent(config, Proxies::of_environment()) }
    }

    /// Opens `url`, asking for the bytes from `from` on.
    pub(crate) fn open(&self, url: &Url, from: u64) -> Result<Body, SourceError> {
        if url.scheme() == "file" { open_file(url, from) } else { self.open_http(url, from) }
    }

    fn open_http(&self, url: &Url, from: u64) -> Result<Body, SourceError> {
        let mut request = self.agent.get(url.as_str());
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| classify(&error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let (from, size) = match status {
            200 => (0, header("Content-Length").and_then(|text| text.parse().ok())),
            206 => {
                let (start, size) =
                    header("Content-Range").and_then(content_range).ok_or_else(|| {
                        SourceError::Refused("it sent a part but not which".to_owned())
                    })?;
                if start != from {
                    let message =
                        format!("asked for bytes from {from} on, it sent those from {start} on");
                    return Err(SourceError::Refused(message));
                }
                (from, size)
            }
            404 | 410 => return Err(SourceError::Gone(format!("HTTP status {status}"))),
            408 | 425 | 429 | 500..=599 => {
                return Err(SourceError::Transient(format!("HTTP status {status}")));
            }
            _ => return Err(SourceError::Refused(format!("HTTP status {status}"))),
        };
        Ok(Body { from, size, reader: Box::new(response.into_body().into_reader()) })
    }
}

/// `bytes 10-99/100` gives 10 and the whole length, which may be unknown.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, size.parse().ok()))
}

fn open_file(url: &Url, from: u64) -> Result<Body, SourceError> {
    let path = url
        .to_file_path()
        .map_err(|()| SourceError::Refused("it is no path of this machine".to_owned()))?;
    let open = || -> io::Result<Body> {
        let mut file = File::open(&path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(from))?;
        Ok(Body { from, size: Some(size), reader: Box::new(file) })
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SourceError::Gone("no such file".to_owned()),
        _ => SourceError::Refused(error.to_string()),
    })
}

fn classify(error: &ureq::Error) -> SourceError {
    use ureq::Error as E;
    match error {
        E::Io(_)
        | E::Timeout(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::BodyStalled
        | E::Protocol(_) => SourceError::Transient(error.to_string()),
        _ => SourceError::Refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(content_range("bytes 10-99/*"), Some((10, None)));
        assert_eq!(content_range("bytes */100"), None);
        assert_eq!(content_range("items 1-2/3"), None);
    }
}

//! What a client may ask of the daemon, parsed at its edge. Whoever can reach the socket writes
//! these bytes, so they are read with bounds and nothing in them is trusted to make sense.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::restart::Restart;

/// Most bytes of a request's body: a plan with the largest launch config.
pub(crate) const MAX_BODY: usize = 1024 * 1024;
/// Most bytes of a request's path and query.
const MAX_TARGET: usize = 1024;
/// Most events in one answer.
pub(crate) const MAX_EVENTS: u32 = 500;
/// Most seconds that a question for events waits for one.
pub(crate) const MAX_WAIT: u64 = 60;
/// Most seconds that a guest gets to power off.
const MAX_TIMEOUT: u64 = 24 * 3600;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no such thing.
    #[error("there is no {path:?}: expected one of /v1/host, /v1/vms, /v1/vms/NAME, /v1/events")]
    NotFound {
        /// What was asked for, shortened.
        path: String,
    },
    /// It cannot be done with this.
    #[error("{path} takes {expected}, not {found}")]
    Method {
        /// What was asked for.
        path: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What was sent, shortened.
        found: String,
    },
    /// The query is malformed.
    #[error("{key}={value:?} in the query: expected {expected}")]
    Query {
        /// Which part of it.
        key: String,
        /// Its value, shortened.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The body is malformed.
    #[error("the body is malformed: {problem}")]
    Body {
        /// Why.
        problem: String,
    },
    /// Something is too long.
    #[error("{what} has more than {most} bytes")]
    TooLong {
        /// What.
        what: &'static str,
        /// How long it may be.
        most: usize,
    },
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// What the daemon is and where it keeps state.
    Host,
    /// Every VM.
    List,
    /// One VM.
    Status { name: String },
    /// Start a VM.
    Run(Box<RunRequest>),
    /// Stop a VM; the guest gets so many seconds to power off.
    Stop { name: String, timeout: Option<u64> },
    /// Start a VM again that is known.
    Start { name: String },
    /// Forget a VM that does not run.
    Forget { name: String },
    /// What happened after an event.
    Events(EventsRequest),
}

/// A VM to start, and what becomes of it when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// Version of this format: [`RunRequest::SCHEMA`].
    pub schema: u32,
    /// The release directory, absolute.
    pub release: String,
    /// A [`crate::plan::LaunchPlan`], as `casemate run --plan --format json` prints it.
    pub plan: Value,
    /// What becomes of the VM when it ends.
    #[serde(default)]
    pub restart: Restart,
}

impl RunRequest {
    /// The version of the format that this code reads and writes.
    pub const SCHEMA: u32 = 1;
}

/// Which events are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EventsRequest {
    /// Only events with a greater number; without, the last ones.
    pub(crate) after: Option<u64>,
    /// Only events of this VM.
    pub(crate) name: Option<String>,
    /// How many.
    pub(crate) limit: Option<u32>,
    /// How many seconds to wait for one.
    pub(crate) wait: u64,
}

/// Reads a request.
pub(crate) fn parse(method: &str, target: &str, body: &[u8]) -> Result<Request, Refusal> {
    if target.len() > MAX_TARGET {
        return Err(Refusal::TooLong { what: "the path", most: MAX_TARGET });
    }
    if body.len() > MAX_BODY {
        return Err(Refusal::TooLong { what: "the body", most: MAX_BODY });
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let takes = |path, expected| Refusal::Method { path, expected, found: shorten(method) };
    match (parts.as_slice(), method) {
        (["v1", "host"], "GET") => Ok(Request::Host),
        (["v1", "host"], _) => Err(takes("/v1/host", "GET")),
        (["v1", "vms"], "GET") => Ok(Request::List),
        (["v1", "vms"], "POST") => Ok(Request::Run(Box::new(run(body)?))),
        (["v1", "vms"], _) => Err(takes("/v1/vms", "GET or POST")),
        (["v1", "vms", name], "GET") => Ok(Request::Status { name: (*name).to_owned() }),
        (["v1", "vms", name], "DELETE") => Ok(Request::Forget { name: (*name).to_owned() }),
        (["v1", "vms", _], _) => Err(takes("/v1/vms/NAME", "GET or DELETE")),
        (["v1", "vms", name, "stop"], "POST") => {
            Ok(Request::Stop { name: (*name).to_owned(), timeout: stop_query(query)? })
        }
        (["v1", "vms", name, "start"], "POST") => Ok(Request::Start { name: (*name).to_owned() }),
        (["v1", "vms", _, "stop" | "start"], _) => Err(takes("/v1/vms/NAME/stop or start", "POST")),
        (["v1", "events"], "GET") => Ok(Request::Events(events(query)?)),
        (["v1", "events"], _) => Err(takes("/v1/events", "GET")),
        _ => Err(Refusal::NotFound { path: shorten(path) }),
    }
}

fn run(body: &[u8]) -> Result<RunRequest, Refusal> {
    let malformed = |problem: String| Refusal::Body { problem };
    let request: RunRequest =
        serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
    if request.schema != RunRequest::SCHEMA {
        let (found, expected) = (request.schema, RunRequest::SCHEMA);
        return Err(malformed(format!("schema {found}, expected {expected}")));
    }
    if !request.release.starts_with('/') {
        let found = shorten(&request.release);
        return Err(malformed(format!("release {found:?}, expected an absolute path")));
    }
    Ok(request)
}

fn stop_query(query: &str) -> Result<Option<u64>, Refusal> {
    let mut timeout = None;
    for (key, value) in pairs(query) {
        match key {
            "timeout" => timeout = Some(number(key, value, MAX_TIMEOUT)?),
            _ => return Err(unknown(key, value, "timeout alone")),
        }
    }
    Ok(timeout)
}

fn events(query: &str) -> Result<EventsRequest, Refusal> {
    let mut request = EventsRequest::default();
    for (key, value) in pairs(query) {
        match key {
            "after" => request.after = Some(number(key, value, u64::MAX >> 1)?),
            "name" => request.name = Some(value.to_owned()),
            "limit" => {
                let most = u64::from(MAX_EVENTS);
                request.limit = u32::try_from(number(key, value, most)?).ok();
            }
            "wait" => request.wait = number(key, value, MAX_WAIT)?,
            _ => return Err(unknown(key, value, "after, name, limit or wait")),
        }
    }
    Ok(request)
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, "")))
}

fn number(key: &str, value: &str, most: u64) -> Result<u64, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = if digits { value.parse().ok() } else { None };
    let expected = "a whole number that is not too large";
    number.filter(|n| *n <= most).ok_or_else(|| unknown(key, value, expected))
}

fn unknown(key: &str, value: &str, expected: &'static str) -> Refusal {
    Refusal::Query { key: shorten(key), value: shorten(value), expected }
}

/// The printable start of a text.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({"schema": 1, "release": "/r", "plan": {}})).unwrap()
    }

    #[test]
    fn what_can_be_asked() {
        let name = "vm-1".to_owned();
        let ask = |method, target| parse(method, target, b"").unwrap();
        assert_eq!(ask("GET", "/v1/vms"), Request::List);
        assert_eq!(ask("GET", "/v1/vms/vm-1"), Request::Status { name: name.clone() });
        assert_eq!(ask("DELETE", "/v1/vms/vm-1"), Request::Forget { name: name.clone() });
        assert_eq!(
            ask("POST", "/v1/vms/vm-1/stop?timeout=7"),
            Request::Stop { name: name.clone(), timeout: Some(7) }
        );
        let events = EventsRequest { after: Some(3), name: Some(name), limit: Some(9), wait: 60 };
        assert_eq!(
            ask("GET", "/v1/events?after=3&name=vm-1&limit=9&wait=60"),
            Request::Events(events)
        );
        let Request::Run(request) = parse("POST", "/v1/vms", &body()).unwrap() else { panic!() };
        assert_eq!((request.release.as_str(), request.restart), ("/r", Restart::default()));
    }

    #[test]
    fn what_is_refused_says_why() {
        let refused = |method, target: &str, body: &[u8]| {
            parse(method, target, body).unwrap_err().to_string()
        };
        assert!(refused("GET", "/", b"").contains("/v1/vms"));
        assert!(refused("PUT", "/v1/vms", b"").contains("takes GET or POST, not PUT"));
        assert!(refused("GET", "/v1/events?wait=61", b"").contains("wait=\"61\""));
        assert!(refused("GET", "/v1/events?after=-1", b"").contains("whole number"));
        assert!(refused("POST", "/v1/vms/a/stop?force=1", b"").contains("timeout alone"));
        assert!(refused("POST", "/v1/vms", b"{").contains("EOF"));
        let text = String::from_utf8(body()).unwrap();
        let other = text.replace("\"schema\":1", "\"schema\":2");
        assert!(refused("POST", "/v1/vms", other.as_bytes()).contains("schema 2, expected 1"));
        let relative = text.replace("\"/r\"", "\"r\"");
        assert!(refused("POST", "/v1/vms", relative.as_bytes()).contains("absolute"));
        let extra = text.replace("\"schema\":1", "\"schema\":1,\"x\":1");
        assert!(refused("POST", "/v1/vms", extra.as_bytes()).contains("unknown field `x`"));
        let deep = text.replace("{}", &"[".repeat(100_000));
        assert!(refused("POST", "/v1/vms", deep.as_bytes()).contains("recursion limit"));
        let long = format!("/{}", "x".repeat(MAX_TARGET));
        assert!(refused("GET", &long, b"").contains("1024"));
        let large = vec![b' '; MAX_BODY + 1];
        assert!(refused("POST", "/v1/vms", &large).contains("1048576"));
    }
}

//! QEMU's monitor protocol, as much of it as a supervisor needs. QEMU parses what a guest does,
//! so its answers are read with bounds and nothing in them is trusted to be well-formed.

use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;

use serde::Deserialize;
use serde_json::Value;

/// Most bytes of one line.
pub(crate) const MAX_LINE: usize = 64 * 1024;
/// Most characters of a text that is kept from an answer.
const MAX_TEXT: usize = 200;

/// Why an answer is refused.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The connection failed.
    #[error("QEMU's monitor cannot be read or written")]
    Io(#[source] io::Error),
    /// A line is too long.
    #[error("QEMU's monitor sent a line of more than {MAX_LINE} bytes")]
    LongLine,
    /// A line is no JSON object of the protocol.
    #[error("QEMU's monitor sent {line:?}, which is no answer, event or greeting")]
    Malformed {
        /// The line, shortened.
        line: String,
    },
}

/// One message of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// What it says first.
    Greeting,
    /// The answer to `query-status`: whether the VM runs, and what it is doing.
    Status(String),
    /// Any other answer.
    Done,
    /// A command failed.
    Failed(String),
    /// The VM ended, by the guest's doing or the host's.
    Shutdown {
        /// Whether the guest did it.
        guest: bool,
        /// QEMU's word for why.
        reason: String,
    },
    /// An SNP guest asked to be ended and said why, as two numbers.
    Terminated {
        /// Whose codes they are: 0 the GHCB's, 1 Linux's.
        set: u64,
        /// Why.
        code: u64,
    },
    /// Any other event.
    Event,
}

#[derive(Debug, Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    done: Option<Value>,
    error: Option<RawError>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Debug, Deserialize)]
struct RawError {
    desc: String,
}

/// Reads one line of the protocol.
pub(crate) fn parse(line: &[u8]) -> Result<Message, QmpError> {
    let malformed = || QmpError::Malformed { line: shorten(&String::from_utf8_lossy(line)) };
    let raw: Raw = serde_json::from_slice(line).map_err(|_| malformed())?;
    match raw {
        Raw { greeting: Some(_), .. } => Ok(Message::Greeting),
        Raw { error: Some(error), .. } => Ok(Message::Failed(shorten(&error.desc))),
        Raw { done: Some(value), .. } => Ok(match value.get("status").and_then(Value::as_str) {
            Some(status) => Message::Status(shorten(status)),
            None => Message::Done,
        }),
        Raw { event: Some(event), data, .. } if event == "SHUTDOWN" => Ok(Message::Shutdown {
            guest: data.get("guest").and_then(Value::as_bool).unwrap_or(false),
            reason: shorten(data.get("reason").and_then(Value::as_str).unwrap_or("unknown")),
        }),
        Raw { event: Some(event), data, .. } if event == "GUEST_PANICKED" => {
            Ok(termination(&data).unwrap_or(Message::Event))
        }
        Raw { event: Some(_), .. } => Ok(Message::Event),
        _ => Err(malformed()),
    }
}

/// What QEMU 11 and newer know of an SNP guest that asked to be ended.
fn termination(data: &Value) -> Option<Message> {
    let info = data.get("info")?;
    let number = |name: &str| info.get(name).and_then(Value::as_u64);
    (info.get("type")?.as_str()? == "sev")
        .then_some(())
        .and_then(|()| Some(Message::Terminated { set: number("set")?, code: number("code")? }))
}

/// Keeps the printable start of a text.
fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// Splits what arrives into lines of bounded length.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
}

impl Lines {
    /// Takes what arrived and hands each complete line to `take`.
    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), QmpError>,
    ) -> Result<(), QmpError> {
        for chunk in bytes.split_inclusive(|b| *b == b'\n') {
            self.buffer.extend_from_slice(chunk);
            if self.buffer.len() > MAX_LINE {
                return Err(QmpError::LongLine);
            }
            if chunk.ends_with(b"\n") {
                let line = self.buffer.trim_ascii();
                if !line.is_empty() {
                    take(line)?;
                }
                self.buffer.clear();
            }
        }
        Ok(())
    }
}

/// Reads messages until the connection ends or `take` says that nobody listens any more.
pub(crate) fn read_all(
    stream: &mut UnixStream,
    mut take: impl FnMut(Message),
) -> Result<(), QmpError> {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 4096];
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(QmpError::Io(error)),
        };
        lines.push(&buffer[..len], |line| {
            take(parse(line)?);
            Ok(())
        })?;
    }
}

/// Sends a command without arguments.
pub(crate) fn send(mut stream: &UnixStream, command: &'static str) -> Result<(), QmpError> {
    let line = format!("{{\"execute\":\"{command}\"}}\n");
    stream.write_all(line.as_bytes()).map_err(QmpError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says() {
        let cases: [(&str, Message); 8] = [
            (r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#, Message::Greeting),
            (r#"{"return": {}}"#, Message::Done),
            (
                r#"{"return": {"status": "internal-error", "singlestep": false, "running": false}}"#,
                Message::Status("internal-error".into()),
            ),
            (
                r#"{"error": {"class": "GenericError", "desc": "no\u0007"}}"#,
                Message::Failed("no".into()),
            ),
            (
                r#"{"timestamp": {"seconds": 1}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#,
                Message::Shutdown { guest: true, reason: "guest-reset".into() },
            ),
            (r#"{"event": "RTC_CHANGE", "data": {"offset": -1}}"#, Message::Event),
            (
                r#"{"event": "GUEST_PANICKED", "data": {"action": "poweroff", "info": {"type": "sev", "set": 1, "code": 2}}}"#,
                Message::Terminated { set: 1, code: 2 },
            ),
            (r#"{"event": "GUEST_PANICKED", "data": {"action": "pause"}}"#, Message::Event),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line.as_bytes()).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_qemu_never_says_is_refused() {
        for line in
            ["{}", "[]", "\"x\"", "{\"return\"}", "{\"error\":{}}", "\u{0}", "{\"event\":1}"]
        {
            assert!(matches!(parse(line.as_bytes()), Err(QmpError::Malformed { .. })), "{line}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_memory() {
        let mut lines = Lines::default();
        let mut pushed = 0;
        let error = loop {
            pushed += 1024;
            if let Err(error) = lines.push(&[b'x'; 1024], |_| Ok(())) {
                break error;
            }
            assert!(pushed <= MAX_LINE, "not refused after {pushed} bytes");
        };
        assert!(matches!(error, QmpError::LongLine));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let mut lines = Lines::default();
            let _ = lines.push(&bytes, |line| parse(line).map(drop));
        }

        #[test]
        fn lines_do_not_depend_on_how_they_arrive(
            texts in proptest::collection::vec("[ -~]{1,40}", 0..8),
            cut in 1_usize..16,
        ) {
            let whole: String = texts.iter().flat_map(|text| [text, "\r\n"]).collect();
            let mut found = Vec::new();
            let mut lines = Lines::default();
            for chunk in whole.as_bytes().chunks(cut) {
                lines.push(chunk, |line| {
                    found.push(String::from_utf8_lossy(line).into_owned());
                    Ok(())
                }).unwrap();
            }
            let trimmed = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
            proptest::prop_assert_eq!(found, trimmed.map(str::to_owned).collect::<Vec<_>>());
        }
    }
}

//! Reads one HTTP/1.1 response from a server that may be hostile.
//!
//! Every length is bounded before a byte is kept, a message whose length can be read in two ways
//! is refused, and so is a body that ends early: half of the evidence is no evidence.

use std::io::{self, Read};

/// Most bytes of status line and headers, of a chunk's header, and of a refusal that is quoted.
const MAX_HEAD: usize = 16 * 1024;
/// Most headers of a response.
const MAX_HEADERS: usize = 64;
/// Most bytes of the body of a refusal.
const MAX_REFUSAL: usize = 1024;
/// Most characters of a refusal that an error quotes.
const MAX_QUOTED: usize = 300;
/// Bytes asked of the stream at once.
const READ_LEN: usize = 16 * 1024;

/// Why a response is refused.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The stream failed.
    #[error("reading the response failed")]
    Read(#[source] io::Error),
    /// The head is not HTTP/1.1.
    #[error("the answer is not HTTP/1.1: expected a status line and headers")]
    Malformed(#[source] httparse::Error),
    /// The head does not end.
    #[error("the answer's headers exceed {MAX_HEAD} bytes")]
    HeadTooLong,
    /// The head says two things about the body's length, or one that means nothing.
    #[error("the answer's length is ambiguous: {reason}")]
    Framing {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The connection ended before the message did.
    #[error(
        "the connection was closed early: {got} bytes of the body arrived, expected {expected}"
    )]
    Truncated {
        /// Bytes of the body that arrived.
        got: usize,
        /// What would have been complete.
        expected: String,
    },
    /// The body is longer than evidence can be.
    #[error("the answer exceeds {limit} bytes")]
    BodyTooLong {
        /// The most bytes that are read.
        limit: usize,
    },
    /// The server sends the client elsewhere.
    #[error("HTTP status {status} redirects to {location:?}: redirects are never followed")]
    Redirect {
        /// The status.
        status: u16,
        /// Where to, shortened.
        location: String,
    },
    /// The server does not answer with evidence.
    #[error("HTTP status {status}, expected 200; the server says {text:?}")]
    Status {
        /// The status.
        status: u16,
        /// What the server says, shortened.
        text: String,
    },
}

/// How a body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    location: String,
    framing: Framing,
}

struct Reader<'a, R> {
    stream: &'a mut R,
    /// Bytes that arrived and are not consumed yet.
    buffer: Vec<u8>,
}

/// Reads a response and returns the body of a 200.
///
/// # Errors
/// When the stream fails, the response is malformed, ambiguous, too long or truncated, or its
/// status is not 200.
pub(crate) fn read_ok<R: Read>(stream: &mut R, limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut reader = Reader { stream, buffer: Vec::new() };
    let head = reader.head()?;
    match head.status {
        200 => reader.body(head.framing, limit),
        status @ 300..=399 => Err(HttpError::Redirect { status, location: head.location }),
        status => {
            // What the server says helps a person; failing to get it is no second error.
            let body = reader.body(head.framing, MAX_REFUSAL).unwrap_or_default();
            Err(HttpError::Status { status, text: quote(&body) })
        }
    }
}

impl<R: Read> Reader<'_, R> {
    /// Reads more bytes; zero at the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ_LEN, 0);
        loop {
            match self.stream.read(&mut self.buffer[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    self.buffer.truncate(start + result.as_ref().copied().unwrap_or(0));
                    return result;
                }
            }
        }
    }

    /// Reads more bytes where the message cannot end yet.
    fn need(&mut self, got: usize, expected: impl Fn() -> String) -> Result<(), HttpError> {
        match self.fill() {
            Ok(0) => Err(HttpError::Truncated { got, expected: expected() }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(HttpError::Truncated { got, expected: expected() })
            }
            Ok(_) => Ok(()),
            Err(error) => Err(HttpError::Read(error)),
        }
    }

    fn head(&mut self) -> Result<Head, HttpError> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer).map_err(HttpError::Malformed)?;
            if let httparse::Status::Complete(len) = parsed {
                let status = response.code.unwrap_or(0);
                let location = find(response.headers, "location").map(quote).unwrap_or_default();
                let framing = framing(response.headers)?;
                self.buffer.drain(..len);
                return Ok(Head { status, location, framing });
            }
            if self.buffer.len() >= MAX_HEAD {
                return Err(HttpError::HeadTooLong);
            }
            self.need(0, || "status line and headers first".into())?;
        }
    }

    fn body(mut self, framing: Framing, limit: usize) -> Result<Vec<u8>, HttpError> {
        match framing {
            Framing::Length(len) if len > limit => Err(HttpError::BodyTooLong { limit }),
            Framing::Length(len) => {
                while self.buffer.len() < len {
                    self.need(self.buffer.len(), || len.to_string())?;
                }
                self.buffer.truncate(len);
                Ok(self.buffer)
            }
            Framing::Chunked => self.chunked(limit),
            Framing::UntilClose => loop {
                if self.buffer.len() > limit {
                    return Err(HttpError::BodyTooLong { limit });
                }
                match self.fill() {
                    Ok(0) => return Ok(self.buffer),
                    Ok(_) => {}
                    // TLS was cut, not closed: the rest may have been taken away.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        let expected = "an orderly end of the TLS session".into();
                        return Err(HttpError::Truncated { got: self.buffer.len(), expected });
                    }
                    Err(error) => return Err(HttpError::Read(error)),
                }
            },
        }
    }

    fn chunked(&mut self, limit: usize) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        loop {
            let len = self.chunk_len(body.len())?;
            if len == 0 {
                return Ok(body);
            }
            let len = usize::try_from(len)
                .ok()
                .filter(|len| *len <= limit - body.len())
                .ok_or(HttpError::BodyTooLong { limit })?;
            while self.buffer.len() < len + 2 {
                self.need(body.len() + self.buffer.len().min(len), || "more chunks".into())?;
            }
            if &self.buffer[len..len + 2] != b"\r\n" {
                return Err(HttpError::Framing { reason: "a chunk does not end where it says" });
            }
            body.extend_from_slice(&self.buffer[..len]);
            self.buffer.drain(..len + 2);
        }
    }

    /// Consumes a chunk's header and returns its length.
    fn chunk_len(&mut self, got: usize) -> Result<u64, HttpError> {
        const MALFORMED: HttpError = HttpError::Framing { reason: "a chunk has no valid length" };
        loop {
            if self.buffer.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
                return Err(MALFORMED);
            }
            match httparse::parse_chunk_size(&self.buffer) {
                Ok(httparse::Status::Complete((consumed, len))) => {
                    self.buffer.drain(..consumed);
                    return Ok(len);
                }
                Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD => {
                    self.need(got, || "more chunks".into())?;
                }
                Ok(httparse::Status::Partial) | Err(_) => return Err(MALFORMED),
            }
        }
    }
}

fn find<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Decides how the body ends; refuses what two readers could read in two ways.
fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, HttpError> {
    let all =
        |name: &str| headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name)).count();
    match (all("content-length"), all("transfer-encoding")) {
        (0, 0) => Ok(Framing::UntilClose),
        (1, 0) => find(headers, "content-length")
            .filter(|value| !value.is_empty() && value.iter().all(u8::is_ascii_digit))
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
            .map(Framing::Length)
            .ok_or(HttpError::Framing { reason: "Content-Length is no number" }),
        (0, 1) => find(headers, "transfer-encoding")
            .filter(|value| value.eq_ignore_ascii_case(b"chunked"))
            .map(|_| Framing::Chunked)
            .ok_or(HttpError::Framing { reason: "Transfer-Encoding is not chunked" }),
        (_, 0) => Err(HttpError::Framing { reason: "more than one Content-Length" }),
        (0, _) => Err(HttpError::Framing { reason: "more than one Transfer-Encoding" }),
        _ => Err(HttpError::Framing { reason: "both Content-Length and Transfer-Encoding" }),
    }
}

/// Text of a server, shortened; the error that quotes it escapes what a terminal would obey.
fn quote(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A stream that arrives in pieces of `step` bytes.
    struct Pieces<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.step.min(self.bytes.len()).min(buffer.len());
            let (now, later) = self.bytes.split_at(len);
            buffer[..len].copy_from_slice(now);
            self.bytes = later;
            Ok(len)
        }
    }

    fn read(text: &str) -> Result<Vec<u8>, HttpError> {
        read_ok(&mut Pieces { bytes: text.as_bytes(), step: 3 }, 10)
    }

    #[test]
    fn each_framing_ends_where_it_says() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcdX",
            "HTTP/1.0 200 OK\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n3;x=y\r\nbcd\r\n0\r\n\r\n",
        ] {
            assert_eq!(read(text).unwrap(), b"abcd", "{text}");
        }
    }

    #[test]
    fn longest_body_passes_and_one_more_byte_does_not() {
        for (head, ten, eleven) in [
            ("Content-Length: 10\r\n\r\n", "0123456789", None),
            ("Content-Length: 11\r\n\r\n", "", Some("")),
            ("A: b\r\n\r\n", "0123456789", Some("x")),
            ("Transfer-Encoding: chunked\r\n\r\n", "a\r\n0123456789\r\n", Some("1\r\nx\r\n")),
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{head}{ten}{}", eleven.unwrap_or("0\r\n\r\n"));
            match eleven {
                None => assert_eq!(read(&text).unwrap(), b"0123456789"),
                Some(_) => assert!(
                    matches!(read(&text), Err(HttpError::BodyTooLong { limit: 10 })),
                    "{text}"
                ),
            }
        }
        let huge = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        assert!(matches!(read(huge), Err(HttpError::BodyTooLong { .. })));
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        for head in [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 1, 1",
            "Content-Length: 99999999999999999999",
            "Content-Length:",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\na");
            assert!(matches!(read(&text), Err(HttpError::Framing { .. })), "{head}");
        }
        for chunks in ["x", "\r\n", "1\r\nab\r\n", ";\r\n", "-1\r\n", "11111111111111111\r\n"] {
            let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
            assert!(matches!(read(&text), Err(HttpError::Framing { .. })), "{chunks:?}");
        }
    }

    #[test]
    fn early_ends_are_refused() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert!(matches!(read(text), Err(HttpError::Truncated { .. })), "{text}");
        }
    }

    #[test]
    fn refusals_are_quoted_without_control_characters() {
        let error = read("HTTP/1.1 503 No\r\n\r\nno \x1b[31mreport").unwrap_err().to_string();
        assert!(error.contains(r#"503, expected 200; the server says "no \u{1b}[31mreport""#));
        let error = read("HTTP/1.1 302 Found\r\nLocation: https://x/\r\n\r\n").unwrap_err();
        assert!(
            matches!(error, HttpError::Redirect { status: 302, ref location } if location == "https://x/")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_exceed_the_limit(
            head in "(HTTP/1\\.[01] 200 OK\r\n)?((Content-Length: [0-9a-f]{0,3}|Transfer-Encoding: chunked|[A-Z]: .)\r\n){0,3}(\r\n)?",
            body in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), any::<u8>()], 0..80),
            step in 1_usize..40,
        ) {
            let bytes = [head.as_bytes(), &body].concat();
            if let Ok(read) = read_ok(&mut Pieces { bytes: &bytes, step }, 10) {
                prop_assert!(read.len() <= 10);
            }
        }
    }
}

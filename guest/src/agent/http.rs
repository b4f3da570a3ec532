//! Reads the one request that the agent answers. A pure function of bytes from anybody.

use casemate_measurements::evidence::PATH;
use casemate_measurements::hash::Nonce;

/// Most bytes of a request's head.
pub(super) const MAX_HEAD: usize = 8 * 1024;
/// Most header fields of a request.
const MAX_FIELDS: usize = 32;

/// Why a request gets no evidence, as the answer says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not HTTP/1.
    #[error("not an HTTP/1 request")]
    NotHttp,
    /// Its head is too long.
    #[error("request head is longer than 8192 bytes or has more than 32 fields")]
    TooLong,
    /// It asks for something else.
    #[error("there is nothing here but GET /v1/evidence?nonce=<64 lower-case hex digits>")]
    NotFound,
    /// Its nonce is missing or malformed.
    #[error("expected the query nonce=<64 lower-case hex digits> and nothing else")]
    Nonce,
    /// No report can be had at the moment.
    #[error("no attestation report to be had: {0}")]
    Unavailable(String),
}

impl Refusal {
    const fn status(&self) -> &'static str {
        match self {
            Self::NotHttp | Self::Nonce => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::NotFound => "404 Not Found",
            Self::Unavailable(_) => "503 Service Unavailable",
        }
    }

    /// The whole response.
    pub(super) fn response(&self) -> Vec<u8> {
        let body = serde_json::json!({ "error": self.to_string() }).to_string();
        response(self.status(), body.as_bytes())
    }
}

/// Reads a request's head: the nonce that it asks with, or `None` when more bytes are needed.
///
/// # Errors
/// When it is no request for evidence, or longer than a request may be.
pub fn parse(bytes: &[u8]) -> Result<Option<Nonce>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::TooLong);
        }
        Err(_) => return Err(Refusal::NotHttp),
    }
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if request.method != Some("GET") || path != PATH {
        return Err(Refusal::NotFound);
    }
    let nonce = query.strip_prefix("nonce=").ok_or(Refusal::Nonce)?;
    nonce.parse().map(Some).map_err(|_| Refusal::Nonce)
}

/// The whole response that carries evidence.
pub(super) fn found(evidence: &[u8]) -> Vec<u8> {
    response("200 OK", evidence)
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(target: &str) -> Result<Option<Nonce>, Refusal> {
        parse(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
    }

    #[test]
    fn one_request_is_understood() {
        let nonce = Nonce::from_bytes([0xab; 32]);
        assert_eq!(get(&format!("/v1/evidence?nonce={nonce}")), Ok(Some(nonce)));
        let request = format!("GET /v1/evidence?nonce={nonce} HTTP/1.1\r\nHost: x\r\n\r\n");
        for end in 0..request.len() {
            assert_eq!(parse(&request.as_bytes()[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn bad_nonces_are_400() {
        let hex = "ab".repeat(32);
        for query in [
            "",
            "?",
            "?nonce=",
            &format!("?nonce={}", &hex[1..]),
            &format!("?nonce={}", hex.to_uppercase()),
            &format!("?nonce={hex}00"),
            &format!("?nonce={hex}&nonce={hex}"),
            &format!("?x=1&nonce={hex}"),
            &format!("?nonce=%61{}", &hex[1..]),
        ] {
            let refusal = get(&format!("/v1/evidence{query}")).unwrap_err();
            assert_eq!(refusal, Refusal::Nonce, "{query}");
            assert!(refusal.response().starts_with(b"HTTP/1.1 400 "));
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_status() {
        let hex = "ab".repeat(32);
        for target in ["/", "/v1/evidence/", "*", "//v1/evidence", "http://x/v1/evidence"] {
            assert_eq!(get(&format!("{target}?nonce={hex}")), Err(Refusal::NotFound), "{target}");
        }
        let post = format!("POST /v1/evidence?nonce={hex} HTTP/1.1\r\n\r\n");
        assert_eq!(parse(post.as_bytes()), Err(Refusal::NotFound));
        assert_eq!(parse(b"\x16\x03\x01\x00"), Err(Refusal::NotHttp));
        assert_eq!(parse(b"GET / HTTP/2.0\r\n\r\n"), Err(Refusal::NotHttp));
        let fields = "a: b\r\n".repeat(33);
        let many = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        assert_eq!(parse(many.as_bytes()), Err(Refusal::TooLong));
        let long = format!("GET /{}", "a".repeat(MAX_HEAD));
        assert_eq!(parse(long.as_bytes()), Err(Refusal::TooLong));
    }

    #[test]
    fn answers_are_json_and_say_their_length() {
        let text = String::from_utf8(Refusal::Unavailable("a \"b\"".into()).response()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 "));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["error"], "no attestation report to be had: a \"b\"");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn only_64_digits_are_a_nonce(query in "(nonce=)?[0-9a-fA-F&=%]{0,70}") {
            if let Ok(found) = get(&format!("/v1/evidence?{query}")) {
                let nonce = found.map(|nonce| format!("nonce={nonce}"));
                prop_assert_eq!(nonce, Some(query));
            }
        }
    }
}

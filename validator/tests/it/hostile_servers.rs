//! What a hostile or broken server can do to whoever asks it for evidence: be refused, in
//! bounded time, with a message that names it.

use std::error::Error as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use casemate_measurements::evidence::MAX_LEN;
use casemate_measurements::hash::Nonce;
use casemate_validator::fetch::{FetchError, Fetched, HttpError, Limits, Phase, fetch_evidence};
use casemate_validator::target::Target;

use crate::support::{Identity, finish, serve_answer, serve_tcp, serve_tls};

const NONCE: Nonce = Nonce::from_bytes([0x5a; 32]);
/// Long enough for a loaded machine, short enough to be waited for.
const TIGHT: Limits =
    Limits { connect: Duration::from_secs(2), total: Duration::from_millis(2500) };

/// Fetches and checks that an error names whom it is about.
fn fetch(target: &Target, limits: &Limits) -> Result<Fetched, FetchError> {
    let result = fetch_evidence(target, &NONCE, limits);
    if let Err(error) = &result {
        assert!(error.to_string().starts_with(&format!("{target}: ")), "{error}");
    }
    result
}

/// Fetches from a server that never ends; returns the phase in which the deadline passed.
fn fetch_from_endless(target: &Target) -> Phase {
    let start = Instant::now();
    let error = fetch(target, &TIGHT).unwrap_err();
    assert!(start.elapsed() < TIGHT.total * 4, "took {:?}", start.elapsed());
    match error {
        FetchError::Deadline { phase, .. } => phase,
        other => panic!("not the deadline: {other:?}"),
    }
}

fn http_error(target: &Target) -> HttpError {
    match fetch(target, &Limits::default()).unwrap_err() {
        FetchError::Response { source, .. } => source,
        other => panic!("not the response: {other:?}"),
    }
}

fn handshake_error(target: &Target) -> String {
    match fetch(target, &Limits::default()).unwrap_err() {
        error @ FetchError::Handshake { .. } => error.source().unwrap().to_string(),
        other => panic!("not the handshake: {other:?}"),
    }
}

#[test]
fn an_honest_server_is_asked_for_the_nonce_and_named_by_its_key() {
    let identity = Identity::new();
    let target = serve_tls(identity.tls13(), |head, stream| {
        let body = head.lines().next().unwrap().to_owned();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        finish(stream, [head, body].concat().as_bytes());
    });
    let fetched = fetch(&target, &Limits::default()).unwrap();
    let line = format!("GET /v1/evidence?nonce={} HTTP/1.1", "5a".repeat(32));
    assert_eq!(String::from_utf8(fetched.evidence).unwrap(), line);
    assert_eq!(fetched.tls_spki_sha256, identity.spki_sha256());
    assert_eq!(fetched.peer.port(), target.port());
}

#[test]
fn names_are_looked_up() {
    let identity = Identity::new();
    let port = serve_answer(&identity, "HTTP/1.1 200 OK\r\n\r\n{}").port();
    let target = format!("localhost:{port}").parse().unwrap();
    assert_eq!(fetch(&target, &Limits::default()).unwrap().evidence, b"{}");
    let target = "no-such-host.invalid:1".parse().unwrap();
    let error = fetch(&target, &Limits::default()).unwrap_err();
    assert!(
        matches!(
            error,
            FetchError::Resolve { .. } | FetchError::Deadline { phase: Phase::Resolve, .. }
        ),
        "{error:?}"
    );
}

#[test]
fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string().parse().unwrap();
    drop(listener);
    let error = fetch(&target, &Limits::default()).unwrap_err();
    assert!(matches!(error, FetchError::Connect { .. }), "{error:?}");
}

#[test]
fn accepts_and_never_speaks() {
    let target = serve_tcp(|tcp| {
        std::thread::sleep(Duration::from_mins(2));
        drop(tcp);
    });
    assert_eq!(fetch_from_endless(&target), Phase::Handshake);
}

#[test]
fn takes_the_request_and_never_answers() {
    let target =
        serve_tls(Identity::new().tls13(), |_, _| std::thread::sleep(Duration::from_mins(2)));
    assert_eq!(fetch_from_endless(&target), Phase::Response);
}

#[test]
fn drips_a_byte_at_a_time() {
    for (head, bytes) in [("", "HTTP/1.1 200 OK\r\nX: "), ("HTTP/1.1 200 OK\r\n\r\n", "[")] {
        let target = serve_tls(Identity::new().tls13(), move |_, stream| {
            let _ = stream.write_all(head.as_bytes());
            let drops = bytes.bytes().chain(std::iter::repeat(b'a'));
            for byte in drops {
                std::thread::sleep(Duration::from_millis(100));
                if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
                    break;
                }
            }
        });
        assert_eq!(fetch_from_endless(&target), Phase::Response);
    }
}

#[test]
fn drips_the_handshake() {
    let target = serve_tcp(|mut tcp| {
        // A handshake record of 4 KiB, begun and continued for ever.
        let record = [0x16, 3, 3, 0x10, 0, 2, 0, 0x0f, 0xfc].into_iter();
        for byte in record.chain(std::iter::repeat(0)) {
            std::thread::sleep(Duration::from_millis(50));
            if tcp.write_all(&[byte]).is_err() {
                break;
            }
        }
    });
    assert_eq!(fetch_from_endless(&target), Phase::Handshake);
}

#[test]
fn closes_early() {
    let target = serve_tcp(drop);
    assert!(matches!(
        fetch(&target, &Limits::default()),
        Err(FetchError::Handshake { .. } | FetchError::Request { .. })
    ));
    for part in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\n"] {
        let target = serve_answer(&Identity::new(), part);
        assert!(matches!(http_error(&target), HttpError::Truncated { got: 0, .. }), "{part}");
    }
}

#[test]
fn announces_more_than_it_sends() {
    let target = serve_answer(&Identity::new(), "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
    let error = http_error(&target);
    assert!(error.to_string().contains("3 bytes of the body arrived, expected 9"), "{error}");
}

#[test]
fn is_cut_off_without_an_orderly_end() {
    let target = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf of the evid");
        let _ = stream.flush();
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream.sock, &mut std::io::sink());
    });
    assert!(matches!(http_error(&target), HttpError::Truncated { got: 16, .. }));
}

#[test]
fn sends_headers_without_end() {
    let target = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    assert!(matches!(http_error(&target), HttpError::HeadTooLong));
    let target = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"a: b\r\n").is_ok() {}
    });
    assert!(matches!(http_error(&target), HttpError::Malformed(_)));
}

#[test]
fn sends_a_body_without_end() {
    for (head, piece) in [
        ("", vec![b'a'; 65536]),
        ("Transfer-Encoding: chunked\r\n", [b"1000\r\n", &[b'a'; 4096][..], b"\r\n"].concat()),
    ] {
        let target = serve_tls(Identity::new().tls13(), move |_, stream| {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n");
            while stream.write_all(&piece).is_ok() {}
        });
        let error = http_error(&target);
        assert!(matches!(error, HttpError::BodyTooLong { limit: MAX_LEN }), "{error:?}");
    }
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_LEN + 1);
    let target = serve_answer(&Identity::new(), head);
    assert!(matches!(http_error(&target), HttpError::BodyTooLong { limit: MAX_LEN }));
}

#[test]
fn floods_with_chunks_that_are_mostly_headers() {
    let target = serve_tls(Identity::new().tls13(), |_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"1;", &[b'x'; 8000][..], b"\r\na\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let error = fetch(&target, &Limits::default()).unwrap_err();
    assert!(matches!(error, FetchError::Flood { phase: Phase::Response, .. }), "{error:?}");
}

#[test]
fn redirects() {
    let answer = "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://192.0.2.1/\r\nContent-Length: 0\r\n\r\n";
    let error = http_error(&serve_answer(&Identity::new(), answer));
    assert!(
        matches!(&error, HttpError::Redirect { status: 307, location } if location == "https://192.0.2.1/"),
        "{error:?}"
    );
}

#[test]
fn answers_with_a_refusal() {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nno report";
    let error = http_error(&serve_answer(&Identity::new(), answer)).to_string();
    assert!(error.contains("503") && error.contains("\"no report\""), "{error}");
    let huge = format!("HTTP/1.1 404 Not Found\r\n\r\n{}", "a".repeat(100_000));
    let error = http_error(&serve_answer(&Identity::new(), huge)).to_string();
    assert!(error.len() < 500, "{error}");
}

#[test]
fn speaks_no_http() {
    let error = http_error(&serve_answer(&Identity::new(), "\0\0\0\0 not http\r\n\r\n"));
    assert!(matches!(error, HttpError::Malformed(_)), "{error:?}");
}

#[test]
fn speaks_no_tls() {
    let target = serve_tcp(|mut tcp| {
        let _ = tcp.write_all(b"SSH-2.0-OpenSSH_10.0\r\n");
        let _ = tcp.read(&mut [0; 1024]);
    });
    assert!(handshake_error(&target).contains("InvalidContentType"));
}

#[test]
fn speaks_only_tls_1_2() {
    let identity = Identity::new();
    let config = identity.config(&identity, &[&rustls::version::TLS12]);
    let target = serve_tls(config, |_, stream| finish(stream, b"HTTP/1.1 200 OK\r\n\r\n{}"));
    assert!(handshake_error(&target).contains("ProtocolVersion"));
}

#[test]
fn shows_a_certificate_whose_key_it_does_not_hold() {
    let (genuine, impostor) = (Identity::new(), Identity::new());
    let config = genuine.config(&impostor, &[&rustls::version::TLS13]);
    let target = serve_tls(config, |_, stream| finish(stream, b"HTTP/1.1 200 OK\r\n\r\n{}"));
    assert!(handshake_error(&target).contains("BadSignature"));
}

#[test]
fn shows_a_certificate_that_is_none() {
    let mut identity = Identity::new();
    identity.certificate = b"not a certificate".to_vec().into();
    let target = serve_answer(&identity, "HTTP/1.1 200 OK\r\n\r\n{}");
    assert!(handshake_error(&target).contains("BadEncoding"));
}

//! Clients that mean no good: on the network, and on the socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use casemate_launcher::serve::restart::Restart;

use super::bench::{Bench, PATIENCE};
use super::publish::{address, exchange, get};

#[test]
fn clients_that_dawdle_keep_nobody_out() {
    let (bench, _client) = Bench::started("");
    let address = address(&bench);
    // Many more than there are places, all from one address; none ever ends its request.
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        let Ok(mut stream) = TcpStream::connect(address) else { break };
        let _ = stream.write_all(b"GET /v1/vms HTTP/1.1\r\nX: ");
        idle.push(stream);
        if idle.len().is_multiple_of(50) {
            let since = Instant::now();
            assert_eq!(get(address, "/health").status, 200);
            assert!(since.elapsed() < Duration::from_secs(4), "kept waiting by those who dawdle");
        }
    }
    // And each is shown the door.
    for mut stream in idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => assert!(!bytes.starts_with(b"HTTP/1.1 200"), "an answer to half a request"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[test]
fn requests_that_are_not_for_here_are_refused() {
    let (bench, _client) = Bench::started("");
    let address = address(&bench);
    let status = |request: &[u8]| exchange(address, request).status;
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "X"] {
        let request = format!("{method} /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status(request.as_bytes()), 405, "{method}");
    }
    for path in [
        "/",
        "/v1",
        "/v1/vms/",
        "/v1/vms/../vms",
        "/v1/releases/x/../../etc/passwd",
        "/v1/releases/%2e%2e/manifest.json",
        "//v1/vms/x",
        "/v1/host",
        "/v1/events",
    ] {
        assert_eq!(get(address, path).status, 404, "{path}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(20_000));
    assert!((400..500).contains(&status(long.as_bytes())));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    assert!((400..500).contains(&status(many.as_bytes())));
    assert_eq!(status(b"nonsense\r\n\r\n"), 400);
    // A body is not read, whatever it says of its length.
    let endless = b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(status(endless), 200);
    assert_eq!(get(address, "/health").status, 200);
}

#[test]
fn nonsense_on_the_socket_changes_nothing() {
    let (bench, client) = Bench::started("");
    bench.run("vm-1", Restart::default());
    let say = |request: &[u8], whole: bool| {
        let mut stream = UnixStream::connect(bench.path("s/api.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(request);
        if !whole {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let send = |request: &[u8]| say(request, true);
    let post = |path: &str, body: &str| {
        let len = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
        send(format!("{head}{body}").as_bytes())
    };
    let large = format!("{{\"schema\":1,\"release\":\"/{}\"}}", "x".repeat(2 << 20));
    for (answer, expected) in [
        (post("/v1/vms", "{}"), "400"),
        (post("/v1/vms", &"[".repeat(50_000)), "400"),
        (post("/v1/vms", "{\"schema\":1,\"release\":\"/\",\"plan\":{}}"), "400"),
        (post("/v1/vms", &large), "413"),
        (post("/v1/vms/..%2fx/stop", ""), "400"),
        (post("/v1/vms/vm-9/stop", ""), "404"),
        (post("/v1/vms/vm-1/stop?timeout=x", ""), "400"),
        (post("/v1/vms/vm-1", ""), "405"),
        (post("/v1/vms/vm-1/start", ""), "409"),
        (send(b"\0\xff\r\n\r\n"), "400"),
    ] {
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{expected}: {answer:.200}");
    }
    say(b"POST /v1/vms HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", false);
    say(b"", false);
    assert_eq!(client.list().unwrap().len(), 1);
    bench.until("vm-1", casemate_launcher::serve::Doing::Running);
}

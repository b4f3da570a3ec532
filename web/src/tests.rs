//! Clients against a proxy of their own on the loopback interface.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// A proxy that gives tunnels to port 443 alone, as squid does, and answers each other request
/// itself. What it was asked is noted: the request's header, and its body.
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let noted = noted.clone();
                std::thread::spawn(move || answer(&stream.unwrap(), &noted));
            }
        });
        Self { port, asked }
    }

    /// The headers of what it was asked.
    fn headers(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(header, _)| header.clone()).collect()
    }

    /// A client whose environment has these variables, with this proxy's address in place of PROXY.
    fn client(&self, variables: &[(&str, &str)]) -> Agent {
        let place = format!("127.0.0.1:{}", self.port);
        let proxies = Proxies::of(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.replace("PROXY", &place))
        });
        agent(config(Authorities::Nobody), proxies)
    }
}

fn answer(stream: &TcpStream, noted: &Mutex<Vec<(String, String)>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut header = String::new();
        while !header.ends_with("\r\n\r\n") {
            if reader.read_line(&mut header).unwrap() == 0 {
                return;
            }
        }
        let length = header.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        let tunnel = header.starts_with("CONNECT");
        noted.lock().unwrap().push((header, String::from_utf8(body).unwrap()));
        let status = if tunnel { "403 Forbidden" } else { "200 OK" };
        write!(&mut &*stream, "HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok").unwrap();
    }
}

#[test]
fn plain_http_is_asked_for_by_its_whole_address() {
    let proxy = Proxy::start();
    let client = proxy.client(&[("http_proxy", "http://me:p%40ss@PROXY")]);
    for path in ["dists/x", "pool/y?z=1"] {
        let url = format!("http://mirror.invalid:8080/{path}");
        assert_eq!(client.get(&url).call().unwrap().body_mut().read_to_string().unwrap(), "ok");
    }
    // What is sent after the header is not touched, though it looks like a request.
    client.put("http://mirror.invalid/").send("GET /a HTTP/1.1\r\n").unwrap();
    let asked = proxy.asked.lock().unwrap().clone();
    let lines = asked.iter().map(|(header, _)| header.lines().next().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            "GET http://mirror.invalid:8080/dists/x HTTP/1.1",
            "GET http://mirror.invalid:8080/pool/y?z=1 HTTP/1.1",
            "PUT http://mirror.invalid/ HTTP/1.1",
        ]
    );
    for (header, _) in &asked {
        assert!(header.contains("\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n"), "{header}");
        assert!(header.contains("ost: mirror.invalid"), "{header}");
    }
    assert_eq!(asked[2].1, "GET /a HTTP/1.1\r\n");
}

#[test]
fn a_header_that_fills_the_buffer_is_sent_in_parts() {
    let proxy = Proxy::start();
    let place = format!("http://127.0.0.1:{}", proxy.port);
    let proxies = Proxies::of(|name| (name == "http_proxy").then(|| place.clone()));
    let client = agent(config(Authorities::Nobody).output_buffer_size(128), proxies);
    let long = "x".repeat(90);
    let request = client.get("http://a-mirror-with-a-long-name.invalid/y").header("X-Long", &long);
    request.header("Y-Long", &long).call().unwrap();
    let [header] = &proxy.headers()[..] else { panic!() };
    assert!(header.starts_with("GET http://a-mirror-with-a-long-name.invalid/y HTTP/1.1\r\n"));
    assert_eq!(header.matches(&long).count(), 2, "{header}");
}

#[test]
fn tls_is_asked_for_by_a_tunnel_and_each_scheme_by_its_own_proxy() {
    let proxy = Proxy::start();
    let client = proxy.client(&[("https_proxy", "PROXY")]);
    let error = client.get("https://mirror.invalid/x").call().unwrap_err().to_string();
    assert!(error.contains("403"), "{error}");
    // The server itself, though the proxy of the other scheme is known.
    let url = format!("http://127.0.0.1:{}/direct", proxy.port);
    client.get(&url).call().unwrap();
    let client = proxy.client(&[("ALL_PROXY", "http://PROXY"), ("no_proxy", "127.0.0.0/8")]);
    client.get(&url).call().unwrap();
    client.get("http://mirror.invalid/x").call().unwrap();
    let asked = proxy.headers();
    let lines = asked.iter().map(|header| header.lines().next().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            "CONNECT mirror.invalid:443 HTTP/1.1",
            "GET /direct HTTP/1.1",
            "GET /direct HTTP/1.1",
            "GET http://mirror.invalid/x HTTP/1.1",
        ]
    );
}

#[test]
fn a_proxy_that_cannot_be_asked_is_an_error_and_not_left_out() {
    let proxy = Proxy::start();
    let client = proxy.client(&[("all_proxy", "socks5://PROXY"), ("no_proxy", "127.0.0.1")]);
    for url in ["http://mirror.invalid/x", "https://mirror.invalid/x"] {
        let error = client.get(url).call().unwrap_err().to_string();
        assert!(error.contains("all_proxy in the environment"), "{error}");
    }
    let url = format!("http://127.0.0.1:{}/direct", proxy.port);
    client.get(&url).call().unwrap();
}

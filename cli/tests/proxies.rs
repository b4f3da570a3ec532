//! What the program asks a proxy, where a server speaks plain HTTP: of each of its HTTP clients.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// A proxy that gives tunnels to port 443 alone, as squid does, and has nothing. Its address, and
/// the first line of each request.
fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let lines = Arc::new(Mutex::new(Vec::new()));
    let noted = lines.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let noted = noted.clone();
            std::thread::spawn(move || answer(&stream.unwrap(), &noted));
        }
    });
    (address, lines)
}

fn answer(stream: &TcpStream, noted: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        while lines.next().is_some_and(|line| !line.is_empty()) {}
        let status = if first.starts_with("CONNECT") { "403 Forbidden" } else { "404 Not Found" };
        noted.lock().unwrap().push(first);
        write!(&mut &*stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}

#[test]
fn a_server_without_tls_is_asked_for_by_its_whole_address() {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/cpu-sandbox");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../measurements/tests/samples/ls10.json");
    let nonce = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
    for (arguments, expected) in [
        (
            &["image", "build", image, "--mirror", "debian=http://mirror.invalid/debian"][..],
            "GET http://mirror.invalid/debian/pool/",
        ),
        (
            &["release", "pull", "oci://mirror.invalid/x:1", "out", "--insecure-http"],
            "GET http://mirror.invalid/v2/",
        ),
        (
            &[
                "verify",
                "gpu",
                sample,
                "--nonce",
                nonce,
                "--gpu-manifest-service",
                "http://mirror.invalid/rim",
            ],
            "GET http://mirror.invalid/rim/",
        ),
    ] {
        let (address, lines) = proxy();
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
        command.args(arguments).current_dir(dir.path()).env("HOME", dir.path());
        command.env("CASEMATE_CACHE", dir.path().join("cache")).env_remove("CASEMATE_MIRRORS");
        for name in ["no_proxy", "NO_PROXY", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.env("http_proxy", &address).env("https_proxy", &address);
        let output = command.output().unwrap();
        let lines = lines.lock().unwrap();
        assert!(
            lines.iter().any(|line| line.starts_with(expected))
                && !lines.iter().any(|line| line.contains("mirror.invalid:80")),
            "{arguments:?}: {lines:?}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

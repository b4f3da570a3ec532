//! What a store that lies, stalls or floods can do: be refused in bounded time and memory, with a
//! message that says what it did.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use casemate_registry::artifact::blob::Blob;
use casemate_registry::artifact::descriptor::{Chunk, Descriptor, FileEntry, Kind};
use casemate_registry::artifact::manifest::Manifest;
use casemate_registry::artifact::pull::PullError;
use casemate_registry::reference::Selector;
use casemate_registry::store::{Options, StoreError};

use crate::stores::{opened, pulled, tag};

/// How the server answers for a path.
#[derive(Clone)]
pub(crate) enum Answer {
    /// The bytes, from where they are asked for.
    Bytes(Vec<u8>),
    /// The bytes, with headers.
    With(String, Vec<u8>),
    /// The length of all bytes is announced, then only so many are sent.
    Cut(Vec<u8>, usize),
    /// Bytes without end, no length announced.
    Endless,
    /// So many bytes are announced and none sent.
    Huge(u64),
    /// A word, then silence.
    Stall,
    /// A byte now and then.
    Drip,
    /// Goes elsewhere.
    Redirect(String),
    /// A status with a text.
    Status(u16, &'static str),
}

/// What object stores say of an object's state.
const STATE: &str = "ETag: \"1\"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n";

/// What was asked: the path, its range's first byte, the Authorization header.
pub(crate) type Asked = (String, Option<usize>, Option<String>);

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
    said: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, state: Arc::default() };
        let state = Arc::clone(&server.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        server
    }

    /// Answers for `path` in this order; the last answer stays.
    pub(crate) fn answer(&self, path: &str, answers: &[Answer]) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), answers.to_vec());
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Headers and body of each request, in the order of asking.
    pub(crate) fn said(&self) -> Vec<String> {
        self.state.lock().unwrap().said.clone()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut authorization, mut len) = (None, None, 0);
    let mut said = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
            break;
        }
        said.push_str(&header);
        let (name, value) = header.split_once(": ").unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                range = value.trim_start_matches("bytes=").split('-').next().unwrap().parse().ok();
            }
            "authorization" => authorization = Some(value.trim_end().to_owned()),
            "content-length" => len = value.trim_end().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let answer = {
        let mut state = state.lock().unwrap();
        said.push_str(&String::from_utf8_lossy(&body));
        state.said.push(said);
        state.asked.push((path.clone(), range, authorization));
        match state.answers.get_mut(&path) {
            None => Answer::Status(404, ""),
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
        }
    };
    // The client may be gone; then the test sees what it made of that.
    let _ = reply(stream, range.unwrap_or(0), answer);
}

fn reply(mut stream: TcpStream, from: usize, answer: Answer) -> std::io::Result<()> {
    let close = "Connection: close\r\n\r\n";
    match answer {
        Answer::Bytes(bytes) | Answer::Cut(bytes, _) if from > 0 => {
            let (rest, size) = (&bytes[from.min(bytes.len())..], bytes.len());
            write!(stream, "HTTP/1.1 206 X\r\nContent-Length: {}\r\n{STATE}", rest.len())?;
            write!(stream, "Content-Range: bytes {from}-{}/{size}\r\n{close}", size - 1)?;
            stream.write_all(rest)
        }
        Answer::Bytes(bytes) => {
            write!(stream, "HTTP/1.1 200 X\r\nContent-Length: {}\r\n{STATE}{close}", bytes.len())?;
            stream.write_all(&bytes)
        }
        Answer::With(headers, bytes) => {
            let len = bytes.len();
            write!(stream, "HTTP/1.1 200 X\r\nContent-Length: {len}\r\n{headers}\r\n{close}")?;
            stream.write_all(&bytes)
        }
        Answer::Cut(bytes, at) => {
            write!(stream, "HTTP/1.1 200 X\r\nContent-Length: {}\r\n{STATE}{close}", bytes.len())?;
            stream.write_all(&bytes[..at])
        }
        Answer::Endless => {
            write!(stream, "HTTP/1.1 200 X\r\n{close}")?;
            loop {
                stream.write_all(&[b' '; 16384])?;
            }
        }
        Answer::Huge(len) => write!(stream, "HTTP/1.1 200 X\r\nContent-Length: {len}\r\n{close}"),
        Answer::Stall => {
            write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 100000\r\n{close}")?;
            std::thread::sleep(Duration::from_mins(2));
            Ok(())
        }
        Answer::Drip => {
            write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 100000\r\n{close}")?;
            loop {
                std::thread::sleep(Duration::from_millis(200));
                stream.write_all(b" ")?;
            }
        }
        Answer::Redirect(to) => {
            write!(stream, "HTTP/1.1 307 X\r\nLocation: {to}\r\nContent-Length: 0\r\n{close}")
        }
        Answer::Status(status, text) => {
            write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{close}{text}", text.len())
        }
    }
}

/// A release of one file, as a registry serves it.
struct Release {
    server: Server,
    manifest: Vec<u8>,
    manifest_path: String,
    descriptor: Vec<u8>,
    descriptor_path: String,
    file: Vec<u8>,
    file_path: String,
}

fn blob_path(bytes: &[u8]) -> String {
    format!("/v2/a/blobs/sha256:{}", Blob::of(bytes).sha256)
}

fn release_of(file: Vec<u8>, entry: FileEntry) -> Release {
    let files = BTreeMap::from([("manifest.json".to_owned(), entry)]);
    let descriptor = Descriptor::new(Kind::Release, ("a", "1"), None, files).unwrap();
    let bytes = descriptor.to_bytes().unwrap();
    let manifest = Manifest::of_artifact(&descriptor, Blob::of(&bytes)).unwrap();
    let release = Release {
        server: Server::start(),
        manifest: manifest.bytes().to_vec(),
        manifest_path: "/v2/a/manifests/v1".to_owned(),
        descriptor_path: blob_path(&bytes),
        descriptor: bytes,
        file_path: blob_path(&file),
        file,
    };
    release.server.answer(&release.manifest_path, &[Answer::Bytes(release.manifest.clone())]);
    release.server.answer(&release.descriptor_path, &[Answer::Bytes(release.descriptor.clone())]);
    release.server.answer(&release.file_path, &[Answer::Bytes(release.file.clone())]);
    release
}

fn release() -> Release {
    let file = b"{}".repeat(50_000);
    let entry = FileEntry::new(Blob::of(&file).sha256, file.len() as u64, Vec::new());
    release_of(file, entry)
}

/// Long enough for a loaded machine, short enough to be waited for.
pub(crate) fn tight() -> Options {
    Options { patience: Duration::from_secs(2), ..Options::default() }
}

impl Release {
    fn pull(&self) -> Result<(), PullError> {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let store = opened(&format!("oci://127.0.0.1:{}/a", self.server.port), &tight());
        let since = Instant::now();
        let result = pulled(store.as_ref(), &Selector::Tag(tag("v1")), &out);
        assert!(since.elapsed() < Duration::from_mins(1), "took {:?}", since.elapsed());
        match &result {
            Ok(_) => assert!(std::fs::read(out.join("manifest.json")).unwrap() == self.file),
            Err(error) => {
                assert!(!out.exists(), "{error}");
                assert!(error.to_string().contains("127.0.0.1"), "{error}");
            }
        }
        result.map(drop)
    }

    fn store_error(&self) -> StoreError {
        match self.pull().unwrap_err() {
            PullError::Store(error) => error,
            error => panic!("not the store: {error:?}"),
        }
    }

    /// The paths of manifest, descriptor and file.
    fn paths(&self) -> [&str; 3] {
        [&self.manifest_path, &self.descriptor_path, &self.file_path]
    }
}

#[test]
fn an_honest_server_is_believed() {
    release().pull().unwrap();
}

#[test]
fn other_bytes_under_a_digest() {
    let honest = release();
    for path in [&honest.descriptor_path, &honest.file_path] {
        let lying = release();
        let mut bytes =
            if path == &honest.file_path { lying.file.clone() } else { lying.descriptor.clone() };
        bytes[7] ^= 1;
        lying.server.answer(path, &[Answer::Bytes(bytes)]);
        let error = lying.store_error();
        assert!(matches!(error, StoreError::Content { .. }), "{error}");
    }
    let lying = release();
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&format!("oci://127.0.0.1:{}/a", lying.server.port), &tight());
    let digest = Blob::of(b"other").sha256;
    lying.server.answer(
        &format!("/v2/a/manifests/sha256:{digest}"),
        &[Answer::Bytes(lying.manifest.clone())],
    );
    let error = pulled(store.as_ref(), &Selector::Digest(digest), dir.path()).unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::Content { .. })), "{error}");
}

#[test]
fn a_descriptor_that_does_not_add_up() {
    let half = b"x".repeat(500);
    let chunk = Chunk::Stored(Blob::of(&half));
    let lying = release_of(half, FileEntry::new(Blob::of(b"y").sha256, 1000, vec![chunk, chunk]));
    let error = lying.pull().unwrap_err();
    assert!(matches!(error, PullError::File { .. }), "{error}");
}

#[test]
fn a_body_that_is_cut_is_taken_up_where_it_ended() {
    let cut = release();
    let file = cut.file.clone();
    let answers = [Answer::Cut(file.clone(), 30_000), Answer::Bytes(file.clone())];
    cut.server.answer(&cut.file_path, &answers);
    cut.pull().unwrap();
    let ranges: Vec<_> =
        cut.server.asked().into_iter().filter(|(path, ..)| *path == cut.file_path).collect();
    assert_eq!(ranges.iter().map(|(_, range, _)| *range).collect::<Vec<_>>(), [None, Some(30_000)]);
    // One that ends at the same place each time is given up.
    let cut = release();
    cut.server.answer(&cut.descriptor_path, &[Answer::Cut(cut.descriptor.clone(), 0)]);
    let error = cut.store_error();
    assert!(matches!(error, StoreError::Transport { .. }), "{error}");
}

#[test]
fn bodies_without_end_and_lengths_beyond_measure() {
    for answer in [Answer::Endless, Answer::Huge(1 << 50)] {
        for number in 0..3 {
            let flood = release();
            flood.server.answer(flood.paths()[number], std::slice::from_ref(&answer));
            let error = flood.store_error();
            assert!(
                matches!(
                    error,
                    StoreError::TooLong { .. }
                        | StoreError::Content { .. }
                        | StoreError::Transport { .. }
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn silence_and_drips_end() {
    let stalled = release();
    stalled.server.answer(&stalled.manifest_path, &[Answer::Stall]);
    let error = stalled.store_error();
    assert!(matches!(error, StoreError::Transport { .. }), "{error}");
    let dripping = release();
    dripping.server.answer(&dripping.descriptor_path, &[Answer::Drip]);
    let error = dripping.store_error();
    assert!(matches!(error, StoreError::Transport { .. }), "{error}");
}

#[test]
fn redirects_go_nowhere_else_without_tls() {
    let elsewhere = Server::start();
    for number in 0..3 {
        let turned = release();
        let to = format!("http://127.0.0.1:{}/v2/a?signature=hunter2", elsewhere.port);
        turned.server.answer(turned.paths()[number], &[Answer::Redirect(to)]);
        let error = turned.store_error();
        assert!(matches!(error, StoreError::Redirect { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    assert!(elsewhere.asked().is_empty());
    // Registries do send readers to another path of their own.
    let turned = release();
    turned.server.answer("/data?x=1", &[Answer::Bytes(turned.file.clone())]);
    turned.server.answer(&turned.file_path, &[Answer::Redirect("/data?x=1".to_owned())]);
    turned.pull().unwrap();
    let round = release();
    round.server.answer(&round.file_path, &[Answer::Redirect(round.file_path.clone())]);
    let error = round.store_error();
    assert!(matches!(error, StoreError::Redirect { .. }), "{error}");
}

#[test]
fn a_token_is_not_fetched_from_elsewhere() {
    let elsewhere = Server::start();
    let greedy = Server::start();
    let realm = format!("http://127.0.0.1:{}/token", elsewhere.port);
    let head = format!("HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut line = String::new();
            let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
            let _ = write!(stream, "{head}Content-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let store = opened(&format!("oci://127.0.0.1:{port}/a"), &tight());
    let error = pulled(store.as_ref(), &Selector::Tag(tag("v1")), dir.path()).unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::Redirect { .. })), "{error}");
    assert!(elsewhere.asked().is_empty() && greedy.asked().is_empty());
}

#[test]
fn errors_that_pass_are_waited_out_and_others_quoted() {
    let busy = release();
    let answers = [Answer::Status(503, ""), Answer::Bytes(busy.manifest.clone())];
    busy.server.answer(&busy.manifest_path, &answers);
    busy.pull().unwrap();
    let denied = release();
    let text = "{\"errors\":[{\"code\":\"X\",\"message\":\"go away\\u001b[31m\"}]}";
    denied.server.answer(&denied.manifest_path, &[Answer::Status(400, text)]);
    let error = denied.store_error().to_string();
    assert!(error.contains("go away[31m"), "{error}");
    let gone = release();
    gone.server.answer(&gone.file_path, &[Answer::Status(404, "")]);
    let error = gone.store_error();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[test]
fn a_web_store_is_bounded_too() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let pull = |path: &str| {
        let store = opened(&format!("http://127.0.0.1:{}{path}", server.port), &tight());
        pulled(store.as_ref(), &Selector::Tag(tag("v1")), &dir.path().join("out")).unwrap_err()
    };
    server.answer("/a/index.json", &[Answer::Endless]);
    let error = pull("/a");
    assert!(matches!(error, PullError::Store(StoreError::TooLong { .. })), "{error}");
    server.answer("/b/index.json", &[Answer::Bytes(b"<html>".to_vec())]);
    let error = pull("/b");
    assert!(matches!(error, PullError::Store(StoreError::Malformed { .. })), "{error}");
    server.answer("/c/index.json", &[Answer::Redirect("http://127.0.0.1:1/".to_owned())]);
    let error = pull("/c");
    assert!(matches!(error, PullError::Store(StoreError::Redirect { .. })), "{error}");
}

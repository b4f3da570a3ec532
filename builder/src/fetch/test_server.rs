//! A real HTTP server on the loopback interface for tests: it serves files, and misbehaves.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use url::Url;

/// How the server answers for one path.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The bytes; a range of them if asked for.
    File(Vec<u8>),
    /// The bytes, always whole.
    NoRanges(Vec<u8>),
    /// The length of all bytes is announced, then only so many are sent.
    Truncated(Vec<u8>, usize),
    /// A status and no body.
    Status(u16),
    /// The connection is closed without a word.
    HangUp,
}

/// What a request asked for: its path and its range's first byte.
pub(crate) type Asked = (String, Option<usize>);

#[derive(Debug, Default)]
struct State {
    answers: BTreeMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
}

/// A running server. It stops with the test's process.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Starts one that has no files.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::new(Mutex::new(State::default())),
        };
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
    pub(crate) fn answer(&self, path: &str, answers: Vec<Answer>) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), answers);
    }

    /// Serves `bytes` at `path`.
    pub(crate) fn file(&self, path: &str, bytes: &[u8]) {
        self.answer(path, vec![Answer::File(bytes.to_vec())]);
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// The URL of `path`.
    pub(crate) fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}{path}", self.port)).unwrap()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut range = None;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = value.split('-').next().and_then(|start| start.parse().ok());
        }
    }
    let answer = {
        let mut state = state.lock().unwrap();
        state.asked.push((path.clone(), range));
        match state.answers.get_mut(&path) {
            None => Answer::Status(404),
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
        }
    };
    reply(stream, range, answer);
}

fn reply(mut stream: TcpStream, range: Option<usize>, answer: Answer) {
    let (status, extra, body, cut) = match (answer, range) {
        (Answer::HangUp, _) => return,
        (Answer::Status(status), _) => (status, String::new(), Vec::new(), None),
        (Answer::File(bytes), Some(start)) if start < bytes.len() => {
            let size = bytes.len();
            let range = format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
            (206, range, bytes[start..].to_vec(), None)
        }
        (Answer::File(_), Some(_)) => (416, String::new(), Vec::new(), None),
        (Answer::File(bytes) | Answer::NoRanges(bytes), _) => (200, String::new(), bytes, None),
        (Answer::Truncated(bytes, cut), _) => (200, String::new(), bytes, Some(cut)),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n",
        body.len()
    );
    // The client may be gone; then the test sees what it made of that.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body[..cut.unwrap_or(body.len())]);
    let _ = stream.flush();
}

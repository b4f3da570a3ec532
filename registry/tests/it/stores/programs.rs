//! Real programs that keep artifacts: docker-registry, moto's S3, and oras as another client.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use casemate_registry::store::ObjectSettings;

use crate::run;

/// What may stand in no message.
pub(crate) const SECRET: &str = "hunter2";

/// Skips a test that needs `what`; fails where `CASEMATE_REQUIRE` names it.
pub(crate) fn skip(what: &str, reason: &str) {
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == what), "{what} is required: {reason}");
    eprintln!("skipped: {reason}");
}

/// A program that runs as long as this value lives.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _dir: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The port in the first line that has `mark` before it. What follows is read and dropped.
fn port_after(output: impl Read + Send + 'static, mark: &str) -> u16 {
    let mut lines = BufReader::new(output).lines();
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.contains(mark));
    let line = line.unwrap_or_else(|| panic!("the program ended without saying {mark:?}"));
    std::thread::spawn(move || lines.for_each(drop));
    let after = &line[line.find(mark).unwrap() + mark.len()..];
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Starts a program that says its port on standard output after `mark`.
pub(crate) fn spawn_for_port(mut command: Command, mark: &str) -> Server {
    let mut child = command.spawn().unwrap();
    let port = port_after(child.stdout.take().unwrap(), mark);
    Server { child, port, _dir: None }
}

/// Starts docker-registry, with a user `me` and password `secret` where `login` says so.
pub(crate) fn registry(login: bool) -> Option<Server> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
         http: {{addr: \"127.0.0.1:0\"}}\n",
        dir.path().join("data").display()
    );
    if login {
        // bcrypt of "secret", as `htpasswd -B` writes it.
        let line = "me:$2b$05$g96ppFSZTVH5g2QsFz2RCOCwsbaPoaYaiGZhccww/dpSpeMWwWcqG\n";
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, line).unwrap();
        let path = path.display();
        config = format!("{config}auth: {{htpasswd: {{realm: casemate, path: {path}}}}}\n");
    }
    let path = dir.path().join("config.yml");
    std::fs::write(&path, config).unwrap();
    let program = peer("docker-registry.sh")?;
    let mut command = Command::new(program);
    command.arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let port = port_after(child.stderr.take().unwrap(), "listening on 127.0.0.1:");
    Some(Server { child, port, _dir: Some(dir) })
}

/// Settings of moto's S3 server, which has a bucket `bucket`. It starts once for all tests.
pub(crate) fn s3() -> Option<ObjectSettings> {
    static SERVER: OnceLock<Option<u16>> = OnceLock::new();
    let port = SERVER.get_or_init(|| {
        let venv = peer("moto.sh")?;
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(venv.join("bin/python3"));
        // It must not outlive the tests: it ends when its standard input does.
        let script = "import os,sys,threading\n\
            threading.Thread(target=lambda:(sys.stdin.read(),os._exit(0)),daemon=True).start()\n\
            from moto.server import main\nmain(['-H','127.0.0.1','-p','0'])";
        command.args(["-c", script]).current_dir(dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let port = port_after(child.stderr.take().unwrap(), "http://127.0.0.1:");
        run(Command::new("curl")
            .args(["-sf", "-X", "PUT"])
            .arg(format!("http://127.0.0.1:{port}/bucket")));
        std::mem::forget((child, dir));
        Some(port)
    });
    let port = (*port)?;
    let set = |name: &str, value: &str| (name.into(), value.into());
    let settings = ObjectSettings::from_environment(
        [
            set("AWS_ENDPOINT_URL", &format!("http://127.0.0.1:{port}")),
            set("AWS_REGION", "us-east-1"),
            set("AWS_ACCESS_KEY_ID", "me"),
            set("AWS_SECRET_ACCESS_KEY", SECRET),
            set("AWS_ENDPOINT_URL_S3", ""),
        ]
        .into_iter(),
    );
    Some(settings)
}

/// Runs a script of tests/peers and gives the path that it prints; `None` with a word where it
/// cannot be had.
pub(crate) fn peer(script: &str) -> Option<PathBuf> {
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let mut install = Command::new("bash");
    install.arg(format!("{peers}/{script}")).env("CARGO_TARGET_DIR", target);
    let output = install.output().unwrap();
    if !output.status.success() {
        skip("stores", &format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap().trim_end().into())
}

/// oras with arguments, in a directory.
pub(crate) fn oras<S: AsRef<OsStr>>(
    program: &Path,
    dir: &Path,
    arguments: impl IntoIterator<Item = S>,
) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).env("HOME", dir);
    String::from_utf8(run(&mut command).stdout).unwrap()
}

//! What is published, held to its own description, and to those who read it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use casemate_launcher::publish::OPENAPI;
use casemate_launcher::serve::Doing;
use casemate_launcher::serve::restart::{Restart, When};
use serde_json::Value;

use super::bench::{Bench, PATIENCE};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// Where a daemon publishes.
pub(crate) fn address(bench: &Bench) -> SocketAddr {
    bench.client().host().unwrap().published_at.unwrap().parse().unwrap()
}

/// Sends bytes and reads until the end.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: bytes[end + 4..].to_vec() }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

/// Runs a check in Python, or says what is missing.
fn python(module: &str, script: &str, input: &[u8]) {
    let run = |script: &str, input: &[u8]| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    if !run(&format!("import {module}"), b"").status.success() {
        let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == "python"), "no {module}");
        eprintln!("skipped: no Python package {module}");
        return;
    }
    let output = run(script, input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Holds each answer to what the description says of its path, status and type.
const HOLD: &str = r#"
import json, re, sys
import jsonschema
given = json.load(sys.stdin)
api = given["openapi"]
assert api["openapi"].startswith("3.1."), api["openapi"]
used = set()
for answer in given["answers"]:
    path = answer["path"].partition("?")[0]
    patterns = {p: "^" + re.sub(r"\{file\}", ".+", re.sub(r"\{(?!file)[^}]*\}", "[^/]+", p)) + "$"
                for p in api["paths"]}
    template = min((p for p in patterns if re.match(patterns[p], path)), key=lambda p: p.count("{"))
    responses = api["paths"][template]["get"]["responses"]
    response = responses[str(answer["status"])]
    if "$ref" in response:
        response = api["components"]["responses"][response["$ref"].rpartition("/")[2]]
    kind = answer["type"].partition(";")[0]
    schema = dict(response["content"][kind]["schema"], components=api["components"])
    value = answer["text"]
    if kind == "application/json":
        value = json.loads(value)
    elif kind == "application/yaml":
        import yaml
        value = yaml.safe_load(value)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)
    used.add((template, str(answer["status"])))
for template, path in api["paths"].items():
    assert (template, "200") in used, f"{template} was never answered"
"#;

#[test]
fn answers_are_what_the_description_says() {
    let (bench, client) = Bench::started("");
    fs::write(bench.path("release/release.sigstore.json"), "{\"signed\": true}").unwrap();
    fs::create_dir(bench.path("release/signatures")).unwrap();
    fs::write(bench.path("release/signatures/rebuilder.sigstore.json"), "{}").unwrap();
    bench.run("vm-1", Restart::default());
    let never = Restart { when: When::Never, ..Restart::default() };
    client.run(&bench.request("vm-2", never)).unwrap();
    bench.until("vm-2", Doing::Running);
    client.stop(&"vm-2".parse().unwrap(), std::time::Duration::ZERO).unwrap();
    bench.until("vm-2", Doing::Stopped);
    let address = address(&bench);
    let vm = get(address, "/v1/vms/vm-1").json();
    let manifest = vm["release"]["manifest_sha256"].as_str().unwrap().to_owned();
    let mut paths: Vec<String> = [
        "/v1/vms",
        "/v1/vms/vm-1",
        "/v1/vms/vm-2",
        "/v1/vms/vm-1?format=sek8s-yaml",
        "/v1/vms/vm-1?format=xml",
        "/v1/vms/vm-9",
        "/metrics",
        "/health",
        "/openapi.json",
    ]
    .map(str::to_owned)
    .into();
    let files = vm["release"]["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    paths.extend(files.iter().map(|file| file.as_str().unwrap().to_owned()));
    paths.push(format!("/v1/releases/{manifest}"));
    paths.push(format!("/v1/releases/{manifest}?format=sek8s-yaml"));
    paths.push(format!("/v1/releases/{manifest}/root.img"));
    let mut answers = Vec::new();
    for path in &paths {
        let answer = get(address, path);
        let kind = answer.head.lines().find_map(|line| line.strip_prefix("content-type: "));
        answers.push(serde_json::json!({
            "path": path, "status": answer.status, "type": kind.unwrap(), "text": answer.text(),
        }));
    }
    let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
    let given = serde_json::json!({"openapi": openapi, "answers": answers});
    python("jsonschema, yaml", HOLD, given.to_string().as_bytes());
}

#[test]
fn what_is_published_is_what_must_be_measured_and_nothing_of_who_works_there() {
    let (bench, _client) = Bench::started("");
    let view = bench.run("vm-1", Restart::default());
    let address = address(&bench);
    let vm = get(address, "/v1/vms/vm-1").json();
    assert_eq!(vm["measurement"], view.measurement.to_string());
    assert_eq!(vm["host_data"], view.host_data.to_string());
    assert_eq!(vm["evidence"], serde_json::json!({"host": "miner.example", "port": 8443}));
    assert_eq!((&vm["state"], &vm["stage"]), (&"running".into(), &0x13.into()));
    assert_eq!(vm["release"]["proves_nothing"], true);
    let manifest = vm["release"]["files"][0].as_str().unwrap();
    assert_eq!(get(address, manifest).body, fs::read(bench.path("release/manifest.json")).unwrap());
    let yaml = get(address, "/v1/vms/vm-1?format=sek8s-yaml").text();
    assert!(yaml.contains(&view.measurement.to_string()), "{yaml}");
    let everything: String =
        ["/v1/vms", "/v1/vms/vm-1", "/metrics"].map(|path| get(address, path).text()).concat();
    for private in ["ssh-ed25519", "AAAA", bench.path("").to_str().unwrap(), "2222"] {
        assert!(!everything.contains(private), "{private} is published");
    }
    // A release that was replaced is not passed off as the one that runs.
    fs::write(bench.path("release/manifest.json"), "{}").unwrap();
    let gone = get(address, manifest);
    assert_eq!(gone.status, 410);
    assert!(!gone.text().contains("/tmp"), "{}", gone.text());
}

#[test]
fn metrics_are_read_by_prometheus() {
    let (bench, client) = Bench::started("");
    bench.run("vm-1", Restart::default());
    bench.run("vm-2", Restart::default());
    client.stop(&"vm-2".parse().unwrap(), std::time::Duration::ZERO).unwrap();
    bench.until("vm-2", Doing::Stopped);
    let script = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
found = {(s.name, *s.labels.values()): s.value for f in parse(sys.stdin.read()) for s in f.samples}
assert found['casemate_vms', 'running'] == 1, found
assert found['casemate_vms', 'stopped'] == 1, found
assert found['casemate_vms', 'quarantined'] == 0, found
assert found['casemate_vm_restarts_total', 'vm-1'] == 0, found
assert found['casemate_vm_ready_seconds', 'vm-1'] > 0, found
";
    let metrics = get(address(&bench), "/metrics");
    python("prometheus_client", script, &metrics.body);
}

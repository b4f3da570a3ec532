//! What NVIDIA's own verifier, where it is installed, says of GPU evidence.
//!
//! `nvattest` is a program of NVIDIA's attestation SDK. It fetches manifests and revocation
//! answers from NVIDIA's services by itself. Its word is one more check of a verdict: it can
//! refuse, and a run that fails, hangs or says something else is a refusal.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measurements::appraisal::SecondOpinion;
use casemate_measurements::gpu_evidence::{DeviceEvidence, GpuEvidence};
use casemate_measurements::hash::Nonce;
use serde::Deserialize;
use serde_json::{Value, json};

/// Most bytes of what the program prints.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// How often a program that runs is looked at.
const POLL: Duration = Duration::from_millis(20);

/// NVIDIA's verifier: the program, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvAttest {
    /// The program, looked for in `PATH` where it is a bare name.
    pub program: PathBuf,
    /// The longest that one run may take.
    pub limit: Duration,
}

/// Why the program gave no opinion.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the evidence is none: {0}")]
    Evidence(#[from] serde_json::Error),
    #[error("it cannot be given the evidence: {0}")]
    File(#[source] io::Error),
    #[error("it cannot be started: {0}")]
    Start(#[source] io::Error),
    #[error("it did not end within {} s", .0.as_secs_f32())]
    Time(Duration),
    #[error("it prints no JSON with a result_code ({0})")]
    Output(String),
    #[error("result {code}: {message}")]
    Refused { code: i64, message: String },
}

/// What it prints last, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Answer {
    result_code: i64,
    #[serde(default)]
    result_message: String,
}

impl NvAttest {
    /// Has it judge `evidence` that was asked for with `nonce`: the GPUs, then the switches where
    /// there are any.
    #[must_use]
    pub fn ask(&self, evidence: &str, nonce: &Nonce) -> SecondOpinion {
        let by = self.program.display().to_string();
        match self.run_all(evidence, nonce) {
            Ok(says) => SecondOpinion { by, accepts: true, says },
            Err(failure) => {
                SecondOpinion { by, accepts: false, says: format!("not accepted: {failure}") }
            }
        }
    }

    fn run_all(&self, evidence: &str, nonce: &Nonce) -> Result<String, Failure> {
        let evidence: GpuEvidence = serde_json::from_str(evidence)?;
        let (switches, gpus): (Vec<_>, Vec<_>) =
            evidence.devices.iter().partition(|device| device.architecture.is_switch());
        let dir = tempfile::tempdir().map_err(Failure::File)?;
        let mut said = Vec::new();
        for (kind, devices) in [("gpu", gpus), ("nvswitch", switches)] {
            if !devices.is_empty() {
                let path = dir.path().join(format!("{kind}.json"));
                std::fs::write(&path, listed(&devices, nonce)?).map_err(Failure::File)?;
                self.run(kind, &path, nonce)?;
                said.push(format!("{} {kind}", devices.len()));
            }
        }
        Ok(format!("accepted: {}", said.join(", ")))
    }

    fn run(&self, kind: &str, evidence: &Path, nonce: &Nonce) -> Result<(), Failure> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments(kind, evidence, nonce))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_clear();
        // What finding it and reaching its services takes; nothing that redirects it to others.
        for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "https_proxy", "HTTPS_PROXY", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().map_err(Failure::Start)?;
        let output = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(output) = output {
                // What cannot be read is no JSON.
                let _ = output.take(MAX_OUTPUT).read_to_end(&mut bytes);
            }
            bytes
        });
        let succeeded = self.wait(&mut child)?;
        let bytes = reader.join().unwrap_or_default();
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|error| Failure::Output(error.to_string()))?;
        if succeeded && answer.result_code == 0 {
            return Ok(());
        }
        let message: String = answer.result_message.chars().take(200).collect();
        Err(Failure::Refused { code: answer.result_code, message })
    }

    /// Whether it ended well; one that does not end is killed.
    fn wait(&self, child: &mut Child) -> Result<bool, Failure> {
        let end = Instant::now() + self.limit;
        loop {
            if let Some(status) = child.try_wait().map_err(Failure::Start)? {
                return Ok(status.success());
            }
            if Instant::now() >= end {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::Time(self.limit));
            }
            std::thread::sleep(POLL);
        }
    }
}

/// NVIDIA's options: *Attestation SDK CLI, Command Reference*, version 1.2.
fn arguments(kind: &str, evidence: &Path, nonce: &Nonce) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let source = format!("--{kind}-evidence-source");
    let file = format!("--{kind}-evidence-file");
    for word in ["--format", "json", "--log-level", "off", "attest", "--device", kind] {
        arguments.push(word.into());
    }
    for word in ["--verifier", "local", &source, "file", &file] {
        arguments.push(word.into());
    }
    arguments.push(evidence.into());
    arguments.extend(["--nonce".into(), nonce.to_string().into()]);
    arguments
}

/// The list that NVIDIA's collector writes.
fn listed(devices: &[&DeviceEvidence], nonce: &Nonce) -> serde_json::Result<Vec<u8>> {
    let list: Vec<Value> = devices
        .iter()
        .map(|device| {
            json!({
                "version": "1.0",
                "arch": device.architecture,
                "nonce": nonce,
                "evidence": STANDARD.encode(&device.report.0),
                "certificate": STANDARD.encode(&device.certificates.0),
            })
        })
        .collect();
    serde_json::to_vec(&list)
}

#[cfg(test)]
mod tests {
    use casemate_measurements::appraisal::read_foreign;

    use super::*;

    const SWITCH: &str = include_str!("../../measurements/tests/samples/ls10.json");
    const NONCE: Nonce = Nonce::from_bytes([7; 32]);

    /// A stand-in that runs `script` with NVIDIA's arguments as `$@`.
    fn stand_in(dir: &Path, script: &str) -> NvAttest {
        let program = dir.join("nvattest");
        let text = format!("#!/bin/sh\n{script}\n");
        // Another process writes it: what this one has open for writing cannot be started.
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        io::Write::write_all(&mut install.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        NvAttest { program, limit: Duration::from_secs(20) }
    }

    #[test]
    fn it_is_given_the_evidence_as_its_own_collector_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo \"$@\" >$0.args; for a in \"$@\"; do case $a in *.json) cp $a $0.json;; \
                      esac; done; echo '{\"result_code\": 0, \"claims\": []}'";
        let opinion = stand_in(dir.path(), script).ask(SWITCH, &NONCE);
        assert!(opinion.accepts, "{opinion:?}");
        assert_eq!(opinion.says, "accepted: 1 nvswitch");
        let args = std::fs::read_to_string(dir.path().join("nvattest.args")).unwrap();
        assert!(args.starts_with("--format json --log-level off attest --device nvswitch"));
        assert!(args.trim().ends_with(&format!("--nonce {NONCE}")), "{args}");
        let given = std::fs::read_to_string(dir.path().join("nvattest.json")).unwrap();
        let read = read_foreign(&given).unwrap();
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(value(&read), value(SWITCH));
    }

    #[test]
    fn whatever_else_it_does_is_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        for (script, words) in [
            ("echo '{\"result_code\": 30, \"result_message\": \"no\"}'; exit 1", "result 30: no"),
            ("echo '{\"result_code\": 0}'; exit 1", "result 0"),
            ("echo '{\"result_code\": 9}'", "result 9"),
            ("echo fine", "prints no JSON"),
            ("", "prints no JSON"),
        ] {
            let opinion = stand_in(dir.path(), script).ask(SWITCH, &NONCE);
            assert!(!opinion.accepts && opinion.says.contains(words), "{opinion:?}");
        }
        let hung =
            NvAttest { limit: Duration::from_millis(100), ..stand_in(dir.path(), "exec sleep 60") };
        let opinion = hung.ask(SWITCH, &NONCE);
        assert!(!opinion.accepts && opinion.says.contains("did not end"), "{opinion:?}");
        let absent = NvAttest { program: dir.path().join("absent"), ..hung };
        assert!(absent.ask(SWITCH, &NONCE).says.contains("cannot be started"));
        assert!(absent.ask("{}", &NONCE).says.contains("evidence is none"));
    }
}

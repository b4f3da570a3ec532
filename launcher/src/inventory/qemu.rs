//! What a QEMU binary itself answers over its monitor: not what its version lets one guess.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_measurements::causes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Fact;
use crate::host::{Qemu, QemuVersion};

/// Most bytes of all answers together.
const MAX_LEN: u64 = 8 * 1024 * 1024;
/// Longest that QEMU may take over all answers.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The CPU models that SNP guests are launched with start so.
const CPU_MODELS: &str = "EPYC";

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuAnswers {
    /// The binary.
    pub path: PathBuf,
    /// Its version.
    pub version: QemuVersion,
    /// Whether it was built with a seccomp sandbox.
    pub sandbox: bool,
    /// Whether it has the object `sev-snp-guest`.
    pub snp_guest: bool,
    /// Whether it has the object `iommufd`.
    pub iommufd: bool,
    /// What it finds out of the host's SEV.
    pub sev: Fact<SevCapabilities>,
    /// Its EPYC models, sorted.
    pub cpu_models: Vec<String>,
}

/// `query-sev-capabilities`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SevCapabilities {
    /// Position of the C-bit.
    pub cbitpos: u8,
    /// By how many bits encryption shortens physical addresses.
    pub reduced_phys_bits: u8,
}

/// Starts QEMU with no VM in it and asks.
pub(super) fn ask(path: Option<&Path>) -> Fact<QemuAnswers> {
    let qemu = Qemu::probe(path).map_err(|error| causes::in_one_line(&error))?;
    // SEV's answers need KVM; where there is none, the rest is still worth knowing.
    let answers = session(&qemu.path)?;
    let names = |value: &Value| {
        let list = value.as_array().cloned().unwrap_or_default();
        let name = |item: &Value| item.get("name")?.as_str().map(str::to_owned);
        list.iter().filter_map(name).collect::<Vec<_>>()
    };
    let [objects, models, sev] = answers;
    let objects = names(&objects?);
    let mut cpu_models = names(&models?);
    cpu_models.retain(|name| name.starts_with(CPU_MODELS));
    cpu_models.sort();
    cpu_models.dedup();
    let sev = sev.and_then(|value| {
        let number = |name: &str| value.get(name).and_then(Value::as_u64);
        let byte = |name: &str| number(name).and_then(|n| u8::try_from(n).ok());
        match (byte("cbitpos"), byte("reduced-phys-bits")) {
            (Some(cbitpos), Some(reduced_phys_bits)) => {
                Ok(SevCapabilities { cbitpos, reduced_phys_bits })
            }
            _ => Err("query-sev-capabilities: no cbitpos in the answer".to_owned()),
        }
    });
    Ok(QemuAnswers {
        snp_guest: objects.iter().any(|name| name == "sev-snp-guest"),
        iommufd: objects.iter().any(|name| name == "iommufd"),
        path: qemu.path,
        version: qemu.version,
        sandbox: qemu.sandbox,
        sev,
        cpu_models,
    })
}

/// The answers to the three questions, in their order.
fn session(path: &Path) -> Fact<[Fact<Value>; 3]> {
    let refused = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut child = Command::new(path)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-S"])
        .args(["-machine", "none,accel=kvm:tcg", "-qmp", "stdio"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(refused)?;
    let answers = converse(&mut child);
    // It has nothing to lose: there is no VM in it.
    let _ = child.kill();
    let _ = child.wait();
    answers.map_err(|reason| format!("{}: {reason}", path.display()))
}

fn converse(child: &mut Child) -> Fact<[Fact<Value>; 3]> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("its monitor has no pipe".to_owned());
    };
    let questions = [
        json!({"execute": "qmp_capabilities", "id": 0}),
        json!({"execute": "qom-list-types", "id": 1,
               "arguments": {"implements": "user-creatable", "abstract": false}}),
        json!({"execute": "query-cpu-definitions", "id": 2}),
        json!({"execute": "query-sev-capabilities", "id": 3}),
    ];
    for question in questions {
        writeln!(input, "{question}").map_err(|error| error.to_string())?;
    }
    let (sender, lines) = std::sync::mpsc::channel();
    // Reads until QEMU is killed, so it cannot outlive this call by more than a moment.
    std::thread::spawn(move || {
        for line in BufReader::new(output.take(MAX_LEN)).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + MAX_TIME;
    let mut found: [Fact<Value>; 3] = [const { Err(String::new()) }; 3];
    let mut missing = 3;
    while missing > 0 {
        let left = end.saturating_duration_since(Instant::now());
        let line = lines
            .recv_timeout(left)
            .map_err(|_| format!("its monitor did not answer within {} s", MAX_TIME.as_secs()))?;
        let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let at = answer.get("id").and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
        let Some(slot) = at.and_then(|id| found.get_mut(id.checked_sub(1)?)) else { continue };
        let failure = || answer.pointer("/error/desc").and_then(Value::as_str);
        *slot = match (answer.get("return"), failure()) {
            (Some(value), _) => Ok(value.clone()),
            (None, text) => Err(text.unwrap_or("no answer").chars().take(200).collect()),
        };
        missing -= 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process writes it: a program that this one has open for writing, or that a child
    /// forked meanwhile inherited so, cannot be started ("Text file busy").
    fn write_program(path: &Path, script: &str) {
        let mut install = Command::new("install")
            .args(["-m", "755", "/dev/stdin"])
            .arg(path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
    }

    #[test]
    fn the_qemu_of_this_machine_answers() {
        let answers = match ask(None) {
            Ok(answers) => answers,
            Err(reason) if reason.contains("install QEMU") => {
                return eprintln!("skipped: {reason}");
            }
            Err(reason) => panic!("{reason}"),
        };
        assert!(answers.cpu_models.iter().any(|model| model == "EPYC-Milan"), "{answers:?}");
        assert_eq!(answers.snp_guest, answers.version >= crate::host::LEAST_QEMU_SNP);
    }

    #[test]
    fn one_that_says_nonsense_or_ends_is_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        for (monitor, said) in [("echo nonsense", "expected"), ("exit 3", "did not answer")] {
            let script = format!(
                "#!/bin/sh\ncase $1 in --version) echo 'QEMU emulator version 9.2.0';; \
                 -help) ;; *) {monitor};; esac\n"
            );
            write_program(&path, &script);
            let reason = ask(Some(&path)).unwrap_err();
            assert!(reason.contains(said) || reason.contains("Broken pipe"), "{reason}");
        }
    }
}

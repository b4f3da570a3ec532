//! What the owner attaches to a VM beside its consoles: a store that kernels write their log to when
//! they panic, and a monitor of his own, by which he presses keys.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use casemate_launcher::plan::LaunchPlan;
use casemate_tests::Host;

/// How long QEMU may take to be gone.
const PATIENCE: Duration = Duration::from_mins(1);
/// Pause between two keys, so that the guest hears each.
const BETWEEN_KEYS: Duration = Duration::from_millis(500);

/// The owner's ends of what he attached.
#[derive(Debug)]
pub(crate) struct Owner {
    erst: PathBuf,
    monitor: PathBuf,
}

impl Owner {
    /// Attaches both, and `more` that QEMU is told, to a VM that is not started yet, behind the
    /// arguments of its plan.
    pub(crate) fn attach(host: &Host, plan: &mut LaunchPlan, more: &[String]) -> Self {
        let [erst, monitor, qemu] = ["erst", "monitor", "qemu"].map(|name| host.dir().join(name));
        let mut script = format!("#!/bin/sh\nexec {} \"$@\"", plan.qemu.path.display());
        let own = [
            "-object",
            &format!("memory-backend-file,id=erst,mem-path={},size=64K,share=on", erst.display()),
            "-device",
            "acpi-erst,memdev=erst",
            "-chardev",
            &format!("socket,id=owner,path={},server=on,wait=off", monitor.display()),
            "-mon",
            "chardev=owner,mode=control",
        ];
        for argument in own.into_iter().chain(more.iter().map(String::as_str)) {
            write!(script, " '{argument}'").unwrap();
        }
        // Another process writes it: one that is open for writing cannot be started.
        let mut install = Command::new("install");
        install.args(["-m", "755", "/dev/stdin"]).arg(&qemu).stdin(Stdio::piped());
        let mut install = install.spawn().unwrap();
        install.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(install.wait().unwrap().success());
        plan.qemu.path = qemu;
        Self { erst, monitor }
    }

    /// Presses Alt, `SysRq` and each of `keys` in turn; panics where QEMU is gone after one.
    pub(crate) fn press_sysrq(&self, keys: &[&str]) {
        let press = |key: &&str| {
            let keys = ["alt", "sysrq", key];
            let keys = keys.map(|code| serde_json::json!({"type": "qcode", "data": code}));
            serde_json::json!({"execute": "send-key", "arguments": {"keys": keys}})
        };
        self.ask(&keys.iter().map(press).collect::<Vec<_>>());
    }

    /// Gives QEMU commands, all of which it must take.
    pub(crate) fn ask(&self, commands: &[serde_json::Value]) {
        let mut stream = UnixStream::connect(&self.monitor).unwrap();
        let mut heard = BufReader::new(stream.try_clone().unwrap()).lines();
        let capabilities = serde_json::json!({"execute": "qmp_capabilities"});
        for command in std::iter::once(&capabilities).chain(commands) {
            writeln!(stream, "{command}").unwrap();
            loop {
                let line = heard.next().unwrap().unwrap();
                assert!(!line.contains("\"error\""), "{command}: {line}");
                if line.contains("\"return\"") {
                    break;
                }
            }
            sleep(BETWEEN_KEYS);
        }
    }

    /// Waits until QEMU is gone.
    pub(crate) fn wait_for_the_end(&self) {
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(&self.monitor).is_ok() {
            assert!(Instant::now() < until, "QEMU is still there");
            sleep(Duration::from_millis(200));
        }
    }

    /// What the guest wrote to the store: all that is there behind QEMU's own header.
    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(&self.erst).unwrap();
        assert!(bytes.starts_with(b"ERSTSTOR"), "the store was not attached");
        let written: Vec<u8> = bytes[64..].iter().copied().filter(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&written).into_owned()
    }
}

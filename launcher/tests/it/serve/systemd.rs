//! What a service manager sees of the daemon.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use casemate_launcher::serve::restart::Restart;

use super::bench::{Bench, PATIENCE, kill, qemu, wait_for};

fn heard(socket: &UnixDatagram) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 256];
    let len = socket.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[test]
fn it_says_that_it_is_ready_lives_and_goes_and_its_vms_stay() {
    let mut bench = Bench::new("");
    let path = bench.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    bench = bench.with("NOTIFY_SOCKET", path.to_str().unwrap()).with("WATCHDOG_USEC", "400000");
    bench.start();
    assert_eq!(heard(&socket), "READY=1\nSTATUS=0 VMs are known");
    assert_eq!(heard(&socket), "WATCHDOG=1");
    let view = bench.run("vm-1", Restart::default());
    kill(bench.daemon_pid(), "-TERM");
    let until_stopping = || (heard(&socket) == "STOPPING=1").then_some(());
    wait_for("the farewell", until_stopping);
    assert!(bench.daemon_ended().success());
    assert!(!bench.path("s/api.sock").exists());
    assert!(qemu(&view).is_alive());
    let client = bench.start();
    let now = client.status(&view.name).unwrap();
    assert_eq!(qemu(&now), qemu(&view));
}

/// Hands a listening socket over as systemd does, then becomes the daemon.
const HAND_OVER: &str = "
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn it_takes_the_socket_that_is_handed_over_and_leaves_it() {
    let bench = Bench::new("");
    let plain = bench.command();
    let handed = bench.path("handed.sock");
    let mut command = Command::new("python3");
    command.args(["-c", HAND_OVER]).arg(&handed).arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut daemon = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let client = casemate_launcher::serve::client::Client::new(&handed);
    wait_for("the daemon", || client.list().ok());
    assert!(!bench.path("s/api.sock").exists());
    kill(daemon.id(), "-TERM");
    assert!(daemon.wait().unwrap().success());
    assert!(handed.exists());
}

#[test]
fn nobody_else_reaches_the_socket() {
    let (bench, client) = Bench::started("");
    if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) != 0) {
        eprintln!("skipped: only root can become someone else");
        return;
    }
    let socket = bench.path("s/api.sock");
    // Even where the file's mode let everyone in.
    for dir in [bench.path(""), bench.path("s"), socket.clone()] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir, mode).unwrap();
    }
    let script = "
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.settimeout(30)
try:
    s.sendall(b'GET /v1/vms HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    print(len(s.recv(100)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
";
    let output = Command::new("python3").args(["-c", script]).arg(&socket).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    client.list().unwrap();
}

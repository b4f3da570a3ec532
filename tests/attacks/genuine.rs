//! One genuine VM with every console attached, and what its owner can try while it runs.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_launcher::machine::{Console, ExtraDisk};
use casemate_measurements::appraisal::{
    Appraiser, Basis, CheckName, KnownRelease, Outcome, Session,
};
use casemate_measurements::hash::Nonce;
use casemate_tests::{Host, Vm, console_path, expect_code, free_port, release};
use casemate_validator::fetch::{self, Limits};
use casemate_validator::trust;
use casemate_validator::verify::now;

use crate::owner::Owner;

#[test]
fn a_genuine_vm_is_verified_and_everything_else_is_refused() {
    let host = Host::default();
    let mut plan = host.plan("genuine");
    plan.machine.consoles = host.consoles();
    let disk = host.dir().join("extra");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    plan.machine.extra_disks = vec![ExtraDisk { path: disk, serial: "overlay".into() }];
    // The root is a copy, for what is done to it at the end.
    let root = host.dir().join("root.img");
    std::fs::copy(release().join("root.img"), &root).unwrap();
    plan.machine.root_disk.clone_from(&root);

    let owner = Owner::attach(&host, &mut plan, &[]);

    let seen = host.launch(&plan);
    let vm = seen.result.unwrap();
    verified_and_connected(&host, &vm);
    tenant_cannot_reach_the_report_device(&host, &vm);
    containers_run(&host, &vm);
    simulation_is_refused_by_default(&vm);
    another_key_is_refused_on_request(&host, &vm);
    replayed_evidence_is_refused(&vm);
    redirected_ssh_is_refused(&host, &vm);
    the_kernel_takes_no_orders_and_has_no_store_for_its_log(&host, &vm, &owner);
    consoles_are_silent(&host, &vm.plan.machine.consoles, &seen.before_init);
    changed_while_running(&host, &vm, &root);
    // It panicked.
    owner.wait_for_the_end();
    assert_eq!(owner.log(), "", "the kernel's log is in the owner's hands");
}

fn verified_and_connected(host: &Host, vm: &Vm) {
    let output = expect_code(0, &mut vm.verify(true));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(verdict.to_string().contains("SIMULATED"), "the verdict does not say SIMULATED");

    let remote = "echo $((6*7)); id -un; findmnt -no FSTYPE,OPTIONS /; exit 7";
    let output = expect_code(7, &mut vm.ssh(host, remote));
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["42", "sandbox"]);
    assert!(lines[2].starts_with("erofs") && lines[2].contains("ro"), "{said}");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(talk.contains("SIMULATED"), "{talk}");
}

/// Who can ask for reports can bind any key: only root can.
fn tenant_cannot_reach_the_report_device(host: &Host, vm: &Vm) {
    // Opened, not asked for its mode: the kernel's log has a readable mode and is closed.
    let remote = "for f in /dev/vport* /dev/sev-guest /sys/kernel/config/tsm/report/* \
                  /run/casemate/ssh_host_ed25519_key /dev/vd* /dev/dm-* /dev/mem /dev/kmsg \
                  /var/log/journal/*/* /run/log/journal/*/* /proc/1/environ; do \
                  [ -e $f ] || continue; echo there >&2; \
                  { : <$f; } 2>/dev/null && echo read $f; \
                  { : >>$f; } 2>/dev/null && echo write $f; done; \
                  mkdir /sys/kernel/config/tsm/report/mine 2>/dev/null && echo made; \
                  command -v sudo apt apt-get dpkg; dmesg 2>/dev/null | head -1; true";
    let output = expect_code(0, &mut vm.ssh(host, remote));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    let there = String::from_utf8(output.stderr).unwrap().matches("there").count();
    assert!(there >= 6, "only {there} of the files exist: the test looks in the wrong places");
    let output = expect_code(0, &mut vm.ssh(host, "pgrep -l getty; true"));
    assert_eq!(output.stdout, b"", "a getty runs");
}

/// Rootless podman with crun, on a root made of one of the guest's own programs.
fn containers_run(host: &Host, vm: &Vm) {
    let remote = "r=$(mktemp -d) && cp -L --parents /usr/bin/id \
                  $(ldd /usr/bin/id | grep -o '/[^ ]*') $r && \
                  podman run --rm --network none --rootfs $r /usr/bin/id -u";
    let output = expect_code(0, &mut vm.ssh(host, remote));
    assert_eq!(output.stdout, b"0\n");
}

fn simulation_is_refused_by_default(vm: &Vm) {
    let output = expect_code(2, &mut vm.verify(false));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("SIMULATED"), "{said}");
}

/// A tenant who says which keys may log in learns of every other.
fn another_key_is_refused_on_request(host: &Host, vm: &Vm) {
    let mut command = vm.verify(true);
    let _ = expect_code(0, command.arg("--only-key").arg(host.key().with_extension("pub")));
    let other = casemate_tests::key_pair(host.dir(), "somebody").with_extension("pub");
    let output = expect_code(3, vm.verify(true).arg("--only-key").arg(other));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("this key may log in too: ssh-ed25519"), "{said}");
}

/// Evidence for one nonce is worth nothing for the next.
fn replayed_evidence_is_refused(vm: &Vm) {
    let nonce = Nonce::from_bytes([0x11; 32]);
    let fetched = fetch::fetch_evidence(&vm.evidence(), &nonce, &Limits::default()).unwrap();
    let releases = [KnownRelease::new(Vm::manifest()).unwrap()];
    let roots = trust::roots(Some(&Vm::root())).unwrap();
    let policy = trust::policy(&roots);
    let now = now().unwrap();
    let appraiser =
        Appraiser { releases: &releases, policy: &policy, basis: Basis::new(&roots, now) };
    let (tls_spki_sha256, elapsed) = (fetched.tls_spki_sha256, fetched.elapsed);
    let mut session = Session { nonce, tls_spki_sha256, elapsed };
    assert!(appraiser.appraise(&fetched.evidence, &session).is_accepted());

    session.nonce = Nonce::from_bytes([0x22; 32]);
    let verdict = appraiser.appraise(&fetched.evidence, &session);
    assert_eq!(verdict.exit_code(), 2, "{}", verdict.summary());
    let check = verdict.check(CheckName::Nonce).unwrap();
    assert_eq!(check.outcome, Outcome::Failed);

    // Evidence that went through a TLS endpoint of the owner's.
    let tls_spki_sha256 = casemate_measurements::hash::Sha256Hash::of(b"");
    session = Session { nonce, tls_spki_sha256, elapsed };
    assert_eq!(appraiser.appraise(&fetched.evidence, &session).exit_code(), 2);
}

/// The evidence port leads to the genuine VM, port 22 to another sshd that lets everybody in.
fn redirected_ssh_is_refused(host: &Host, vm: &Vm) {
    let dir = host.dir();
    let (port, key) = (free_port(), casemate_tests::key_pair(dir, "other_host_key"));
    let config = dir.join("sshd_config");
    let keys = dir.join("authorized_keys");
    std::fs::copy(host.key().with_extension("pub"), &keys).unwrap();
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    let text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nAuthorizedKeysFile {}\nAllowUsers sandbox {user}\n",
        key.display(),
        keys.display()
    );
    std::fs::write(&config, text).unwrap();
    // sshd wants this folder when it is root's.
    let _ = std::fs::create_dir_all("/run/sshd");
    let sshd = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(&config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sshd = Ended(sshd);
    let relayed = relay(port);
    wait_for_banner(relayed);

    let output = expect_code(255, &mut vm.ssh_at(host, relayed, "echo connected"));
    assert_eq!(output.stdout, b"", "a command ran on the other machine");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Host key verification failed"), "{said}");
    assert!(sshd.0.try_wait().unwrap().is_none(), "the other sshd was not there");

    // The same relay to the genuine sshd is no attack: who relays bytes changes nothing.
    let relayed = relay(vm.ssh_port());
    let output = expect_code(0, &mut vm.ssh_at(host, relayed, "echo connected"));
    assert_eq!(output.stdout, b"connected\n");
}

/// `SysRq` would show the registers of a tenant's process and end the VM; a store of the host's would
/// take the kernel's log.
fn the_kernel_takes_no_orders_and_has_no_store_for_its_log(host: &Host, vm: &Vm, owner: &Owner) {
    // Registers, backtraces, a crash, power off, a reset.
    owner.press_sysrq(&["p", "l", "c", "o", "b"]);
    // A kernel without them has no such files.
    let remote = "for f in /proc/sys/kernel/sysrq /sys/module/pstore/parameters/backend; do \
                  [ ! -e $f ] || cat $f; done; cat /proc/cmdline";
    let output = expect_code(0, &mut vm.ssh(host, remote));
    let said = String::from_utf8(output.stdout).unwrap();
    // The command line alone: this kernel has neither.
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.trim_end().ends_with(&Vm::manifest().boot.cmdline), "{said}");
    let keyboards = "grep -l '' /sys/bus/serio/devices/*/input/input*/name 2>/dev/null; true";
    assert_eq!(expect_code(0, &mut vm.ssh(host, keyboards)).stdout, b"", "a keyboard is there");
    assert_eq!(owner.log(), "");
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A transparent proxy to a port of 127.0.0.1; its own port.
fn relay(to: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
            pump(client.try_clone().unwrap(), server.try_clone().unwrap());
            pump(server, client);
        }
    });
    port
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

fn wait_for_banner(port: u16) {
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut banner = [0; 4];
            if stream.read_exact(&mut banner).is_ok() && &banner == b"SSH-" {
                let _ = stream.write_all(b"SSH-2.0-probe\r\n");
                return;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no sshd answers on port {port}");
}

/// Not one byte of the kernel's or of userland's. The firmware clears the screens that it finds
/// before the kernel runs: that is reported, must be nothing but such sequences, and must be all.
pub(crate) fn consoles_are_silent(host: &Host, consoles: &[Console], before_init: &[u64]) {
    assert!(consoles.len() >= 5, "only {} consoles were attached", consoles.len());
    assert_eq!(consoles.len(), before_init.len());
    for (console, before) in consoles.iter().zip(before_init) {
        let path = console_path(console);
        let bytes = std::fs::read(path).unwrap();
        let name = path.strip_prefix(host.dir()).unwrap().display();
        eprintln!("{name}: {} bytes, {before} of them before init started", bytes.len());
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() as u64, *before, "{name} grew after init started: {text:.400}");
        assert_eq!(without_sequences(&text), "", "{name} holds text: {text:.400}");
    }
}

/// What is left of a terminal's output without its control sequences (`ESC [ … letter`).
fn without_sequences(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(0, |at| at + 1);
        &part[end..]
    });
    let all: String = std::iter::once(first.as_str()).chain(rest).collect();
    all.trim().to_owned()
}

#[test]
fn text_between_control_sequences_is_found() {
    let screen = "\u{1b}[2J\u{1b}[001;001H\u{1b}[=3h\u{1b}[8;056;240t";
    assert_eq!(without_sequences(screen), "");
    assert_eq!(without_sequences(&format!("{screen}[    0.1] Linux")), "[    0.1] Linux");
    assert_eq!(without_sequences("a\u{1b}[31mb"), "ab");
}

/// The owner changes the disk under the running VM: it ends rather than reads it.
fn changed_while_running(host: &Host, vm: &Vm, root: &std::path::Path) {
    let _ = expect_code(0, &mut vm.ssh(host, "true"));
    let disk = std::fs::OpenOptions::new().read(true).write(true).open(root).unwrap();
    let blocks = Vm::manifest().boot.verity.data_blocks;
    // One bit in every block but the first, so that whatever is read next is changed.
    for block in 1..blocks {
        let mut byte = [0];
        disk.read_exact_at(&mut byte, block * 4096 + 17).unwrap();
        disk.write_all_at(&[byte[0] ^ 4], block * 4096 + 17).unwrap();
    }
    let mut command = vm.ssh(host, "cat $(find /usr -type f) | wc -c; echo survived");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && !said.contains("survived"), "it read on: {said}");
    let until = Instant::now() + Duration::from_mins(1);
    while fetch::fetch_evidence(&vm.evidence(), &Nonce::from_bytes([1; 32]), &Limits::default())
        .is_ok()
    {
        assert!(Instant::now() < until, "the VM still serves evidence");
        std::thread::sleep(Duration::from_secs(1));
    }
}

//! Interfaces and filters, made and removed by the real `ip` and `nft` in a network namespace of
//! their own. Without them, or the right to make a namespace, each test says so and passes,
//! unless `CASEMATE_REQUIRE` names `network`.

use std::path::Path;
use std::process::{Command, Stdio};

use casemate_launcher::machine::Accel;
use casemate_launcher::network::{Attached, Guard, Interface, Link, Network};
use casemate_launcher::plan::{LaunchPlan, LaunchRequest};
use casemate_launcher::release::Release;
use casemate_launcher::state::{StateRoot, VmName, VmPaths};
use casemate_measurements::platform::Platform;

use crate::fixture::{Contents, folder, plain_host, request};

fn missing(reason: &str) {
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|what| what == "network"), "required: {reason}");
    eprintln!("skipped: {reason}");
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a test of [`inside`] in a namespace of its own, where the host's network is out of reach.
fn in_namespace(name: &str) {
    let probe = "ip link add br0 type bridge && ip tuntap add dev t0 mode tap && nft list ruleset";
    if !succeeds("unshare", &["--net", "--mount", "sh", "-c", probe]) {
        return missing("no network namespace with bridges, taps and nft can be made here");
    }
    let test = format!("network::inside::{name}");
    let program = std::env::current_exe().unwrap();
    // `/sys` shows the interfaces of the namespace that mounted it.
    let script = "mount -t sysfs none /sys && exec \"$0\" --ignored --exact --nocapture \"$1\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(program)
        .arg(&test)
        .output()
        .unwrap();
    let spoken = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && spoken.contains("1 passed"), "{spoken}");
}

#[test]
fn a_tap_and_its_filter_come_and_go() {
    in_namespace("tap");
}

#[test]
fn what_fails_leaves_nothing() {
    in_namespace("failure");
}

#[test]
fn a_macvtap_comes_and_goes() {
    in_namespace("macvtap");
}

#[test]
fn a_guest_of_qemus_own_network_is_kept_from_the_host() {
    if !succeeds("qemu-system-x86_64", &["--version"]) {
        return missing("no QEMU");
    }
    in_namespace("own");
}

/// The rules are made by the daemon, with no more privileges than its unit leaves it.
#[test]
fn the_unit_lets_the_daemon_make_filters() {
    if !succeeds("unshare", &["--net", "nft", "list", "tables"]) {
        return missing("no network namespace with nft can be made here");
    }
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/casemate.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = set.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
    let bounding = names.fold("-all".to_owned(), |set, name| set + ",+" + &name);
    let confined = ["--net", "setpriv", "--no-new-privs", "--bounding-set", &bounding];
    for words in [&["nft", "add", "table", "inet", "x"][..], &["ip", "link", "set", "lo", "up"]] {
        assert!(succeeds("unshare", &[&confined, words].concat()), "{set}: {words:?}");
    }
}

mod inside {
    use super::*;

    /// What the guest of a network finds at each target, when QEMU is `nobody`.
    fn found(network: Network, targets: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        Contents::unbootable(Platform::Simulated).write(dir.path());
        let release = Release::open(dir.path()).unwrap();
        let asked = LaunchRequest { network, ..request(Platform::Simulated, "vm-1") };
        let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
        let plan = LaunchPlan::new(&release, &asked, &plain_host(), &paths).unwrap();
        let arguments = plan.arguments(Accel::Tcg);
        let words = arguments.as_slice();
        let at = words.iter().position(|word| word == "-netdev").unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.arg(folder("it/probes/guest.py")).arg("qemu-system-x86_64").arg(&words[at + 1]);
        let output = command.arg(NOBODY.to_string()).args(targets).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        said.lines().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
    }

    /// The number of the user `nobody`.
    const NOBODY: u32 = 65534;

    /// The host's services, and a machine beyond it.
    const SERVERS: &str = r"
import os, socket, subprocess, sys
sleeper = subprocess.Popen(['unshare', '--net', 'sleep', 'infinity'])
def run(*words):
    while subprocess.run(words, stderr=subprocess.DEVNULL).returncode: pass
for words in ('ip link set lo up', 'ip link add v0 type veth peer name v1',
              f'ip link set v1 netns {sleeper.pid}', 'ip addr add 192.0.2.1/24 dev v0',
              'ip link set v0 up'):
    run(*words.split())
inside = ['nsenter', '--net', '--target', str(sleeper.pid)]
subprocess.run('ip addr add fd00::1/64 dev v0 nodad'.split(), check=True)
run(*inside, 'ip', 'addr', 'replace', '192.0.2.2/24', 'dev', 'v1')
run(*inside, 'ip', 'link', 'set', 'v1', 'up')
serve = 'import socket; s = socket.create_server((%r, %d)); print(flush=True); import time; time.sleep(999)'
servers = [subprocess.Popen([*where, sys.executable, '-c', serve % (host, port)],
                            stdout=subprocess.PIPE)
           for where, host, port in (([], '', 8000), ([], '127.0.0.1', 8001), (inside, '', 80))]
for server in servers: server.stdout.readline()
print(flush=True)
sys.stdin.read()
for process in (sleeper, *servers): process.kill()
";

    /// Sends datagrams as a user to a port of an address, and compares which are refused.
    fn assert_kept(cases: &[(&str, &str, u16, bool)]) {
        for &(user, address, port, refused) in cases {
            let script = format!(
                "import socket as n; six = ':' in '{address}'\n\
                 s = n.socket(n.AF_INET6 if six else n.AF_INET, n.SOCK_DGRAM)\n\
                 s.setsockopt(n.SOL_SOCKET, n.SO_BROADCAST, 1)\n\
                 if six: s.setsockopt(n.IPPROTO_IPV6, n.IPV6_MULTICAST_IF, n.if_nametoindex('v0'))\n\
                 else: s.setsockopt(n.IPPROTO_IP, n.IP_MULTICAST_IF, n.inet_aton('192.0.2.1'))\n\
                 s.connect(('{address}', {port})); s.send(b'x')"
            );
            let by = ["--reuid", user, "--regid", user, "--clear-groups", "/usr/bin/python3"];
            let output = Command::new("setpriv").args(by).args(["-c", &script]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let kept = said.contains("Operation not permitted");
            let passed = output.status.success();
            assert_eq!((kept, passed), (refused, !refused), "{user} to {address} {port}: {said}");
        }
    }

    #[test]
    #[ignore = "runs in a namespace of its own"]
    fn own() {
        let mut servers = Command::new("/usr/bin/python3")
            .args(["-c", SERVERS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(&mut servers.stdout.take().unwrap(), &mut ready).unwrap();
        // 127.0.0.1 by QEMU's name for it, by its own, by a broadcast; another address of the
        // host; a machine beyond the host; the forwarded port of SSH.
        let targets = [
            "10.0.2.2:8000",
            "10.0.2.2:8001",
            "127.0.0.1:8001",
            "255.255.255.255:8001",
            "192.0.2.1:8000",
            "192.0.2.2:80",
            "2222",
        ];
        let open = ["open", "open", "open", "open", "open", "open", "heard"];
        assert_eq!(found(Network::User, &targets), open);
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::at(&dir.path().join("s")).unwrap();
        let name: VmName = "vm-1".parse().unwrap();
        let paths = root.vm(&name).unwrap();
        std::fs::create_dir(paths.dir()).unwrap();
        // `/etc/resolv.conf` of this mount namespace names the host itself, as systemd's does.
        let resolv = dir.path().join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.53\n").unwrap();
        assert!(succeeds("mount", &["--bind", resolv.to_str().unwrap(), "/etc/resolv.conf"]));
        let guard = || Some(Guard::new(NOBODY, paths.dir()));
        let attached = Attached::new(&Link::User, guard()).unwrap();
        let kept = ["refused", "refused", "refused", "refused", "refused", "open", "heard"];
        assert_eq!(found(Network::User, &targets), kept);
        // The rules of others that change where packets go, as containers' do.
        let nat = "table ip elsewhere { chain output { type nat hook output priority -100; \
                   ip daddr 192.0.2.1 udp dport 99 dnat to 192.0.2.2; \
                   ip daddr 192.0.2.9 udp dport 99 dnat to 192.0.2.1; }; }";
        assert!(succeeds("nft", &[nat]));
        // Datagrams and IPv6 too, of that user alone, and not to whom the host asks for names.
        // Those to many arrive at the host's own services as well.
        assert_kept(&[
            ("65534", "::1", 9, true),
            ("65534", "127.0.0.1", 53, true),
            ("65534", "127.0.0.53", 54, true),
            ("65534", "127.0.0.53", 53, false),
            ("65533", "::1", 9, false),
            ("65534", "224.0.0.251", 5353, true),
            ("65533", "224.0.0.251", 5353, false),
            ("65534", "ff02::fb", 5353, true),
            ("65533", "ff02::fb", 5353, false),
            ("65534", "192.0.2.255", 9, true),
            ("65534", "192.0.2.1", 99, true),
            ("65534", "192.0.2.9", 99, true),
            ("65534", "192.0.2.2", 99, false),
        ]);
        assert!(succeeds("nft", &["delete table ip elsewhere"]));
        // Each start heeds whom the host asks now, for all VMs; the rules stay until the last ends.
        std::fs::write("/etc/resolv.conf", "nameserver 127.0.0.54\n").unwrap();
        let second: VmName = "vm-2".parse().unwrap();
        let its = root.vm(&second).unwrap();
        std::fs::create_dir(its.dir()).unwrap();
        let later = Attached::new(&Link::User, Some(Guard::new(NOBODY, its.dir()))).unwrap();
        let now = [("65534", "127.0.0.54", 53, false), ("65534", "127.0.0.53", 53, true)];
        assert_kept(&now);
        drop(later);
        assert_kept(&now);
        // What a supervisor that was killed leaves goes when its VM is next listed.
        std::mem::forget(attached);
        assert!(said("nft", &["list", "tables"]).contains("inet casemate_user_"));
        let plan = serde_json::json!({"name": name, "machine": {"network": {"kind": "user"}}});
        std::fs::write(paths.dir().join("plan.json"), plan.to_string()).unwrap();
        casemate_launcher::list(&root).unwrap();
        assert_eq!(said("nft", &["list", "tables"]), "");
        assert!(!paths.dir().exists());
        // Without a connection of its own the guest needs no filter.
        let none = ["refused", "refused", "refused", "refused", "refused", "refused", "heard"];
        assert_eq!(found(Network::Isolated, &targets), none);
        std::fs::create_dir(paths.dir()).unwrap();
        drop(Attached::new(&Link::User, guard()).unwrap());
        assert_eq!(said("nft", &["list", "tables"]), "");
        drop(servers.stdin.take());
        servers.wait().unwrap();
    }

    /// Plays a VM on the tap and a neighbour on the bridge, and prints which frames arrived.
    const FRAMES: &str = r"
import fcntl, os, select, socket, struct, sys
name, mac = sys.argv[1], bytes.fromhex(sys.argv[2].replace(':', ''))
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', name.encode(), 0x1002))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('v1', 0))
other = bytes.fromhex('02aabbccddee')
def ipv4(proto, payload):
    def header(checksum):
        return struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 0, 0, 64, proto, checksum,
                           bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    # A bridge drops what has a wrong one.
    total = sum(struct.unpack('>10H', header(0)))
    return header(~(total % 0xffff) & 0xffff) + payload
def tcp(port, flags, text):
    return ipv4(6, struct.pack('>HHIIBBHHH', 40000, port, 0, 0, 0x50, flags, 0, 0, 0) + text)
def udp(source, text):
    return ipv4(17, struct.pack('>HHHH', source, 68, 8 + len(text), 0) + text)
def frame(to, source, kind, payload):
    return to + source + struct.pack('>H', kind) + payload.ljust(60, b'\0')
everyone = b'\xff' * 6
outward = [(other, 0x88b5, b'=spoofed='), (mac, 0x0800, udp(67, b'=dhcp-server=')),
           (mac, 0x0800, udp(5000, b'=datagram=')), (mac, 0x88b5, b'=last-out=')]
inward = [tcp(80, 2, b'=closed='), tcp(22, 2, b'=open='), tcp(80, 0x12, b'=answer=')]
for source, kind, payload in outward:
    os.write(tap, frame(everyone, source, kind, payload))
for payload in inward:
    wire.send(frame(mac, other, 0x0800, payload))
wire.send(frame(mac, other, 0x88b5, b'=last-in='))
seen, ends = set(), {wire.fileno(): b'=last-out=', tap: b'=last-in='}
while ends:
    ready, _, _ = select.select(list(ends), [], [], 20)
    if not ready:
        sys.exit(f'only {sorted(seen)} arrived')
    for end in ready:
        data = os.read(end, 4096)
        text = data[14:].split(b'=')
        # The neighbour also hears what it sends itself.
        if len(text) >= 3 and not (end != tap and data[6:12] == other and b'spoofed' not in data):
            seen.add(text[1].decode())
        if ends.get(end, b'none') in data and (end == tap or data[6:12] == mac):
            del ends[end]
print(' '.join(sorted(seen)))
";

    fn exists(interface: &Interface) -> bool {
        Path::new("/sys/class/net").join(interface.as_str()).exists()
    }

    fn link() -> (Link, Interface) {
        let name = "vm-1".parse().unwrap();
        let bridge = "br0".parse().unwrap();
        let link = Network::Tap { bridge, mac: None, open: vec![22, 8443] }.attach(&name);
        (link, Interface::of(&name))
    }

    fn wire() {
        for command in [
            "link add br0 type bridge",
            "link add v0 type veth peer name v1",
            "link set v0 master br0 up",
            "link set v1 up",
            "link set br0 up",
        ] {
            let words: Vec<&str> = command.split(' ').collect();
            assert!(succeeds("ip", &words), "ip {command}");
        }
    }

    #[test]
    #[ignore = "runs in a namespace of its own"]
    fn tap() {
        wire();
        let (link, interface) = link();
        let Link::Tap { mac, .. } = &link else { panic!() };
        let attached = Attached::new(&link, None).unwrap();
        assert!(exists(&interface) && said("nft", &["list", "ruleset"]).contains("casemate_"));
        let seen = said("python3", &["-c", FRAMES, interface.as_str(), &mac.to_string()]);
        assert_eq!(seen.trim(), "answer datagram last-in last-out open");
        // A second VM of this name while the first has it open; then what a dead one left.
        let hold = "import fcntl, os, struct, sys\n\
                    tap = os.open('/dev/net/tun', os.O_RDWR)\n\
                    name = sys.argv[1].encode()\n\
                    fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', name, 0x1002))\n\
                    print(flush=True)\nsys.stdin.read()";
        let mut holder = Command::new("python3")
            .args(["-c", hold, interface.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        std::io::Read::read_exact(&mut holder.stdout.take().unwrap(), &mut ready).unwrap();
        let error = Attached::new(&link, None).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
        drop(holder.stdin.take());
        holder.wait().unwrap();
        std::mem::forget(attached);
        let attached = Attached::new(&link, None).unwrap();
        drop(attached);
        assert!(!exists(&interface));
        assert_eq!(said("nft", &["list", "tables"]), "");
    }

    #[test]
    #[ignore = "runs in a namespace of its own"]
    fn failure() {
        // The bridge is missing: interface and filter were made before that shows.
        let (link, interface) = link();
        let error = Attached::new(&link, None).unwrap_err();
        assert!(error.to_string().contains(interface.as_str()), "{error}");
        assert!(!exists(&interface));
        assert_eq!(said("nft", &["list", "tables"]), "");
        let parent = "absent0".parse().unwrap();
        let link = Network::Macvtap { parent, mac: None }.attach(&"vm-1".parse().unwrap());
        assert!(Attached::new(&link, None).is_err());
        assert!(!exists(&interface));
    }

    #[test]
    #[ignore = "runs in a namespace of its own"]
    fn macvtap() {
        wire();
        let (name, parent) = ("vm-1".parse().unwrap(), "v1".parse().unwrap());
        let mac = "02:00:5e:10:00:01".parse().unwrap();
        let link = Network::Macvtap { parent, mac: Some(mac) }.attach(&name);
        let attached = Attached::new(&link, None).unwrap();
        let interface = Interface::of(&name);
        let shown = said("ip", &["-details", "link", "show", interface.as_str()]);
        assert!(shown.contains("macvtap") && shown.contains("02:00:5e:10:00:01"), "{shown}");
        drop(attached);
        assert!(!exists(&interface));
    }
}

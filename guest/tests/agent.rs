//! The agent as a whole, on a host: a made-up `/`, a pseudo-terminal as the simulated security
//! processor's port, and verifiers over loopback TLS.

#![expect(clippy::unwrap_used, reason = "a test's harness fails by panicking")]

mod fake_guest;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};
use std::{fs, thread};

use casemate_guest::agent::{Limits, prepare};
use casemate_guest::gpu::helper::Helper;
use casemate_guest::stage_port::StagePort;
use casemate_measurements::binding::{Binding, report_data};
use casemate_measurements::evidence::Evidence;
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::platform::Platform;
use casemate_measurements::stage::Stage;
use fake_guest::{FakeGuest, Served, connect, get, tls_get};

const NONCE: Nonce = Nonce::from_bytes([0xc5; 32]);

fn evidence_path() -> String {
    format!("/v1/evidence?nonce={NONCE}")
}

#[test]
fn evidence_binds_the_key_that_serves_it_and_the_key_that_sshd_gets() {
    let guest = FakeGuest::new();
    let served = Served::start(&guest, Limits::default());
    let (answer, spki) = tls_get(served.port, &evidence_path());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let evidence: Evidence = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((evidence.schema, evidence.platform), (1, Platform::Simulated));
    assert_eq!(evidence.nonce, NONCE);
    assert_eq!(evidence.certificates.0, b"table");
    assert_eq!(evidence.launch_config.as_bytes(), guest.launch_config());
    let data = report_data(&NONCE, evidence.binding.as_bytes());
    assert_eq!(evidence.report.0[0x50..0x90], data.as_bytes()[..]);

    let binding: Binding = serde_json::from_str(&evidence.binding).unwrap();
    assert_eq!(binding.tls_spki_sha256, spki);
    assert_eq!(binding.launch_config_sha256, Sha256Hash::of(guest.launch_config()));
    let key = guest.path("run/casemate/ssh_host_ed25519_key");
    let private = ssh_key::PrivateKey::read_openssh_file(&key).unwrap();
    assert_eq!(private.public_key().to_openssh().unwrap(), binding.ssh_host_key);
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let keys = fs::read_to_string(guest.path("run/casemate/authorized_keys")).unwrap();
    assert_eq!(keys, format!("{}\n", fake_guest::KEY));
    assert_eq!(fs::read_to_string(guest.path("run/casemate/hostname")).unwrap(), "vm-1\n");
    assert_eq!(guest.stages(), [Stage::AgentStarted, Stage::LaunchConfigAccepted, Stage::KeysMade]);
}

#[test]
fn other_requests_are_refused_in_json() {
    let guest = FakeGuest::new();
    let served = Served::start(&guest, Limits::default());
    for (target, status) in [
        ("/v1/evidence", 400),
        ("/v1/evidence?nonce=00", 400),
        ("/", 404),
        ("/v1/evidence/../../etc/shadow", 404),
    ] {
        let (answer, _) = tls_get(served.port, target);
        assert_eq!(answer.status, status, "{target}: {}", answer.body);
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert!(json["error"].is_string(), "{}", answer.body);
    }
}

#[test]
fn a_report_that_is_refused_is_503_and_the_next_one_is_served() {
    let guest = FakeGuest::new();
    let served = Served::start(&guest, Limits::default());
    guest.refuse_next();
    let (answer, _) = tls_get(served.port, &evidence_path());
    assert_eq!(answer.status, 503, "{}", answer.body);
    let (answer, _) = tls_get(served.port, &evidence_path());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn clients_that_say_nothing_or_nonsense_block_nobody() {
    let guest = FakeGuest::new();
    let limits = Limits { connections: 4, ..Limits::default() };
    let served = Served::start(&guest, limits);
    // Three times as many as there are places: silent, half a handshake, and no TLS at all.
    let hostile: Vec<TcpStream> = (0..12)
        .map(|n| {
            let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
            let bytes: &[u8] =
                [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n"][n % 3];
            stream.write_all(bytes).unwrap();
            stream
        })
        .collect();
    let start = Instant::now();
    for _ in 0..3 {
        let (answer, _) = tls_get(served.port, &evidence_path());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    drop(hostile);
}

#[test]
fn a_client_that_dribbles_is_cut_off_in_time() {
    let guest = FakeGuest::new();
    let limits = Limits { request: Duration::from_millis(600), ..Limits::default() };
    let served = Served::start(&guest, limits);
    let mut client = connect(served.port);
    let start = Instant::now();
    let cut = loop {
        if client.write_all(b"G").and_then(|()| client.flush()).is_err() {
            break start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "never cut off");
        thread::sleep(Duration::from_millis(50));
    };
    assert!(cut >= Duration::from_millis(500), "{cut:?}");
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn requests_may_come_in_pieces_but_not_without_end() {
    let guest = FakeGuest::new();
    let served = Served::start(&guest, Limits::default());
    let mut client = connect(served.port);
    let request = format!("GET {} HTTP/1.1\r\nHost: vm\r\n\r\n", evidence_path());
    for piece in request.as_bytes().chunks(7) {
        client.write_all(piece).unwrap();
        client.flush().unwrap();
    }
    assert_eq!(get(&mut client).status, 200);
    let mut client = connect(served.port);
    client.write_all(format!("GET /{} HTTP/1.1\r\n", "a".repeat(9000)).as_bytes()).unwrap();
    client.flush().unwrap();
    assert_eq!(get(&mut client).status, 431);
}

#[test]
fn a_launch_config_that_host_data_does_not_name_ends_the_vm() {
    // The disk holds a well-formed config, and another one than the VM was launched with.
    let guest = FakeGuest::new();
    guest.swap_launch_config();
    assert_eq!(guest.failure(), Stage::LaunchConfigRefused);
    assert!(!guest.path("run/casemate").exists(), "keys were written for a refused config");
}

#[test]
fn nonsense_that_host_data_does_name_ends_the_vm() {
    let guest = FakeGuest::with_launch_config(b"{\"schema\":1}");
    assert_eq!(guest.failure(), Stage::LaunchConfigRefused);
}

#[test]
fn missing_and_doubled_disks_and_ports_end_the_vm() {
    let guest = FakeGuest::new();
    fs::remove_dir_all(guest.path("sys/block/vdb")).unwrap();
    assert_eq!(guest.failure(), Stage::LaunchConfigRefused);

    let guest = FakeGuest::new();
    guest.put_disk("vdc");
    assert_eq!(guest.failure(), Stage::DiskAmbiguous);

    let guest = FakeGuest::new();
    guest.refuse_next();
    assert_eq!(guest.failure(), Stage::ReportUnavailable);

    let guest = FakeGuest::new();
    fs::write(guest.path("proc/cmdline"), "quiet\n").unwrap();
    assert_eq!(guest.failure(), Stage::CommandLineRefused);
}

#[test]
fn a_guest_measured_for_snp_does_not_ask_the_simulated_processor() {
    let guest = FakeGuest::new();
    let line = fs::read_to_string(guest.path("proc/cmdline")).unwrap();
    fs::write(guest.path("proc/cmdline"), line.replace("=simulated", "=snp")).unwrap();
    assert_eq!(guest.failure(), Stage::ReportUnavailable);
    assert_eq!(guest.requests(), 0);
    let mut stages = StagePort::new(guest.root());
    let error = prepare(&guest.root(), &Helper::default(), &mut stages).unwrap_err();
    assert!(error.to_string().contains("report"));
}

//! A made-up guest: the files that the agent looks at, and a host behind its port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use casemate_guest::agent::{Limits, prepare, serve};
use casemate_guest::gpu::helper::Helper;
use casemate_guest::stage_port::StagePort;
use casemate_guest::sysfs::SysRoot;
use casemate_measurements::cmdline::BootParams;
use casemate_measurements::evidence::REPORT_LEN;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::launch_config::{DISK_SERIAL, LaunchConfig};
use casemate_measurements::platform::Platform;
use casemate_measurements::simulated::{
    PORT, REQUEST_LEN, Response, decode_request, encode_response,
};
use casemate_measurements::stage::{self, Stage};
use casemate_measurements::verity::Verity;
use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// The key that may log in.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me";

/// The files of a guest, below a temporary directory, and its simulated security processor.
pub(crate) struct FakeGuest {
    dir: tempfile::TempDir,
    config: Vec<u8>,
    refuse: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

impl FakeGuest {
    pub(crate) fn new() -> Self {
        let config = LaunchConfig {
            schema: LaunchConfig::SCHEMA,
            ssh_authorized_keys: vec![KEY.into()],
            name: "vm-1".into(),
            gpus: None,
        };
        Self::with_launch_config(&config.to_bytes().unwrap())
    }

    pub(crate) fn with_launch_config(config: &[u8]) -> Self {
        let guest = Self {
            dir: tempfile::tempdir().unwrap(),
            config: config.to_vec(),
            refuse: Arc::default(),
            requests: Arc::default(),
        };
        let params = BootParams {
            platform: Platform::Simulated,
            verity: Verity {
                root_hash: Sha256Hash::of(b""),
                salt: "00".parse().unwrap(),
                data_blocks: 1,
                hash_block: 1,
            },
        };
        guest.put("proc/cmdline", params.append_to("initrd=initrd quiet").as_bytes());
        guest.put("sys/class/virtio-ports/vport0p1/name", stage::PORT.as_bytes());
        guest.put("sys/class/virtio-ports/vport0p2/name", PORT.as_bytes());
        guest.put("dev/vport0p1", b"");
        guest.put_disk("vdb");
        guest.put_disk_content("vdb", config);
        guest.start_processor();
        guest
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub(crate) fn root(&self) -> SysRoot {
        SysRoot::new(self.dir.path())
    }

    pub(crate) fn launch_config(&self) -> &[u8] {
        &self.config
    }

    /// The stages that the host was told.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        let codes = fs::read(self.path("dev/vport0p1")).unwrap();
        codes.into_iter().map(|code| Stage::from_code(code).unwrap()).collect()
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Lets the processor refuse the next request.
    pub(crate) fn refuse_next(&self) {
        self.refuse.store(true, Ordering::SeqCst);
    }

    /// The stage that a boot of this guest ends with.
    pub(crate) fn failure(&self) -> Stage {
        let mut stages = StagePort::new(self.root());
        prepare(&self.root(), &Helper::default(), &mut stages).unwrap_err().stage()
    }

    pub(crate) fn put_disk(&self, name: &str) {
        self.put(&format!("sys/block/{name}/serial"), DISK_SERIAL.as_bytes());
        self.put(&format!("sys/block/{name}/dev"), b"254:16\n");
        self.put(&format!("sys/block/{name}/size"), b"1\n");
    }

    /// Puts another config onto the disk than the one in `HOST_DATA`.
    pub(crate) fn swap_launch_config(&self) {
        let other = String::from_utf8(self.config.clone()).unwrap().replace("vm-1", "vm-2");
        self.put_disk_content("vdb", other.as_bytes());
    }

    fn put_disk_content(&self, name: &str, content: &[u8]) {
        let mut bytes = content.to_vec();
        bytes.resize(512, 0);
        self.put(&format!("dev/{name}"), &bytes);
    }

    fn put(&self, path: &str, content: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Answers requests on a pseudo-terminal that stands for the port.
    fn start_processor(&self) {
        let pty = openpty(None, None).unwrap();
        let mut raw = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        let node = nix::unistd::ttyname(&pty.slave).unwrap();
        symlink(node, self.path("dev/vport0p2")).unwrap();
        let host_data = Sha256Hash::of(&self.config);
        let (refuse, requests) = (Arc::clone(&self.refuse), Arc::clone(&self.requests));
        thread::spawn(move || {
            // Held, so that the pseudo-terminal outlives the agent's opening and closing it.
            let _slave = pty.slave;
            let mut port = fs::File::from(pty.master);
            let mut request = [0; REQUEST_LEN];
            while port.read_exact(&mut request).is_ok() {
                requests.fetch_add(1, Ordering::SeqCst);
                let data = decode_request(&request).unwrap();
                let mut report = vec![0; REPORT_LEN];
                report[0x50..0x90].copy_from_slice(data.as_bytes());
                report[0xc0..0xe0].copy_from_slice(host_data.as_bytes());
                let response = if refuse.swap(false, Ordering::SeqCst) {
                    Response::Refused("told to".into())
                } else {
                    Response::Report { report, certificates: b"table".to_vec() }
                };
                port.write_all(&encode_response(&response).unwrap()).unwrap();
            }
        });
    }
}

/// An agent that serves on a port of its own, until the test ends.
pub(crate) struct Served {
    pub(crate) port: u16,
}

impl Served {
    pub(crate) fn start(guest: &FakeGuest, limits: Limits) -> Self {
        let mut stages = StagePort::new(guest.root());
        let agent = prepare(&guest.root(), &Helper::default(), &mut stages).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let _ = serve(&listener, &agent.tls, &Arc::new(agent.issuer), limits);
        });
        Self { port }
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// Notes the certificate and accepts it: these tests are about what it is bound to.
#[derive(Debug, Default)]
struct AcceptAll(Mutex<Vec<u8>>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 was spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::ring::default_provider();
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn connect_noting(port: u16, verifier: Arc<AcceptAll>) -> Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from("vm.invalid").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    StreamOwned::new(connection, stream)
}

pub(crate) fn connect(port: u16) -> Client {
    connect_noting(port, Arc::default())
}

/// Reads an answer to its end, which must be a proper end of TLS.
pub(crate) fn get(client: &mut Client) -> Answer {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    Answer { status, body: body.to_owned() }
}

/// Asks for `target` over a connection of its own; the answer, and the SHA-256 of the public key
/// that TLS was spoken with.
pub(crate) fn tls_get(port: u16, target: &str) -> (Answer, Sha256Hash) {
    let verifier = Arc::new(AcceptAll::default());
    let mut client = connect_noting(port, Arc::clone(&verifier));
    client.write_all(format!("GET {target} HTTP/1.1\r\nHost: vm\r\n\r\n").as_bytes()).unwrap();
    let answer = get(&mut client);
    let der = verifier.0.lock().unwrap().clone();
    (answer, Sha256Hash::of(&subject_public_key_info(&der)))
}

/// The `SubjectPublicKeyInfo` of a P-256 certificate: 91 bytes that begin with its algorithm.
fn subject_public_key_info(certificate: &[u8]) -> Vec<u8> {
    let start = [0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let at = certificate.windows(start.len()).position(|window| window == start).unwrap();
    certificate[at..at + 91].to_vec()
}

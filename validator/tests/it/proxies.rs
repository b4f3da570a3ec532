//! Who stands between a verifier and a VM: a relay of bytes changes nothing, and whoever ends
//! the TLS session himself shows a key that the evidence does not name.

use std::net::TcpStream;
use std::sync::Arc;

use casemate_measurements::hash::Nonce;
use casemate_validator::fetch::{Limits, fetch_evidence};
use casemate_validator::target::Target;

use crate::support::{Identity, finish, relay, serve_answer, serve_tcp, serve_tls};

const NONCE: Nonce = Nonce::from_bytes([1; 32]);

fn connect(target: &Target) -> TcpStream {
    TcpStream::connect(("127.0.0.1", target.port())).unwrap()
}

#[test]
fn a_relay_shows_the_key_of_the_vm() {
    let vm = Identity::new();
    let behind = serve_answer(&vm, "HTTP/1.1 200 OK\r\n\r\nevidence");
    let relay = serve_tcp(move |tcp| relay(tcp, connect(&behind)));
    let fetched = fetch_evidence(&relay, &NONCE, &Limits::default()).unwrap();
    assert_eq!(fetched.evidence, b"evidence");
    assert_eq!(fetched.tls_spki_sha256, vm.spki_sha256());
}

#[test]
fn a_terminating_proxy_shows_its_own_key() {
    let (vm, proxy) = (Identity::new(), Identity::new());
    let behind = Arc::new(serve_answer(&vm, "HTTP/1.1 200 OK\r\n\r\nevidence"));
    let front = serve_tls(proxy.tls13(), move |_, stream| {
        let fetched = fetch_evidence(&behind, &NONCE, &Limits::default()).unwrap();
        let answer = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &fetched.evidence].concat();
        finish(stream, &answer);
    });
    let fetched = fetch_evidence(&front, &NONCE, &Limits::default()).unwrap();
    assert_eq!(fetched.evidence, b"evidence");
    assert_eq!(fetched.tls_spki_sha256, proxy.spki_sha256());
    assert_ne!(fetched.tls_spki_sha256, vm.spki_sha256());
}

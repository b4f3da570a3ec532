//! Servers on loopback, good and bad.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use casemate_measurements::hash::Sha256Hash;
use casemate_validator::target::Target;
use rcgen::{CertifiedKey, KeyPair, PublicKeyData as _};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

/// What a TLS server's handler reads from and writes to.
pub(crate) type TlsStream = StreamOwned<ServerConnection, TcpStream>;

/// A key with a self-made certificate.
pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["casemate.invalid".into()]).unwrap();
        Self { certificate: cert.der().clone(), key: signing_key }
    }

    pub(crate) fn spki_sha256(&self) -> Sha256Hash {
        Sha256Hash::of(&self.key.subject_public_key_info())
    }

    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }

    /// A server's configuration with this certificate and, for an impostor, another's key.
    pub(crate) fn config(
        &self,
        key: &Self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let provider = ring::default_provider();
        let signer = provider.key_provider.load_private_key(key.private()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(vec![self.certificate.clone()], signer);
        ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Always(Arc::new(certified))))
    }

    pub(crate) fn tls13(&self) -> ServerConfig {
        self.config(self, &[&rustls::version::TLS13])
    }
}

#[derive(Debug)]
struct Always(Arc<rustls::sign::CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(
        &self,
        _hello: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Serves each TCP connection with `handler` on a thread of its own.
pub(crate) fn serve_tcp(handler: impl Fn(TcpStream) + Send + Sync + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("127.0.0.1:{}", listener.local_addr().unwrap().port()).parse().unwrap();
    let handler = Arc::new(handler);
    std::thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let handler = Arc::clone(&handler);
            std::thread::spawn(move || handler(tcp));
        }
    });
    target
}

/// Serves each TLS session with `handler` once the request's head arrived; the handler gets it.
pub(crate) fn serve_tls(
    config: ServerConfig,
    handler: impl Fn(String, &mut TlsStream) + Send + Sync + 'static,
) -> Target {
    let config = Arc::new(config);
    serve_tcp(move |tcp| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = StreamOwned::new(connection, tcp);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            // A client that refuses the handshake or goes away ends the connection.
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        handler(String::from_utf8(head).unwrap(), &mut stream);
    })
}

/// Serves `answer` to every request and closes the session in order.
pub(crate) fn serve_answer(identity: &Identity, answer: impl Into<Vec<u8>>) -> Target {
    let answer = answer.into();
    serve_tls(identity.tls13(), move |_, stream| finish(stream, &answer))
}

/// Writes `answer` and closes the session in order; the client may have left already.
pub(crate) fn finish(stream: &mut TlsStream, answer: &[u8]) {
    let _ = stream.write_all(answer);
    stream.conn.send_close_notify();
    let _ = stream.flush();
    // Closing with unread bytes would reset the connection and take the answer with it.
    let _ = stream.sock.shutdown(std::net::Shutdown::Write);
    let _ = std::io::copy(&mut stream.sock, &mut std::io::sink());
}

/// Relays bytes between `from` and `to` until both ends are done.
pub(crate) fn relay(from: TcpStream, to: TcpStream) {
    let (mut reader, mut writer) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let there = std::thread::spawn(move || {
        let _ = std::io::copy(&mut reader, &mut writer);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let (mut reader, mut writer) = (to, from);
    let _ = std::io::copy(&mut reader, &mut writer);
    let _ = writer.shutdown(std::net::Shutdown::Write);
    there.join().unwrap();
}

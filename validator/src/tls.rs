//! The TLS client that a verifier needs: any certificate will do, but its key must have signed
//! this very handshake, and that key's hash is what evidence has to name.
//!
//! A guest's certificate is self-made and nobody vouches for it; the report does. So the chain,
//! the names and the dates are not looked at. The handshake's signature is verified by the same
//! code as everywhere else, and sessions are never resumed, so each one carries that signature.

use std::sync::Arc;

use casemate_measurements::hash::Sha256Hash;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error,
    PeerIncompatible, SignatureScheme,
};
use webpki::EndEntityCert;

/// Accepts every well-formed certificate and verifies the signature made with its key.
#[derive(Debug)]
struct ProofOfKey {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ProofOfKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        spki_sha256(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client's configuration: TLS 1.3, no resumption, no client certificate.
///
/// # Errors
/// When the crypto provider cannot do TLS 1.3.
pub(crate) fn client_config() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ProofOfKey { provider }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// SHA-256 of the DER `SubjectPublicKeyInfo` of the key that signed `connection`'s handshake.
///
/// # Errors
/// When the handshake is not over, or the certificate is malformed.
pub(crate) fn peer_spki_sha256(connection: &ClientConnection) -> Result<Sha256Hash, Error> {
    if connection.is_handshaking() {
        return Err(Error::HandshakeNotComplete);
    }
    match connection.peer_certificates() {
        Some([end_entity, ..]) => spki_sha256(end_entity),
        _ => Err(Error::NoCertificatesPresented),
    }
}

/// Takes the key out of a certificate with the parser that also verifies the handshake with it.
fn spki_sha256(certificate: &CertificateDer<'_>) -> Result<Sha256Hash, Error> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(Sha256Hash::of(&parsed.subject_public_key_info()))
}

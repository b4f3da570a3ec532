//! How casemate's HTTP clients reach a server: which certificate authorities they believe, and
//! which proxy they ask. What is asked, how long an answer may take and what it means is decided
//! by each client: those of the builder, the registry and the validator.
//!
//! The library asks every proxy for a tunnel (`CONNECT`), also where the server speaks plain HTTP,
//! and takes one proxy for all. Proxies such as squid give tunnels to port 443 alone. So plain HTTP
//! goes through [`Proxies`] here, by a request that names the whole address.

mod plain;
mod proxies;

use std::sync::Arc;

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::typestate::AgentScope;
use ureq::unversioned::transport::{
    ConnectProxyConnector, Connector as _, RustlsConnector, TcpConnector,
};

pub use proxies::Proxies;

/// Which certificate authorities are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorities {
    /// Those of this machine.
    System,
    /// None: no server is asked over TLS.
    Nobody,
}

/// What all clients have in common: authorities, the name they give, and that a status is no error
/// and bytes come as the server has them.
#[must_use]
pub fn config(authorities: Authorities) -> ConfigBuilder<AgentScope> {
    let certs: Vec<Certificate<'static>> = match authorities {
        Authorities::Nobody => Vec::new(),
        Authorities::System => {
            // A broken certificate of the system is no reason to stop: the others may suffice.
            let found = rustls_native_certs::load_native_certs().certs;
            found.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        }
    };
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&certs))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .user_agent(concat!("casemate/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
}

/// A client that asks `proxies`. A proxy that cannot be used is an error of the request that would
/// need it ([`ureq::Error::Other`]), and names its variable.
#[must_use]
pub fn agent(config: ConfigBuilder<AgentScope>, proxies: Proxies) -> Agent {
    let config = config.proxy(proxies.tunnel().cloned()).build();
    let resolver = plain::NameResolver::new(proxies.clone());
    let connector = plain::PlainConnector::new(proxies)
        .chain(ConnectProxyConnector::default())
        .chain(TcpConnector::default())
        .chain(RustlsConnector::default());
    Agent::with_parts(config, connector, resolver)
}

#[cfg(test)]
mod tests;

//! Names, and the first link of the chain that makes connections. It decides about proxies: none, one that is
//! asked for a tunnel (which the next link does), or one that is asked for a plain-HTTP address by
//! a request that names all of it (RFC 9112, 3.2.2, absolute-form).

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, RustlsConnector, TcpConnector, Transport,
};
use ureq::{Error, Proxy};

use crate::proxies::Proxies;

/// Leaves names to the proxy that is asked for them: a machine behind one may know none.
#[derive(Debug)]
pub(crate) struct NameResolver {
    proxies: Proxies,
    inner: DefaultResolver,
}

impl NameResolver {
    pub(crate) fn new(proxies: Proxies) -> Self {
        Self { proxies, inner: DefaultResolver::default() }
    }
}

impl Resolver for NameResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let direct = matches!(self.proxies.for_uri(uri), Ok(None));
        if direct || self.proxies.has(uri) {
            self.inner.resolve(uri, config, timeout)
        } else {
            Ok(self.empty())
        }
    }
}

#[derive(Debug)]
pub(crate) struct PlainConnector {
    proxies: Proxies,
    tls: RustlsConnector,
}

impl PlainConnector {
    pub(crate) fn new(proxies: Proxies) -> Self {
        Self { proxies, tls: RustlsConnector::default() }
    }
}

impl Connector<()> for PlainConnector {
    type Out = Box<dyn Transport>;

    /// `None` leaves the connection to the links that follow.
    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let tunnels = self.proxies.tunnel().is_some();
        if tunnels && details.config.proxy().is_none() {
            // The next link connects to the proxy that it asks for a tunnel.
            return Ok(None);
        }
        let uri = details.uri;
        let proxy = self.proxies.for_uri(uri).map_err(|error| Error::Other(Box::new(error)))?;
        match proxy {
            Some(_) if details.needs_tls() => Ok(None),
            Some(proxy) => {
                let to = to(details, proxy.uri())?;
                let tcp = TcpConnector::default().connect(&to, None::<()>)?;
                let inner = self.tls.connect(&to, tcp)?.map(Transport::boxed);
                Ok(inner.map(|inner| Absolute::new(inner, uri, proxy).boxed()))
            }
            None if tunnels => {
                let to = to(details, uri)?;
                Ok(TcpConnector::default().connect(&to, None::<()>)?.map(Transport::boxed))
            }
            None => Ok(None),
        }
    }
}

/// What a connection to `uri` itself needs.
fn to<'a>(details: &ConnectionDetails<'a>, uri: &'a Uri) -> Result<ConnectionDetails<'a>, Error> {
    Ok(ConnectionDetails {
        uri,
        // What was looked up before is another's, or nothing.
        addrs: details.resolver.resolve(uri, details.config, details.timeout)?,
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: details.now,
        timeout: details.timeout,
        current_time: details.current_time.clone(),
        run_connector: details.run_connector.clone(),
        register_shutdown: details.register_shutdown.clone(),
    })
}

/// A connection to a proxy. The first line of each request gets the server's name, and behind it
/// goes what the proxy wants to know of us.
#[derive(Debug)]
struct Absolute {
    inner: Box<dyn Transport>,
    /// `http://HOST[:PORT]`.
    server: String,
    credentials: Credentials,
    /// Whether what is sent next begins a request.
    first: bool,
}

/// A line of the header, or nothing.
struct Credentials(String);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(not shown)")
    }
}

impl Absolute {
    fn new(inner: Box<dyn Transport>, uri: &Uri, proxy: &Proxy) -> Self {
        let host = uri.host().unwrap_or_default();
        let port = uri.port().map_or(Cow::Borrowed(""), |port| format!(":{port}").into());
        let mut line = String::new();
        if proxy.username().is_some() || proxy.password().is_some() {
            let (user, password) = (proxy.username(), proxy.password());
            let pair = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
            line = format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair));
        }
        let server = format!("http://{host}{port}");
        Self { inner, server, credentials: Credentials(line), first: true }
    }

    /// `sent`, which begins a request, as the proxy must have it.
    fn rewrite(&self, sent: &[u8]) -> Vec<u8> {
        let end = sent.iter().position(|byte| *byte == b'\n').map_or(sent.len(), |at| at + 1);
        let (line, rest) = sent.split_at(end);
        // METHOD SP PATH SP VERSION; of OPTIONS the path may be a star, which has no such form.
        let path = line.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
        let server = if line[path..].starts_with(b"/") { self.server.as_bytes() } else { b"" };
        [&line[..path], server, &line[path..], self.credentials.0.as_bytes(), rest].concat()
    }
}

impl Transport for Absolute {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if !std::mem::take(&mut self.first) {
            return self.inner.transmit_output(amount, timeout);
        }
        let sent = self.inner.buffers().output()[..amount].to_vec();
        let sent = self.rewrite(&sent);
        let room = self.inner.buffers().output().len().max(1);
        for part in sent.chunks(room) {
            self.inner.buffers().output()[..part.len()].copy_from_slice(part);
            self.inner.transmit_output(part.len(), timeout)?;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        // Who waits for an answer has sent the whole request: what comes next is another one.
        self.first = true;
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }
}

//! Where a VM is reached: `HOST`, `HOST:PORT`, `IPv4:PORT` or `[IPv6]:PORT`.
//!
//! The host ends up in a TLS handshake, in an HTTP header and in the argument list of `ssh`, so
//! only a DNS name or an address gets past here: no option, no user, no whitespace.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use casemate_measurements::evidence;
use rustls::pki_types::{DnsName, ServerName};

/// A host, as a DNS name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name, in lower case.
    Name(DnsName<'static>),
    /// An address.
    Address(IpAddr),
}

/// A host and the TCP port on which it is asked for evidence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: Host,
    port: u16,
}

/// Why a text names no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host is neither a DNS name nor an address.
    #[error(
        "{text:?} names no host: expected a DNS name, an IPv4 address, or an IPv6 address in \
         brackets, then optionally `:PORT`"
    )]
    Host {
        /// The refused text, shortened.
        text: String,
    },
    /// The port is no port.
    #[error("{text:?} has no port between 1 and 65535 after its last ':'")]
    Port {
        /// The refused text, shortened.
        text: String,
    },
}

impl Host {
    /// What a TLS client names the server.
    #[must_use]
    pub(crate) fn server_name(&self) -> ServerName<'static> {
        match self {
            Self::Name(name) => ServerName::DnsName(name.clone()),
            Self::Address(address) => ServerName::IpAddress((*address).into()),
        }
    }
}

impl FromStr for Host {
    type Err = TargetError;

    /// Reads a host without a port; an IPv6 address with or without brackets.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse::<IpAddr>()
            && (bare.is_none() || address.is_ipv6())
        {
            return Ok(Self::Address(address));
        }
        match DnsName::try_from(text.to_ascii_lowercase()) {
            Ok(name) => Ok(Self::Name(name)),
            Err(_) => Err(TargetError::Host { text: shorten(text) }),
        }
    }
}

impl fmt::Display for Host {
    /// An IPv6 address without brackets, as `ssh` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.pad(name.as_ref()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl Target {
    /// A target from its parts.
    #[must_use]
    pub const fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The TCP port of the evidence.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Target {
    type Err = TargetError;

    /// Reads a target; without a port it is [`evidence::PORT`].
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = match text.rsplit_once(':') {
            // The colons of a bare IPv6 address would be ambiguous: brackets are required.
            Some((host, _)) if host.contains(':') && !host.starts_with('[') => {
                return Err(TargetError::Host { text: shorten(text) });
            }
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            None => evidence::PORT,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| TargetError::Port { text: shorten(text) })?,
        };
        let host = host.parse().map_err(|_| TargetError::Host { text: shorten(text) })?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(140).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_each_form() {
        for (text, host, port) in [
            ("vm.example.org", "vm.example.org", 8443),
            ("VM.example.org:443", "vm.example.org", 443),
            ("localhost:1", "localhost", 1),
            ("192.0.2.7", "192.0.2.7", 8443),
            ("192.0.2.7:65535", "192.0.2.7", 65535),
            ("[2001:db8::1]", "2001:db8::1", 8443),
            ("[2001:db8::1]:9", "2001:db8::1", 9),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host().to_string().as_str(), target.port()), (host, port), "{text}");
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
    }

    #[test]
    fn refuses_what_ssh_or_http_could_misread() {
        for text in [
            "",
            ":1",
            "-oProxyCommand=x:1",
            "user@host:1",
            "host name:1",
            "host\n:1",
            "host%eth0",
            "a/b:1",
            "2001:db8::1",
            "2001:db8::1:443",
            "[192.0.2.7]:1",
            "[::1",
            "::1]:1",
            "[::1]x:1",
            "host:1:2",
            "$(x):1",
        ] {
            assert!(matches!(text.parse::<Target>(), Err(TargetError::Host { .. })), "{text:?}");
        }
        for text in ["host:", "host:0", "host:65536", "host:+1", "host: 1", "[::1]:"] {
            assert!(matches!(text.parse::<Target>(), Err(TargetError::Port { .. })), "{text:?}");
        }
    }
}

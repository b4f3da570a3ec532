//! Which proxy is asked for which address, as the environment says it. The rules are curl's.

use std::fmt;
use std::net::IpAddr;

use ureq::http::Uri;
use ureq::{Proxy, ProxyProtocol};

/// The variables that name a proxy, by what is asked for: the first that is set and not empty counts.
/// There is no `HTTP_PROXY`: a web server sets that for its programs to what a request says.
const HTTP: [&str; 3] = ["http_proxy", "all_proxy", "ALL_PROXY"];
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// The variables that name whom no proxy is asked for.
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// The proxies that are asked.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    except: Vec<Exception>,
}

/// What a variable names.
#[derive(Debug, Clone)]
struct Named {
    variable: &'static str,
    /// `None` if it is no proxy that can be asked.
    proxy: Option<Proxy>,
}

/// A variable that is set to what is no proxy.
#[derive(Debug)]
pub(crate) struct BadProxy {
    variable: &'static str,
}

impl fmt::Display for BadProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may hold a password.
        write!(
            f,
            "{} in the environment names no proxy that can be asked: expected \
             http://[USER:PASSWORD@]HOST[:PORT] or https://…; no SOCKS. Whom no proxy is needed for \
             can be named in no_proxy",
            self.variable
        )
    }
}

impl std::error::Error for BadProxy {}

/// Whom no proxy is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    Everyone,
    /// A host and all below it.
    Name(String),
    /// Addresses that begin with the same bits.
    Network(IpAddr, u8),
}

impl Proxies {
    /// No proxy for anyone.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Those that the environment of this process names.
    #[must_use]
    pub fn of_environment() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// Those that `variable` names, which gives the value of a variable.
    #[must_use]
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.trim().is_empty())?;
                Some((*name, value.trim().to_owned()))
            })
        };
        let named = |(variable, value): (&'static str, String)| {
            let proxy = Proxy::new(&value).ok();
            let known = |proxy: &Proxy| {
                matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)
            };
            Named { variable, proxy: proxy.filter(known) }
        };
        let except = first(&EXCEPT).map(|(_, list)| exceptions(&list)).unwrap_or_default();
        Self { http: first(&HTTP).map(named), https: first(&HTTPS).map(named), except }
    }

    /// The proxy that is asked for a tunnel where the server speaks TLS.
    pub(crate) fn tunnel(&self) -> Option<&Proxy> {
        self.https.as_ref()?.proxy.as_ref()
    }

    /// Is `uri` the address of one of them?
    pub(crate) fn has(&self, uri: &Uri) -> bool {
        let all = [&self.http, &self.https].into_iter().flatten();
        all.filter_map(|named| named.proxy.as_ref()).any(|proxy| proxy.uri() == uri)
    }

    /// The proxy for `uri`, if one is to be asked.
    pub(crate) fn for_uri(&self, uri: &Uri) -> Result<Option<&Proxy>, BadProxy> {
        let named = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let (Some(named), Some(host)) = (named, uri.host()) else { return Ok(None) };
        if self.except.iter().any(|exception| exception.covers(host)) {
            return Ok(None);
        }
        let variable = named.variable;
        named.proxy.as_ref().map(Some).ok_or(BadProxy { variable })
    }
}

/// Hosts, addresses and networks between commas or blanks.
fn exceptions(list: &str) -> Vec<Exception> {
    if list == "*" {
        return vec![Exception::Everyone];
    }
    let words = list.split([',', ' ', '\t']).map(str::trim).filter(|word| !word.is_empty());
    words.map(Exception::parse).collect()
}

/// An address, with or without the brackets of an address.
fn address(text: &str) -> Option<IpAddr> {
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

impl Exception {
    fn parse(word: &str) -> Self {
        if let Some(alone) = address(word) {
            return Self::Network(alone, bits(alone).1);
        }
        if let Some((network, length)) = word.split_once('/')
            && let (Some(network), Ok(length)) = (address(network), length.parse())
            && length <= bits(network).1
        {
            return Self::Network(network, length);
        }
        Self::Name(word.trim_matches('.').to_ascii_lowercase())
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Name(name) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Network(network, length) => address(host).is_some_and(|host| {
                let ((host, width), (network, of)) = (bits(host), bits(*network));
                let apart = host ^ network;
                width == of && apart.checked_shr(u32::from(width - length)).unwrap_or(0) == 0
            }),
        }
    }
}

/// The bits of an address, and how many they are.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// The host of the proxy for `uri`, or the variable that is at fault.
    fn host(proxies: &Proxies, uri: &str) -> String {
        match proxies.for_uri(&uri.parse().unwrap()) {
            Ok(Some(proxy)) => proxy.host().to_owned(),
            Ok(None) => "none".to_owned(),
            Err(BadProxy { variable }) => format!("bad {variable}"),
        }
    }

    #[test]
    fn each_scheme_has_its_own_variable_as_with_curl() {
        for (variables, http, https) in [
            (&[][..], "none", "none"),
            (&[("http_proxy", "http://a:1")], "a", "none"),
            (&[("HTTP_PROXY", "http://a:1")], "none", "none"),
            (&[("HTTPS_PROXY", "http://a:1")], "none", "a"),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "b:2")], "none", "b"),
            (&[("ALL_PROXY", "http://a:1")], "a", "a"),
            (&[("ALL_PROXY", "http://a:1"), ("http_proxy", "b:2")], "b", "a"),
            (&[("ALL_PROXY", "http://a:1"), ("http_proxy", " ")], "a", "a"),
            (&[("ALL_PROXY", "http://a:1"), ("all_proxy", "https://b")], "b", "b"),
            (&[("http_proxy", "socks5://a:1")], "bad http_proxy", "none"),
            (&[("ALL_PROXY", "http://")], "bad ALL_PROXY", "bad ALL_PROXY"),
            (&[("ALL_PROXY", "a:1"), ("NO_PROXY", "*")], "none", "none"),
        ] {
            let proxies = proxies(variables);
            let found = (host(&proxies, "http://h/"), host(&proxies, "https://h/"));
            assert_eq!(found, (http.to_owned(), https.to_owned()), "{variables:?}");
        }
    }

    #[test]
    fn whom_no_proxy_is_asked_for_is_what_curl_says() {
        let list = "one.example, .two.example  three.,192.0.2.7 198.51.100.0/25,[2001:db8::]/32";
        let proxies = proxies(&[("no_proxy", list), ("NO_PROXY", "other"), ("http_proxy", "p:1")]);
        for (uri, found) in [
            ("http://one.example/", "none"),
            ("http://a.ONE.example:81/", "none"),
            ("http://notone.example/", "p"),
            ("http://two.example/", "none"),
            ("http://three/", "none"),
            ("http://other/", "p"),
            ("http://192.0.2.7/", "none"),
            ("http://192.0.2.8/", "p"),
            ("http://198.51.100.127/", "none"),
            ("http://198.51.100.128/", "p"),
            ("http://[2001:db8:1::1]/", "none"),
            ("http://[2001:db9::1]/", "p"),
        ] {
            assert_eq!(host(&proxies, uri), found, "{uri}");
        }
        let whole = Exception::parse("0.0.0.0/0");
        assert!(whole.covers("192.0.2.7") && !whole.covers("::1") && !whole.covers("h"));
        assert_eq!(Exception::parse("10.0.0.0/33"), Exception::Name("10.0.0.0/33".into()));
    }

    #[test]
    fn what_is_said_of_a_bad_proxy_has_no_password() {
        let proxies = proxies(&[("all_proxy", "socks5://me:hunter2@a:1")]);
        let error = proxies.for_uri(&"http://h/".parse().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("all_proxy in the environment"), "{error}");
        assert!(!error.contains("hunter2") && !format!("{proxies:?}").contains("hunter2"));
    }
}

//! HTTP with a server that may be hostile: every length and every wait is bounded, and a redirect
//! is followed only where it cannot hurt.

use std::io::{self, Read};
use std::time::Duration;

use casemate_web::{Authorities, Proxies};
use ureq::http::{Method, Request, Response, Uri};
use ureq::{Agent, Body};

use super::StoreError;
use crate::artifact::blob::fill;

/// Most redirects in a row.
const MAX_REDIRECTS: usize = 5;
/// The slowest transfer that is waited for, in bytes a second.
const SLOWEST: u64 = 16 * 1024;
/// Most bytes of a refusal that are read, and most characters that are quoted.
const MAX_REFUSAL: u64 = 16 * 1024;
const MAX_QUOTED: usize = 200;

/// A client of one store.
#[derive(Debug, Clone)]
pub(super) struct Http {
    agent: Agent,
    patience: Duration,
    /// What the store is called in errors.
    store: String,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    /// Sent to the server asked first, never to where it redirects.
    pub(super) authorization: Option<String>,
    pub(super) body: Option<&'a [u8]>,
    /// About how many bytes travel, for the deadline.
    pub(super) length: u64,
    /// What it is called in errors.
    pub(super) what: String,
    /// What the path of every redirect must contain. One that leads elsewhere is the answer.
    pub(super) within: Option<&'static str>,
}

impl Ask<'_> {
    /// A question without a body.
    pub(super) fn new(method: Method, url: String, what: impl Into<String>) -> Self {
        let (headers, what) = (Vec::new(), what.into());
        let within = None;
        Self { method, url, headers, authorization: None, body: None, length: 0, what, within }
    }
}

/// An answer whose body was not read yet.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response<Body>,
}

impl Answer {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// Every value of a header.
    pub(super) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// The media type of the body, in lower case and without parameters.
    pub(super) fn media_type(&self) -> Option<String> {
        let kind = self.header("Content-Type")?.split(';').next()?;
        Some(kind.trim().to_ascii_lowercase())
    }

    /// Where the next page of a list is, if there is one: a `Link` of the relation `next`
    /// (RFC 8288), as the server wrote it. `Err` with a link that cannot be read.
    pub(super) fn next_page(&self) -> Result<Option<String>, String> {
        for value in self.response.headers().get_all("Link") {
            let text = value.to_str().map_err(|_| "it is no text".to_owned())?;
            if let Some(found) = next_link(text)? {
                return Ok(Some(found.to_owned()));
            }
        }
        Ok(None)
    }

    pub(super) fn into_reader(self) -> Box<dyn Read + Send> {
        Box::new(self.response.into_body().into_reader())
    }
}

impl Http {
    /// A client that trusts the system's certificate authorities and uses the proxies that the
    /// environment names, but none to this machine itself.
    pub(super) fn new(store: String, patience: Duration, loopback: bool) -> Self {
        let (authorities, proxies) = if loopback {
            (Authorities::Nobody, Proxies::none())
        } else {
            (Authorities::System, Proxies::of_environment())
        };
        let config = casemate_web::config(authorities)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(16)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience));
        Self { agent: casemate_web::agent(config, proxies), patience, store }
    }

    /// Asks, following redirects of what only reads.
    pub(super) fn ask(&self, ask: &Ask<'_>) -> Result<Answer, StoreError> {
        let mut url = ask.url.clone();
        let mut authorization = ask.authorization.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(ask, &url, authorization.as_deref())?;
            let status = response.status().as_u16();
            let location = response.headers().get("Location").and_then(|v| v.to_str().ok());
            let (true, Some(location)) = (matches!(status, 301 | 302 | 303 | 307 | 308), location)
            else {
                return Ok(Answer { response });
            };
            let next = self.follow(ask, &url, location)?;
            if ask.within.is_some_and(|part| !path(&next).contains(part)) {
                return Ok(Answer { response });
            }
            if origin(&next) != origin(&url) {
                authorization = None;
            }
            url = next;
        }
        Err(self.redirect(ask, &url, "there are too many in a row"))
    }

    fn send(
        &self,
        ask: &Ask<'_>,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, StoreError> {
        let mut builder = Request::builder().method(ask.method.clone()).uri(url);
        for (name, value) in &ask.headers {
            builder = builder.header(*name, value);
        }
        if let Some(value) = authorization {
            builder = builder.header("Authorization", value);
        }
        let whole = self.patience * 2 + Duration::from_secs(ask.length / SLOWEST);
        let sent = match ask.body {
            Some(body) => builder.body(body).map_err(ureq::Error::from).and_then(|request| {
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(Some(whole)).build())
            }),
            None => builder.body(()).map_err(ureq::Error::from).and_then(|request| {
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(Some(whole)).build())
            }),
        };
        sent.map_err(|error| self.failed(ask, &error))
    }

    /// Where a redirect leads, if one goes there.
    fn follow(&self, ask: &Ask<'_>, from: &str, location: &str) -> Result<String, StoreError> {
        let base = origin(from).unwrap_or_default();
        let next = resolved(from, location);
        let Some((next, to)) = next.and_then(|next| origin(&next).map(|to| (next, to))) else {
            return Err(self.redirect(ask, location, "it is no address"));
        };
        if ask.method != Method::GET && ask.method != Method::HEAD {
            return Err(self.redirect(ask, &next, "what is written goes nowhere else"));
        }
        if to != base && !to.starts_with("https://") {
            return Err(self.redirect(ask, &next, "another server is asked over https alone"));
        }
        Ok(next)
    }

    fn redirect(&self, ask: &Ask<'_>, to: &str, reason: &'static str) -> StoreError {
        let (store, what) = (self.store.clone(), ask.what.clone());
        StoreError::Redirect { store, what, to: without_query(to), reason }
    }

    fn failed(&self, ask: &Ask<'_>, error: &ureq::Error) -> StoreError {
        use ureq::Error as E;
        let again = matches!(
            error,
            E::Io(_) | E::ConnectionFailed | E::HostNotFound | E::BodyStalled | E::Protocol(_)
        );
        let reason = match error {
            E::Timeout(_) => format!("no answer for {} s", self.patience.as_secs()),
            E::Io(error) => error.to_string(),
            // Others may quote the address with its query.
            E::HostNotFound => "the host is not known".to_owned(),
            E::ConnectionFailed => "the connection failed".to_owned(),
            E::Tls(reason) => (*reason).to_owned(),
            E::Rustls(error) => error.to_string(),
            E::BadUri(_) | E::InvalidProxyUrl => "the address is malformed".to_owned(),
            other => other.to_string(),
        };
        let (store, what) = (self.store.clone(), ask.what.clone());
        StoreError::Transport { store, what, reason, again }
    }

    /// What a refusal is, with what the server said about it.
    pub(super) fn refused(&self, ask: &Ask<'_>, answer: Answer) -> StoreError {
        let (store, what, status) = (self.store.clone(), ask.what.clone(), answer.status());
        if matches!(status, 401 | 403) {
            return StoreError::Denied { store, what, status };
        }
        let mut bytes = Vec::new();
        // A refusal that cannot be read is one without a text.
        let _ = answer.into_reader().take(MAX_REFUSAL).read_to_end(&mut bytes);
        StoreError::Status { store, what, status, text: quotable(&bytes) }
    }

    /// The whole body, if it has at most `most` bytes.
    pub(super) fn body(
        &self,
        ask: &Ask<'_>,
        answer: Answer,
        most: usize,
    ) -> Result<Vec<u8>, StoreError> {
        let length = answer.header("Content-Length").and_then(|text| text.parse::<u64>().ok());
        let too_long = || StoreError::TooLong {
            store: self.store.clone(),
            what: ask.what.clone(),
            most: most as u64,
        };
        if length.is_some_and(|length| length > most as u64) {
            return Err(too_long());
        }
        let mut bytes = Vec::new();
        let mut reader = answer.into_reader().take(most as u64 + 1);
        if let Err(error) = reader.read_to_end(&mut bytes) {
            return Err(self.broken(ask, &error));
        }
        if bytes.len() > most { Err(too_long()) } else { Ok(bytes) }
    }

    fn broken(&self, ask: &Ask<'_>, error: &io::Error) -> StoreError {
        let (store, what) = (self.store.clone(), ask.what.clone());
        StoreError::Transport { store, what, reason: error.to_string(), again: true }
    }

    /// The body of an answer from byte `from` of what was asked for on: a server that does not
    /// resume sends the rest again, which is skipped.
    pub(super) fn from(
        &self,
        ask: &Ask<'_>,
        answer: Answer,
        from: u64,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let (status, range) = (answer.status(), answer.header("Content-Range").map(str::to_owned));
        let starts = range
            .as_deref()
            .and_then(|text| text.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
        if status == 206 && starts != Some(from) {
            let (store, what) = (self.store.clone(), ask.what.clone());
            let reason = format!("bytes from {from} on were asked for, it sent {range:?}");
            return Err(StoreError::Malformed { store, what, reason });
        }
        let mut reader = answer.into_reader();
        let mut skip = if status == 206 { 0 } else { from };
        let mut waste = vec![0; 64 * 1024];
        while skip > 0 {
            let len = usize::try_from(skip).unwrap_or(usize::MAX).min(waste.len());
            match fill(&mut reader, &mut waste[..len]) {
                Ok(read) if read == len => skip -= read as u64,
                Ok(_) => return Err(self.broken(ask, &io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(self.broken(ask, &error)),
            }
        }
        Ok(reader)
    }
}

/// `scheme://host:port` of an address, with the port written out.
pub(super) fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?.to_ascii_lowercase());
    let port = match (uri.port_u16(), scheme) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        (None, _) => return None,
    };
    if uri.authority()?.as_str().contains('@') {
        return None;
    }
    Some(format!("{scheme}://{host}:{port}"))
}

/// Where `reference` leads that stands in an answer to `from` (RFC 3986, section 5, without dot
/// segments): an address, a path on the same server, a path beside that of `from`, or a query.
pub(super) fn resolved(from: &str, reference: &str) -> Option<String> {
    let plain = &from[..from.find(['?', '#']).unwrap_or(from.len())];
    let (scheme, rest) = plain.split_once("://")?;
    let server = &plain[..scheme.len() + 3 + rest.find('/').unwrap_or(rest.len())];
    let before = reference.find([':', '/', '?', '#']).map(|at| &reference[at..]);
    if before.is_some_and(|rest| rest.starts_with(':')) {
        return Some(reference.to_owned());
    }
    if reference.starts_with("//") {
        return Some(format!("{scheme}:{reference}"));
    }
    if reference.starts_with('/') {
        return Some(format!("{server}{reference}"));
    }
    if reference.starts_with('?') {
        return Some(format!("{plain}{reference}"));
    }
    let folder = plain[server.len()..].rfind('/').map_or("/", |at| &plain[server.len()..][..=at]);
    (!reference.is_empty()).then(|| format!("{server}{folder}{reference}"))
}

/// The path of an address.
fn path(url: &str) -> String {
    url.parse::<Uri>().map(|uri| uri.path().to_owned()).unwrap_or_default()
}

/// The target of the first link of the relation `next` in a `Link` header.
fn next_link(text: &str) -> Result<Option<&str>, &'static str> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>').ok_or("a link has no end")?;
        // The parameters end where the next link starts.
        let end = after.find('<').unwrap_or(after.len());
        let is_next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let value = value.trim().trim_end_matches(',').trim_end().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case("next"))
        };
        if after[..end].split(';').any(is_next) {
            return Ok(Some(target));
        }
        rest = &after[end..];
    }
    Ok(None)
}

/// An address as it may be named: without query, fragment and what stands before its host, each
/// of which may be secret.
pub(super) fn without_query(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let plain = match url[..end].split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            let skip = host.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[skip..])
        }
        None => url[..end].to_owned(),
    };
    plain.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect()
}

/// What a server said, short and without control characters: the message of a registry's JSON,
/// the start of anything else.
fn quotable(bytes: &[u8]) -> String {
    let json = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let message = json.as_ref().and_then(|json| json["errors"][0]["message"].as_str());
    let lossy = String::from_utf8_lossy(bytes);
    let text = message.unwrap_or(&lossy);
    text.chars().filter(|c| !c.is_control()).take(MAX_QUOTED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_whole() {
        assert_eq!(origin("https://H/a").unwrap(), "https://h:443");
        assert_eq!(origin("http://h:81/a?b").unwrap(), "http://h:81");
        for none in ["", "/a", "ftp://h/a", "https://u:p@h/a", "https:///a"] {
            assert_eq!(origin(none), None, "{none}");
        }
    }

    #[test]
    fn references_lead_where_a_browser_would_go() {
        let from = "https://h:5/v2/a/list?n=1";
        for (reference, expected) in [
            ("https://other/x?y", "https://other/x?y"),
            ("//other/x", "https://other/x"),
            ("/v2/b?last=1", "https://h:5/v2/b?last=1"),
            ("?last=a:b", "https://h:5/v2/a/list?last=a:b"),
            ("list?last=a", "https://h:5/v2/a/list?last=a"),
        ] {
            assert_eq!(resolved(from, reference).unwrap(), expected, "{reference}");
        }
        assert_eq!(resolved("http://h", "x").unwrap(), "http://h/x");
        assert_eq!(resolved(from, ""), None);
        assert_eq!(resolved("h", "x"), None);
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (text, next) in [
            ("</a?n=1&last=b>; rel=\"next\"", Some("/a?n=1&last=b")),
            ("<https://h/a>;rel=next", Some("https://h/a")),
            ("</a,b>; title=\"x\"; REL=\"last next\"", Some("/a,b")),
            ("</p>; rel=\"prev\", </n>; rel=\"next\"", Some("/n")),
            ("</p>; rel=\"prev\"", None),
            ("</nextest>; rel=\"nextest\"", None),
            ("", None),
        ] {
            assert_eq!(next_link(text), Ok(next), "{text}");
        }
        assert!(next_link("</a; rel=next").is_err());
    }

    #[test]
    fn what_may_be_secret_is_not_named() {
        assert_eq!(without_query("https://u:p@h/a?signature=x#y"), "https://h/a");
        assert_eq!(without_query("/a?b"), "/a");
    }

    #[test]
    fn refusals_are_quoted_in_short() {
        let json = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"}]}"#;
        assert_eq!(quotable(json), "no[31m");
        assert_eq!(quotable(&vec![b'x'; 5000]).len(), MAX_QUOTED);
    }
}

//! Where a release is published or fetched: one text that names a store and a release in it.
//!
//! ```text
//! oci://HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]
//! s3://BUCKET[/PREFIX][#TAG][@sha256:DIGEST]
//! az://CONTAINER[/PREFIX][#TAG][@sha256:DIGEST]
//! file:///PATH[#TAG][@sha256:DIGEST]
//! http(s)://HOST[:PORT][/PATH][#TAG][@sha256:DIGEST]
//! ```
//!
//! Outside `oci` tag and digest stand behind a `#`. Without either the tag is `latest`. A digest is
//! that of the release's OCI manifest, which is the same in every store. Instead of both a channel
//! of a signed index may be named: [`Channel`]. Parsing opens nothing and asks nobody.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use casemate_measurements::hash::Sha256Hash;

mod channel;
mod error;
mod service;

pub use channel::{Channel, Named};
pub use error::{Reason, ReferenceError};
pub use service::Service;

/// The tag where none is named.
const DEFAULT_TAG: &str = "latest";
/// Most bytes of a reference.
const MAX_LEN: usize = 2048;
/// What stands before a digest.
const ALGORITHM: &str = "sha256:";

/// A release's name in its store, such as `1.2.0` or `latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let first = text.bytes().next().is_some_and(word);
        let rest = text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if first && rest && text.len() <= 128 {
            Ok(Self(text.to_owned()))
        } else {
            Err(Reason::Tag)
        }
    }
}

/// Which release of a store is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// Whatever the tag points to: whoever writes to the store decides.
    Tag(Tag),
    /// The one with this digest, whatever any tag says.
    Digest(Sha256Hash),
    /// The tag, which must point to this digest.
    Both(Tag, Sha256Hash),
}

impl Selector {
    /// The tag, where one is named.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Tag(tag) | Self::Both(tag, _) => Some(tag),
            Self::Digest(_) => None,
        }
    }

    /// The digest, where one is named.
    #[must_use]
    pub fn digest(&self) -> Option<&Sha256Hash> {
        match self {
            Self::Digest(digest) | Self::Both(_, digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }

    /// Reads `[TAG][@sha256:DIGEST]`.
    fn parse(text: &str) -> Result<Self, Reason> {
        let (tag, digest) = match text.split_once('@') {
            Some((tag, digest)) => (tag, Some(parse_digest(digest)?)),
            // `#sha256:…` reads naturally and can be no tag.
            None if text.starts_with(ALGORITHM) => ("", Some(parse_digest(text)?)),
            None => (text, None),
        };
        match (tag, digest) {
            ("", None) => Err(Reason::Tag),
            ("", Some(digest)) => Ok(Self::Digest(digest)),
            (tag, None) => Ok(Self::Tag(tag.parse()?)),
            (tag, Some(digest)) => Ok(Self::Both(tag.parse()?, digest)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => write!(f, "{tag}"),
            Self::Digest(digest) => write!(f, "@{ALGORITHM}{digest}"),
            Self::Both(tag, digest) => write!(f, "{tag}@{ALGORITHM}{digest}"),
        }
    }
}

fn parse_digest(text: &str) -> Result<Sha256Hash, Reason> {
    text.strip_prefix(ALGORITHM).and_then(|hex| hex.parse().ok()).ok_or(Reason::Digest)
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Whether it is this machine itself, so that nobody is on the way.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    fn parse(text: &str) -> Result<Self, Reason> {
        if text.contains('@') {
            return Err(Reason::Credentials);
        }
        let (host, port) = match text.rfind(':') {
            Some(colon) if !text[colon..].contains(']') => {
                (&text[..colon], Some(port(&text[colon + 1..])?))
            }
            _ => (text, None),
        };
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let good = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.len() <= 253 && host.split('.').all(label),
        };
        if good { Ok(Self { host: host.to_owned(), port }) } else { Err(Reason::Host) }
    }
}

fn port(text: &str) -> Result<u16, Reason> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port > 0).ok_or(Reason::Host)
}

fn label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// A store, whatever is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A repository of an OCI registry.
    Oci {
        /// The registry.
        authority: Authority,
        /// The repository, such as `images/cpu-sandbox`.
        repository: String,
    },
    /// A bucket of an object store, whose endpoint the environment names.
    Objects {
        /// What the object store speaks.
        service: Service,
        /// The bucket; Azure calls it a container.
        bucket: String,
        /// What every object's name begins with; may be empty.
        prefix: String,
    },
    /// A directory of this machine.
    Directory {
        /// Its absolute path.
        path: PathBuf,
    },
    /// A directory behind a web server.
    Web {
        /// Whether over TLS.
        tls: bool,
        /// The server.
        authority: Authority,
        /// The path, still encoded, without a slash at either end.
        path: String,
    },
}

impl Place {
    /// Whether bytes would travel unprotected over a network.
    #[must_use]
    pub fn is_insecure(&self) -> bool {
        match self {
            Self::Web { tls: false, authority, .. } => !authority.is_loopback(),
            Self::Oci { .. } | Self::Objects { .. } | Self::Directory { .. } | Self::Web { .. } => {
                false
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci { authority, repository } => write!(f, "oci://{authority}/{repository}"),
            Self::Objects { service, bucket, prefix } => {
                let slash = if prefix.is_empty() { "" } else { "/" };
                write!(f, "{}://{bucket}{slash}{prefix}", service.scheme())
            }
            Self::Directory { path } => write!(f, "file://{}", encode(path)),
            Self::Web { tls, authority, path } => {
                let scheme = if *tls { "https" } else { "http" };
                let slash = if path.is_empty() { "" } else { "/" };
                write!(f, "{scheme}://{authority}{slash}{path}")
            }
        }
    }
}

/// A store and a release in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The store.
    pub place: Place,
    /// The release.
    pub selector: Selector,
}

impl Reference {
    /// The same store with the release pinned by its digest.
    #[must_use]
    pub fn pinned(&self, digest: Sha256Hash) -> Self {
        let selector = match self.selector.tag() {
            Some(tag) => Selector::Both(tag.clone(), digest),
            None => Selector::Digest(digest),
        };
        Self { place: self.place.clone(), selector }
    }

    /// The directory `path` as a store, with the tag that is meant where none is named.
    ///
    /// # Errors
    /// When the working directory cannot be had.
    pub fn of_directory(path: &Path) -> std::io::Result<Self> {
        let path = std::path::absolute(path)?;
        Ok(Self { place: Place::Directory { path }, selector: Selector::Tag(default_tag()) })
    }
}

fn default_tag() -> Tag {
    Tag(DEFAULT_TAG.to_owned())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (&self.place, &self.selector) {
            (Place::Oci { .. }, Selector::Digest(_)) => "",
            (Place::Oci { .. }, _) => ":",
            _ => "#",
        };
        write!(f, "{}{mark}{}", self.place, self.selector)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        text.parse().map(Target::or_latest)
    }
}

/// A store, and the release in it where one is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The store.
    pub place: Place,
    /// The release.
    pub selector: Option<Selector>,
}

impl Target {
    /// The release that is named, else the latest.
    #[must_use]
    pub fn or_latest(self) -> Reference {
        self.or_tag(default_tag())
    }

    /// The release that is named, else what `tag` points to.
    #[must_use]
    pub fn or_tag(self, tag: Tag) -> Reference {
        let selector = self.selector.unwrap_or(Selector::Tag(tag));
        Reference { place: self.place, selector }
    }
}

impl FromStr for Target {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let result = match text.split_once('?') {
            Some((_, query)) if query.starts_with("channel=") => Err(Reason::ChannelHere),
            _ => parse(text),
        };
        result.map_err(|reason| ReferenceError::new(text, reason))
    }
}

/// Whether `text` is meant to be a reference rather than a path.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    text.contains("://")
}

fn parse(text: &str) -> Result<Target, Reason> {
    if text.len() > MAX_LEN {
        return Err(Reason::TooLong);
    }
    let (scheme, rest) = text.split_once("://").ok_or(Reason::Scheme)?;
    if scheme == "oci" {
        return parse_oci(rest);
    }
    let (rest, selector) = match rest.split_once('#') {
        Some((rest, selector)) => (rest, Some(Selector::parse(selector)?)),
        None => (rest, None),
    };
    let (head, path) = rest.split_once('/').unwrap_or((rest, ""));
    if let Some(service) = Service::of_scheme(scheme) {
        if head.contains('@') {
            return Err(Reason::Credentials);
        }
        let (bucket, prefix) = (service.bucket(head)?, plain_path(path)?);
        return Ok(Target { place: Place::Objects { service, bucket, prefix }, selector });
    }
    let place = match scheme {
        "file" if !head.is_empty() => return Err(Reason::Relative),
        "file" => Place::Directory { path: decode(path)? },
        "http" | "https" => {
            let (authority, path) = (Authority::parse(head)?, plain_path(path)?);
            Place::Web { tls: scheme == "https", authority, path }
        }
        _ => return Err(Reason::Scheme),
    };
    Ok(Target { place, selector })
}

fn parse_oci(rest: &str) -> Result<Target, Reason> {
    let (head, path) = rest.split_once('/').ok_or(Reason::Repository)?;
    let authority = Authority::parse(head)?;
    let colon = path.find([':', '@']);
    let (repository, selector) = match colon {
        None => (path, None),
        Some(at) if path[at..].starts_with(':') => {
            (&path[..at], Some(Selector::parse(&path[at + 1..])?))
        }
        Some(at) => (&path[..at], Some(Selector::Digest(parse_digest(&path[at + 1..])?))),
    };
    let good = repository.len() <= 255 && repository.split('/').all(component);
    if !good {
        return Err(Reason::Repository);
    }
    Ok(Target { place: Place::Oci { authority, repository: repository.to_owned() }, selector })
}

/// A part of a repository's name: words of a-z and 0-9 with `.`, `_`, `__` or `-`s between them.
fn component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().copied().is_some_and(word) && bytes.last().copied().is_some_and(word);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators.into_iter().all(|between| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
    })
}

/// Path of a URL or of an object's name: no parts that mean something, no query.
fn plain_path(text: &str) -> Result<String, Reason> {
    let text = text.trim_end_matches('/');
    let good = text.is_empty() || text.split('/').all(segment);
    if good { Ok(text.to_owned()) } else { Err(Reason::Path) }
}

fn segment(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&b);
    if text.is_empty() || !text.bytes().all(plain) {
        return false;
    }
    decoded(text).is_some_and(|bytes| bytes != b"." && bytes != b".." && !bytes.contains(&b'/'))
}

fn decode(path: &str) -> Result<PathBuf, Reason> {
    use std::os::unix::ffi::OsStringExt as _;
    if path.contains('?') {
        return Err(Reason::Path);
    }
    let bytes = decoded(path).ok_or(Reason::Path)?;
    let dotted = bytes.split(|b| *b == b'/').any(|part| part == b"." || part == b"..");
    if dotted || bytes.iter().any(u8::is_ascii_control) {
        return Err(Reason::Path);
    }
    let absolute = [b"/", bytes.as_slice()].concat();
    Ok(PathBuf::from(std::ffi::OsString::from_vec(absolute)))
}

/// `text` without its `%XX`; `None` when one is malformed.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(bytes)
}

fn encode(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~+,=:@".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // A string takes whatever is written.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests;

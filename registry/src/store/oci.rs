//! A repository of an OCI registry as a store, over the distribution protocol.
//!
//! Bodies that are kept whole are bounded, which is why the protocol is spoken here rather than by
//! a client that reads whatever a registry sends. Registries without the referrers API get the
//! list of referrers under the tag that the specification names for it. A list that comes in pages
//! is read to its end; one that cannot be had whole is an error, never a shorter list.

use std::fmt::Write as _;
use std::io::Read;
use std::sync::Mutex;

use serde::Deserialize;
use ureq::http::Method;

use super::challenge::{Challenge, challenge, encoded};
use super::credentials::{Credentials, Login};
use super::http::{Answer, Ask, Http, origin, resolved};
use super::layout::Index;
use super::{Expected, Options, Store, StoreError, blob_name, retried};
use crate::artifact::blob::Blob;
use crate::artifact::manifest::{self, Entry, INDEX_TYPE, MANIFEST_TYPE, ManifestBytes};
use crate::reference::{Authority, Selector, Tag};

/// Most bytes of a page of tags, and of a token's answer.
const MAX_LIST: usize = 4 * 1024 * 1024;
/// Most bytes of all pages of a list.
const MAX_PAGES_LEN: usize = 64 * 1024 * 1024;
/// Most pages of a list.
const MAX_PAGES: usize = 1000;

/// A repository.
#[derive(Debug)]
pub(super) struct Registry {
    name: String,
    /// `http(s)://HOST[:PORT]`.
    origin: String,
    /// The registry's name in docker's configuration.
    host: String,
    repository: String,
    http: Http,
    credentials: Credentials,
    authorization: Mutex<Option<String>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Tags {
    tags: Option<Vec<String>>,
}

impl Registry {
    pub(super) fn new(authority: &Authority, repository: &str, options: &Options) -> Self {
        let (loopback, host) = (authority.is_loopback(), authority.to_string());
        let scheme = if loopback || options.insecure_http { "http" } else { "https" };
        let name = format!("oci://{host}/{repository}");
        Self {
            http: Http::new(name.clone(), options.patience, loopback),
            origin: format!("{scheme}://{host}"),
            host,
            repository: repository.to_owned(),
            credentials: options.credentials.clone(),
            authorization: Mutex::new(None),
            name,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.origin, self.repository)
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Asks, and once more after logging in where the registry wants that.
    fn ask(&self, mut ask: Ask<'_>) -> Result<Answer, StoreError> {
        // Only the registry itself learns who asks.
        let own = origin(&ask.url) == origin(&self.origin);
        ask.authorization = if own { self.authorization() } else { None };
        let answer = self.http.ask(&ask)?;
        if answer.status() != 401 || !own {
            return Ok(answer);
        }
        let Some(challenge) = challenge(answer.headers("WWW-Authenticate")) else {
            return Ok(answer);
        };
        let reads = matches!(ask.method, Method::GET | Method::HEAD);
        let Some(login) = self.log_in(&challenge, reads)? else { return Ok(answer) };
        *self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(login.clone());
        ask.authorization = Some(login);
        self.http.ask(&ask)
    }

    /// The header that lets us in, if anything may. Where the registry does not say what a token
    /// must be good for, it is what is asked.
    fn log_in(&self, challenge: &Challenge, reads: bool) -> Result<Option<String>, StoreError> {
        let login = self.credentials.login(&self.host)?;
        let Challenge::Bearer { realm, service, scope } = challenge else {
            return Ok(login.as_ref().map(Login::basic));
        };
        let realm_origin = origin(realm);
        let trusted = realm.starts_with("https://") || realm_origin == origin(&self.origin);
        let (true, Some(_)) = (trusted, realm_origin) else {
            return Err(StoreError::Redirect {
                store: self.name.clone(),
                what: "logging in".to_owned(),
                to: super::http::without_query(realm),
                reason: "tokens come from the registry itself or over https",
            });
        };
        let mut url = realm.clone();
        let actions = if reads { "pull" } else { "pull,push" };
        let own = format!("repository:{}:{actions}", self.repository);
        let scope = &scope.clone().or(Some(own));
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                let mark = if url.contains('?') { '&' } else { '?' };
                // A string takes whatever is written.
                let _ = write!(url, "{mark}{name}={}", encoded(value));
            }
        }
        let mut ask = Ask::new(Method::GET, url, "logging in");
        ask.authorization = login.as_ref().map(Login::basic);
        let answer = self.http.ask(&ask)?;
        if answer.status() != 200 {
            return Err(self.http.refused(&ask, answer));
        }
        let bytes = self.http.body(&ask, answer, MAX_LIST)?;
        // What the parser would quote is a secret.
        let token = serde_json::from_slice::<Token>(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let good = token.filter(|token| token.bytes().all(|b| b.is_ascii_graphic()));
        good.map(|token| Some(format!("Bearer {token}"))).ok_or_else(|| StoreError::Malformed {
            store: self.name.clone(),
            what: "the token".to_owned(),
            reason: "expected JSON with a token".to_owned(),
        })
    }

    /// Asks for `method` on a path of the repository; `None` where it is not there.
    fn look(&self, ask: &Ask<'_>) -> Result<Option<Answer>, StoreError> {
        let answer = self.ask(ask.clone())?;
        match answer.status() {
            200 | 206 => Ok(Some(answer)),
            404 => Ok(None),
            _ => Err(self.http.refused(ask, answer)),
        }
    }

    /// The manifest or list under a tag or digest. Some registries refuse with 403 to say whether a
    /// tag is there; their list of tags says it.
    fn load(&self, name: &str, media_type: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let is_tag = !name.contains(':');
        match self.load_manifest(name, media_type) {
            Err(error @ StoreError::Denied { status: 403, .. }) if is_tag => {
                match self.all_tags() {
                    Ok(tags) if !tags.iter().any(|tag| tag == name) => Ok(None),
                    _ => Err(error),
                }
            }
            result => result,
        }
    }

    fn load_manifest(&self, name: &str, media_type: &str) -> Result<Option<Vec<u8>>, StoreError> {
        retried(|| {
            let mut ask = Ask::new(
                Method::GET,
                self.url(&format!("manifests/{name}")),
                format!("manifest {name}"),
            );
            ask.headers.push(("Accept", media_type.to_owned()));
            ask.length = manifest::MAX_LEN as u64;
            let Some(answer) = self.look(&ask)? else { return Ok(None) };
            self.http.body(&ask, answer, manifest::MAX_LEN).map(Some)
        })
    }

    /// Keeps a manifest or list under a tag or digest; whether the registry lists its subject.
    fn keep(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        retried(|| {
            let mut ask = Ask::new(
                Method::PUT,
                self.url(&format!("manifests/{name}")),
                format!("manifest {name}"),
            );
            ask.headers.push(("Content-Type", media_type.to_owned()));
            (ask.body, ask.length) = (Some(bytes), bytes.len() as u64);
            let answer = self.ask(ask.clone())?;
            match answer.status() {
                200..=202 => Ok(answer.header("OCI-Subject").is_some()),
                _ => Err(self.http.refused(&ask, answer)),
            }
        })
    }

    fn upload(&self, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError> {
        let what = blob_name(blob);
        let mut begin = Ask::new(Method::POST, self.url("blobs/uploads/"), what.clone());
        begin.body = Some(&[]);
        let answer = self.ask(begin.clone())?;
        if answer.status() != 202 {
            return Err(self.http.refused(&begin, answer));
        }
        let malformed = |reason: &str| StoreError::Malformed {
            store: self.name.clone(),
            what: "the place to upload to".to_owned(),
            reason: reason.to_owned(),
        };
        let place = answer.header("Location").ok_or_else(|| malformed("it is missing"))?;
        let mut url = resolved(&begin.url, place).ok_or_else(|| malformed("it is no address"))?;
        let same = origin(&url).is_some() && origin(&url) == origin(&self.origin);
        if !same && !url.starts_with("https://") {
            return Err(StoreError::Redirect {
                store: self.name.clone(),
                what,
                to: super::http::without_query(&url),
                reason: "another server is sent blobs over https alone",
            });
        }
        let mark = if url.contains('?') { '&' } else { '?' };
        // A string takes whatever is written.
        let _ = write!(url, "{mark}digest=sha256:{}", blob.sha256);
        let mut put = Ask::new(Method::PUT, url, what);
        put.headers.push(("Content-Type", "application/octet-stream".to_owned()));
        (put.body, put.length) = (Some(bytes), blob.size);
        let answer = self.ask(put.clone())?;
        match answer.status() {
            200..=202 => Ok(()),
            _ => Err(self.http.refused(&put, answer)),
        }
    }

    /// The referrers under the tag that stands in for the API.
    fn listed(&self, subject: &Entry) -> Result<Index, StoreError> {
        let tag = fallback_tag(subject);
        let Some(bytes) = self.load(&tag, INDEX_TYPE)? else { return Ok(Index::default()) };
        self.index(&format!("manifest {tag}"), &bytes)
    }

    fn index(&self, what: &str, bytes: &[u8]) -> Result<Index, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| StoreError::Malformed {
            store: self.name.clone(),
            what: what.to_owned(),
            reason: error.to_string(),
        })
    }

    fn add_referrer(&self, referrer: &ManifestBytes, subject: &Entry) -> Result<(), StoreError> {
        let listed =
            self.keep(&format!("sha256:{}", referrer.sha256()), MANIFEST_TYPE, referrer.bytes())?;
        if listed {
            return Ok(());
        }
        let mut index = self.listed(subject)?;
        let entry = referrer.entry();
        if index.manifests.iter().any(|old| old.digest == entry.digest) {
            return Ok(());
        }
        index.manifests.push(entry);
        let bytes = serde_json::to_vec(&index).map_err(|error| StoreError::Malformed {
            store: self.name.clone(),
            what: "the list of referrers".to_owned(),
            reason: error.to_string(),
        })?;
        self.keep(&fallback_tag(subject), INDEX_TYPE, &bytes).map(drop)
    }
}

fn fallback_tag(subject: &Entry) -> String {
    subject.digest.replace(':', "-")
}

impl Store for Registry {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn has(&self, blob: &Blob) -> Result<bool, StoreError> {
        retried(|| {
            let url = self.url(&format!("blobs/sha256:{}", blob.sha256));
            Ok(self.look(&Ask::new(Method::HEAD, url, blob_name(blob)))?.is_some())
        })
    }

    fn put(&self, blob: &Blob, bytes: &[u8]) -> Result<(), StoreError> {
        retried(|| self.upload(blob, bytes))
    }

    fn read(&self, blob: &Blob, from: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let url = self.url(&format!("blobs/sha256:{}", blob.sha256));
        let mut ask = Ask::new(Method::GET, url, blob_name(blob));
        ask.length = blob.size.saturating_sub(from);
        if from > 0 {
            ask.headers.push(("Range", format!("bytes={from}-")));
        }
        let Some(answer) = self.look(&ask)? else {
            return Err(StoreError::Missing { store: self.name.clone(), what: ask.what });
        };
        self.http.from(&ask, answer, from)
    }

    fn manifest(&self, selector: &Selector) -> Result<Option<ManifestBytes>, StoreError> {
        let (name, expected) = match selector {
            Selector::Digest(digest) => (format!("sha256:{digest}"), Some(digest)),
            Selector::Tag(tag) => (tag.to_string(), None),
            Selector::Both(tag, digest) => (tag.to_string(), Some(digest)),
        };
        let Some(bytes) = self.load(&name, MANIFEST_TYPE)? else { return Ok(None) };
        let manifest = ManifestBytes::new(bytes);
        let found = *manifest.sha256();
        match (selector, expected) {
            (Selector::Both(..), Some(expected)) if *expected != found => {
                Err(StoreError::Moved { store: self.name(), selector: selector.clone(), found })
            }
            (_, Some(expected)) if *expected != found => {
                let (store, what, expected) = (self.name(), format!("manifest {name}"), *expected);
                Err(StoreError::Content { store, what, expected, found })
            }
            _ => Ok(Some(manifest)),
        }
    }

    fn commit(
        &self,
        manifest: &ManifestBytes,
        referrers: &[ManifestBytes],
        tag: Option<(&Tag, Expected)>,
    ) -> Result<(), StoreError> {
        let digest = format!("sha256:{}", manifest.sha256());
        self.keep(&digest, MANIFEST_TYPE, manifest.bytes())?;
        if !referrers.is_empty() {
            let empty = Blob::of(manifest::EMPTY);
            if !self.has(&empty)? {
                self.put(&empty, manifest::EMPTY)?;
            }
        }
        for referrer in referrers {
            self.add_referrer(referrer, &manifest.entry())?;
        }
        let Some((tag, expected)) = tag else { return Ok(()) };
        if expected != Expected::Any {
            let now = self.manifest(&Selector::Tag(tag.clone()))?;
            let found = now.as_ref().map(|now| *now.sha256());
            if !expected.allows(found.as_ref()) {
                let (store, tag) = (self.name(), tag.clone());
                return Err(StoreError::Conflict { store, tag, found });
            }
        }
        self.keep(tag.as_str(), MANIFEST_TYPE, manifest.bytes()).map(drop)
    }

    fn referrers(&self, subject: &Entry) -> Result<Vec<Entry>, StoreError> {
        match retried(|| self.by_api(subject))? {
            Some(entries) => Ok(entries),
            None => Ok(self.listed(subject)?.manifests),
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, StoreError> {
        let all = self.all_tags()?;
        // Lists of referrers are no releases.
        let own = all.iter().filter(|tag| !tag.starts_with("sha256-"));
        let mut tags: Vec<Tag> = own.filter_map(|tag| tag.parse().ok()).collect();
        tags.sort();
        tags.dedup();
        Ok(tags)
    }
}

impl Registry {
    /// What the referrers API lists; `None` where the registry has none.
    fn by_api(&self, subject: &Entry) -> Result<Option<Vec<Entry>>, StoreError> {
        let what = format!("referrers of {}", subject.digest);
        let url = self.url(&format!("referrers/{}", subject.digest));
        let mut entries: Vec<Entry> = Vec::new();
        let there = self.pages(url, &what, manifest::MAX_LEN, Some(INDEX_TYPE), |bytes| {
            entries.extend(self.index(&what, bytes)?.manifests);
            Ok(())
        })?;
        Ok(there.then_some(entries))
    }

    /// Every tag, as it is written.
    fn all_tags(&self) -> Result<Vec<String>, StoreError> {
        let (url, what) = (self.url("tags/list?n=1000"), "its tags");
        let mut tags = Vec::new();
        self.pages(url, what, MAX_LIST, None, |bytes| {
            let page: Tags = serde_json::from_slice(bytes).map_err(|error| {
                let (store, what) = (self.name.clone(), what.to_owned());
                StoreError::Malformed { store, what, reason: error.to_string() }
            })?;
            tags.extend(page.tags.unwrap_or_default());
            Ok(())
        })?;
        Ok(tags)
    }

    /// Reads a list page by page, each of at most `most` bytes. `false` where there is none: the
    /// first page is not there, or, for a list that must be of a `kind`, a page for people is
    /// there in its place.
    fn pages(
        &self,
        url: String,
        what: &str,
        most: usize,
        kind: Option<&str>,
        mut page: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let (mut url, mut read) = (url, 0);
        for number in 0..MAX_PAGES {
            let mut ask = Ask::new(Method::GET, url.clone(), what);
            // Who has no such API may send its reader to a page for people.
            ask.within = kind.and(Some("/referrers/"));
            if let Some(kind) = kind {
                ask.headers.push(("Accept", kind.to_owned()));
            }
            let answer = self.ask(ask.clone())?;
            let is_for_people = answer.media_type().is_some_and(|kind| kind == "text/html");
            match answer.status() {
                200 if kind.is_none() || !is_for_people => {}
                200 | 300..=399 | 400 | 405 | 501 if kind.is_some() && number == 0 => {
                    return Ok(false);
                }
                404 if number == 0 => return Ok(false),
                _ => return Err(self.http.refused(&ask, answer)),
            }
            let next = answer.next_page().map_err(|reason| self.broken_page(what, &reason))?;
            let bytes = self.http.body(&ask, answer, most)?;
            read += bytes.len();
            page(&bytes)?;
            let Some(next) = next else { return Ok(true) };
            let next = resolved(&url, &next).filter(|next| origin(next) == origin(&self.origin));
            url = next.ok_or_else(|| self.broken_page(what, "it leads to another server"))?;
            if read > MAX_PAGES_LEN {
                let (store, what, most) = (self.name.clone(), what.to_owned(), MAX_PAGES_LEN);
                return Err(StoreError::TooLong { store, what, most: most as u64 });
            }
        }
        Err(self.broken_page(what, &format!("there are more than {MAX_PAGES} pages")))
    }

    fn broken_page(&self, what: &str, reason: &str) -> StoreError {
        let reason = format!("the next page cannot be asked for: {reason}");
        StoreError::Malformed { store: self.name.clone(), what: what.to_owned(), reason }
    }
}

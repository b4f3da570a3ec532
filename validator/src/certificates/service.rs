//! A client of AMD's key service, which answers slowly, refuses those who ask too often, and is
//! not believed: what it sends is judged like a host's.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_web::{Authorities, Proxies};
use ureq::http::Uri;

/// The longest time that the service can make all requests wait.
const LONGEST_CLOSURE: Duration = Duration::from_mins(10);
/// The longest pause that is not the service's wish.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// What asking may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time for one request.
    pub request: Duration,
    /// Time for all attempts at one thing, pauses included.
    pub total: Duration,
    /// The pause after the first failed attempt; it doubles from then on.
    pub pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            total: Duration::from_secs(30),
            pause: Duration::from_secs(1),
        }
    }
}

/// Why the service gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The address is none.
    #[error(
        "{url:?} is no address of a key service: expected http:// or https://, a host, and no \
         query"
    )]
    Url {
        /// What was given.
        url: String,
    },
    /// It does not have it.
    #[error("{url}: it has none (HTTP status {status})")]
    None {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// It refuses in a way that another attempt does not change.
    #[error("{url}: {reason}")]
    Refused {
        /// The address.
        url: String,
        /// How.
        reason: String,
    },
    /// No attempt succeeded in time.
    #[error(
        "{url}: given up after {attempts} attempts within {} s: {reason}; try again later, or use \
         a cache that has it",
        total.as_secs_f32()
    )]
    GivenUp {
        /// The address.
        url: String,
        /// How many attempts were made.
        attempts: u32,
        /// The limit.
        total: Duration,
        /// How the last attempt failed that had the time to.
        reason: String,
    },
}

/// How one attempt failed.
enum Failure {
    /// Another may succeed, after this time where the service named one.
    Passing {
        reason: String,
        retry_after: Option<Duration>,
    },
    Final(ServiceError),
}

/// A client. All of its requests share the pauses that the service asks for.
#[derive(Debug)]
pub(crate) struct Service {
    agent: ureq::Agent,
    base: String,
    limits: Limits,
    closed_until: Mutex<Instant>,
}

impl Service {
    /// A client of the service at `url`. TLS is the ordinary one, with the system's authorities
    /// and the proxies that the environment names: nothing that is believed rests on it.
    pub(crate) fn new(url: &str, limits: Limits) -> Result<Self, ServiceError> {
        let refused = || ServiceError::Url { url: url.chars().take(200).collect() };
        let parsed: Uri = url.parse().map_err(|_| refused())?;
        let known = matches!(parsed.scheme_str(), Some("http" | "https"));
        if !known || parsed.host().is_none_or(str::is_empty) || url.contains(['?', '#', '@']) {
            return Err(refused());
        }
        let config = casemate_web::config(Authorities::System)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(16 * 1024);
        let agent = casemate_web::agent(config, Proxies::of_environment());
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { agent, base, limits, closed_until: Mutex::new(Instant::now()) })
    }

    /// The address of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Gets what is at `path`, at most `most` bytes.
    pub(crate) fn get(&self, path: &str, most: usize) -> Result<Vec<u8>, ServiceError> {
        let url = self.url(path);
        let deadline = Instant::now() + self.limits.total;
        let (mut pause, mut attempts) = (self.limits.pause, 0);
        let mut last = "it asked for a pause that is longer".to_owned();
        while self.wait_until_open(deadline) {
            attempts += 1;
            match self.attempt(&url, most, deadline) {
                Ok(bytes) => return Ok(bytes),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, retry_after }) => {
                    // An attempt that our own deadline cut short tells nothing of the service.
                    if attempts == 1 || Instant::now() < deadline {
                        last = reason;
                    }
                    self.close_for(retry_after.unwrap_or_else(|| jittered(pause)));
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
        Err(ServiceError::GivenUp { url, attempts, total: self.limits.total, reason: last })
    }

    /// Waits for the end of a pause; `false` where it ends after the deadline.
    fn wait_until_open(&self, deadline: Instant) -> bool {
        loop {
            let open = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if open >= deadline || now >= deadline {
                return false;
            }
            if open <= now {
                return true;
            }
            std::thread::sleep(open - now);
        }
    }

    fn close_for(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_CLOSURE);
        let mut closed = self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = until.max(*closed);
    }

    fn attempt(&self, url: &str, most: usize, deadline: Instant) -> Result<Vec<u8>, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let response = self
            .agent
            .get(url)
            .config()
            .timeout_global(Some(left.min(self.limits.request)))
            .build()
            .call()
            .map_err(|error| classify(url, most, &error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let refused = |reason| Failure::Final(ServiceError::Refused { url: url.into(), reason });
        match status {
            200 => {}
            300..=399 => {
                let location: String =
                    header("Location").unwrap_or_default().chars().take(200).collect();
                let reason = format!("it redirects to {location:?}: redirects are never followed");
                return Err(refused(reason));
            }
            400 | 404 | 410 => {
                return Err(Failure::Final(ServiceError::None { url: url.into(), status }));
            }
            408 | 425 | 429 | 500..=599 => {
                let seconds = header("Retry-After").and_then(|text| text.trim().parse().ok());
                let reason = format!("HTTP status {status}");
                let retry_after = seconds.map(Duration::from_secs);
                return Err(Failure::Passing { reason, retry_after });
            }
            _ => return Err(refused(format!("HTTP status {status}"))),
        }
        let mut body = response.into_body();
        let body = body.with_config().limit(most as u64).read_to_vec();
        body.map_err(|error| classify(url, most, &error))
    }
}

/// Between half of `pause` and all of it, so that many verifiers do not come back at once.
fn jittered(pause: Duration) -> Duration {
    // Without randomness they do: no reason to give up.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

fn classify(url: &str, most: usize, error: &ureq::Error) -> Failure {
    use ureq::Error as E;
    let (url, reason) = (url.to_owned(), error.to_string());
    match error {
        E::Io(_)
        | E::Timeout(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::BodyStalled
        | E::Protocol(_) => Failure::Passing { reason, retry_after: None },
        E::BodyExceedsLimit(_) => {
            let reason = format!("it sends more than {most} bytes");
            Failure::Final(ServiceError::Refused { url, reason })
        }
        _ => Failure::Final(ServiceError::Refused { url, reason }),
    }
}

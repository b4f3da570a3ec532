//! The certificates and revocation lists that a host did not send: from a cache, else from AMD's
//! key service; and the reference integrity manifests of GPUs, from NVIDIA's service.
//!
//! None is believed. What comes from there is judged before it is kept and again when it is
//! taken out, against the pinned roots and the report in question; a root that the service sends
//! must be a pinned one. A host can make a verifier ask for the certificate of a chip that does
//! not exist, so failures are remembered for a while and each thing is asked for by one thread
//! at a time.

mod item;
mod service;
mod store;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_measurements::appraisal::missing_gpu_manifests;
use casemate_measurements::bounded::Bounded;
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::{self, ChainError, EndorsedKey, Role, UnixTime};
use casemate_measurements::chain_cache::ChainCache;
use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::gpu::rim::RimError;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::{Report, SigningKey};
use casemate_measurements::revocation::{RevocationError, RevocationList};
use casemate_measurements::roots::Roots;
use casemate_measurements::tcb::Product;

use crate::files::split_chain;
use item::{Item, Source};
use service::Service;
pub use service::{Limits, ServiceError};
use store::Store;
pub use store::StoreError;

/// AMD's key service.
pub const AMD: &str = "https://kdsintf.amd.com";

/// NVIDIA's service of reference integrity manifests.
pub const NVIDIA: &str = "https://rim.attestation.nvidia.com";

/// How long a revocation list is used before a newer one is asked for.
const LIST_REFRESH: Duration = Duration::from_hours(12);
/// How long a failure stands for the next ones.
const REMEMBER_FAILURE: Duration = Duration::from_secs(30);
/// Most verified chains and most remembered failures.
const MAX_REMEMBERED: usize = 4096;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// A directory that keeps what was got; it is made when missing.
    pub cache: Option<PathBuf>,
    /// Address of the key service, such as [`AMD`]; `None` asks nobody.
    pub service: Option<String>,
    /// Address of the service of GPU manifests, such as [`NVIDIA`]; `None` asks nobody.
    pub gpu_manifests: Option<String>,
    /// What asking may cost.
    pub limits: Limits,
}

/// Where to look for a revocation list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantList {
    /// In the cache, else ask the key service.
    Ask,
    /// In the cache.
    Cached,
    /// Nowhere.
    No,
}

/// Why there is no source of certificates.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The directory is no cache.
    #[error(transparent)]
    Cache(#[from] StoreError),
    /// The address is none.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// Why something cannot be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificatesError {
    /// Nobody may be asked.
    #[error("{what} is in no cache, and no {service} may be asked")]
    Offline {
        /// What is missing.
        what: String,
        /// Who would have it.
        service: &'static str,
    },
    /// The service gave nothing.
    #[error("no {what} from the {service}", what = what.trim_start_matches("the "))]
    Service {
        /// What is missing.
        what: String,
        /// Who was asked.
        service: &'static str,
        /// Why.
        source: ServiceError,
    },
    /// The service gave something else.
    #[error("{url}: what the {service} sends is not {what}")]
    Unfit {
        /// The address.
        url: String,
        /// Who was asked.
        service: &'static str,
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        source: Box<Unfit>,
    },
    /// The service has no such certificates.
    #[error(
        "AMD's key service gives out no VLEK certificates: the provider must hand them to the VM"
    )]
    Vlek,
    /// The report names no chip.
    #[error("the report names no chip (its id is masked or malformed), so nobody can be asked")]
    NoChip,
}

impl CertificatesError {
    /// Whether this says something about the report, and not about this machine's cache or
    /// connection: who wants a certificate for a chip that AMD does not know has no genuine one.
    #[must_use]
    pub const fn is_about_the_report(&self) -> bool {
        let none = matches!(self, Self::Service { source: ServiceError::None { .. }, .. });
        none || matches!(self, Self::Vlek | Self::NoChip)
    }
}

/// What is wrong with what was got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Of certificates.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Of a revocation list.
    #[error(transparent)]
    List(#[from] RevocationError),
    /// The list is another's.
    #[error("it is the revocation list of another root")]
    OtherRoot,
    /// What was to hold a manifest.
    #[error("expected JSON with the manifest in base64 as \"rim\": {0}")]
    Wrapping(String),
    /// Of a manifest of GPUs.
    #[error(transparent)]
    GpuManifest(#[from] Box<RimError>),
}

/// What a verifier has besides the evidence.
#[derive(Debug, Clone, Default)]
pub struct Collateral {
    /// The certificates that the evidence lacked.
    pub certificates: CertificateTable,
    /// Why some are missing still.
    pub missing: Option<CertificatesError>,
    /// Revocation lists of the report's root.
    pub revocation_lists: Vec<RevocationList>,
    /// Why there is none.
    pub no_list: Option<CertificatesError>,
}

/// Who asks, and about what.
struct Question<'a> {
    report: &'a Report,
    platform: Platform,
    roots: &'a Roots,
    now: UnixTime,
}

/// One thing that is asked for by one thread at a time, and how that failed last.
type Flight = Arc<Mutex<Option<(Instant, CertificatesError)>>>;

/// A source of certificates, shared by threads.
pub struct Certificates {
    store: Store,
    service: Option<Service>,
    gpu_service: Option<Service>,
    flights: Mutex<Bounded<String, Flight>>,
    chains: ChainCache,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, service, gpu_service, .. } = self;
        f.debug_struct("Certificates")
            .field("store", store)
            .field("service", service)
            .field("gpu_service", gpu_service)
            .finish_non_exhaustive()
    }
}

impl Certificates {
    /// A source as `settings` say.
    ///
    /// # Errors
    /// When the directory cannot be used or the address is none.
    pub fn open(settings: &Settings) -> Result<Self, SettingsError> {
        let service = |url: &Option<String>| {
            url.as_deref().map(|url| Service::new(url, settings.limits)).transpose()
        };
        Ok(Self {
            store: Store::open(settings.cache.clone())?,
            service: service(&settings.service)?,
            gpu_service: service(&settings.gpu_manifests)?,
            flights: Mutex::new(Bounded::new(MAX_REMEMBERED)),
            chains: ChainCache::new(MAX_REMEMBERED),
        })
    }

    /// The chains that were verified with what is here.
    #[must_use]
    pub const fn chains(&self) -> &ChainCache {
        &self.chains
    }

    /// Looks for what `table` lacks to judge `report`, and for a revocation list. Whatever goes
    /// wrong is told, not returned as an error: the rest may suffice.
    #[must_use]
    pub fn collect(
        &self,
        report: &Report,
        table: &CertificateTable,
        platform: Platform,
        want_list: WantList,
        roots: &Roots,
        now: UnixTime,
    ) -> Collateral {
        let question = Question { report, platform, roots, now };
        let mut collateral = Collateral::default();
        match self.complete(&question, table) {
            Ok(certificates) => collateral.certificates = certificates,
            Err(error) => {
                collateral.missing = Some(error);
                return collateral;
            }
        }
        if want_list == WantList::No {
            return collateral;
        }
        let table = table.clone().or(collateral.certificates.clone());
        // Of a chain that does not hold, no list needs to be known.
        let key = self.chains.verify(&table, report, platform, roots, now);
        if let Ok(key) = key {
            match self.revocation_list(&question, &key, want_list == WantList::Ask) {
                Ok(list) => collateral.revocation_lists = vec![list],
                Err(error) => collateral.no_list = Some(error),
            }
        }
        collateral
    }

    /// The certificates that `table` lacks.
    fn complete(
        &self,
        question: &Question<'_>,
        table: &CertificateTable,
    ) -> Result<CertificateTable, CertificatesError> {
        let mut own = CertificateTable::default();
        let (role, leaf) = match question.report.signing_key() {
            SigningKey::Vcek => (Role::Vcek, &table.vcek),
            SigningKey::Vlek => (Role::Vlek, &table.vlek),
        };
        match leaf {
            Some(_) if table.ask.is_some() => {}
            // What is no certificate is refused when the chain is judged.
            Some(leaf) => {
                if let Ok(product) = chain::named_product(leaf, role) {
                    own.ask = Some(self.intermediate(question, role, product)?);
                }
            }
            None if role == Role::Vlek => return Err(CertificatesError::Vlek),
            None => {
                let (ask, vcek) = self.vcek(question)?;
                (own.ask, own.vcek) = (Some(ask), Some(vcek));
            }
        }
        Ok(own)
    }

    /// The certificate of the report's chip at its TCB, and the intermediate that signed it: the
    /// host's own is not asked, it could be any.
    fn vcek(&self, question: &Question<'_>) -> Result<(Vec<u8>, Vec<u8>), CertificatesError> {
        let Question { report, platform, roots, now } = *question;
        let mut last = CertificatesError::NoChip;
        for product in item::products(report) {
            let Some(item) = Item::vcek(report, product) else { continue };
            let ask = self.intermediate(question, Role::Vcek, product)?;
            let fits = |bytes: &[u8]| {
                let (vcek, ask) = (Some(bytes.to_vec()), Some(ask.clone()));
                let table = CertificateTable { vcek, ask, ..CertificateTable::default() };
                let key = EndorsedKey::verify(&table, report, platform, roots, now)?;
                key.check_tcb(report)?;
                key.check_chip(report)?;
                Ok(bytes.to_vec())
            };
            match self.obtain(&item, None, true, fits) {
                Ok(vcek) => return Ok((ask, vcek)),
                // A report of version 2 does not say of which product it is: ask for the next.
                Err(error) if error.is_about_the_report() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// An intermediate of `product`.
    fn intermediate(
        &self,
        question: &Question<'_>,
        role: Role,
        product: Product,
    ) -> Result<Vec<u8>, CertificatesError> {
        let item = Item::Chain { role, product };
        self.obtain(&item, None, true, |bytes| {
            let (ask, ark) = split_chain(bytes);
            let Question { platform, roots, now, .. } = *question;
            chain::check_intermediate(ask, ark, product, platform, roots, now)?;
            Ok(ask.to_vec())
        })
    }

    /// The list by which `key` is judged.
    fn revocation_list(
        &self,
        question: &Question<'_>,
        key: &EndorsedKey,
        ask: bool,
    ) -> Result<RevocationList, CertificatesError> {
        let item = Item::RevocationList { role: key.role(), product: key.product() };
        let fits = |bytes: &[u8]| {
            let list = RevocationList::parse(bytes)?;
            match key.check_revocation(std::slice::from_ref(&list), question.now) {
                // That it takes something back makes it no worse a list.
                Ok(Some(_)) | Err(RevocationError::Revoked { .. }) => Ok(list),
                Ok(None) => Err(Unfit::OtherRoot),
                Err(error) => Err(error.into()),
            }
        };
        let fresh = self.obtain(&item, Some(LIST_REFRESH), ask, fits);
        // One that speaks still is better than none, where there is no newer one to be had.
        fresh.or_else(|error| self.kept(&item, None, &fits).ok_or(error))
    }

    /// The reference integrity manifests that the GPUs in `evidence` are held to and that `roots`
    /// lack, and why some are missing still. Only of GPUs that NVIDIA vouches for.
    #[must_use]
    pub fn gpu_manifests(
        &self,
        evidence: &str,
        platform: Platform,
        roots: &Roots,
        now: UnixTime,
    ) -> (Vec<Vec<u8>>, Vec<CertificatesError>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for id in missing_gpu_manifests(evidence, roots, platform, now) {
            let fits = |bytes: &[u8]| {
                let manifest = unwrapped(bytes)?;
                id.check(&manifest, roots, platform, now).map_err(Box::new)?;
                Ok(manifest)
            };
            match self.obtain(&Item::GpuManifest(id.clone()), None, true, fits) {
                Ok(manifest) => found.push(manifest),
                Err(error) => missing.push(error),
            }
        }
        (found, missing)
    }

    /// Takes `item` from the cache, where it is no older than `newest`, else from the service
    /// where that may be asked; `fits` judges what was found.
    fn obtain<T>(
        &self,
        item: &Item,
        newest: Option<Duration>,
        ask: bool,
        fits: impl Fn(&[u8]) -> Result<T, Unfit>,
    ) -> Result<T, CertificatesError> {
        if let Some(found) = self.kept(item, newest, &fits) {
            return Ok(found);
        }
        let source = item.source();
        let service = match source {
            Source::Amd => self.service.as_ref(),
            Source::Nvidia => self.gpu_service.as_ref(),
        };
        let asked = source.text();
        let Some(service) = service.filter(|_| ask) else {
            return Err(CertificatesError::Offline { what: item.text(), service: asked });
        };
        let flight = self.flight(item);
        let mut failed = flight.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever had the turn before has brought it, or has failed just now.
        if let Some(found) = self.kept(item, newest, &fits) {
            return Ok(found);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| at.elapsed() < REMEMBER_FAILURE)
        {
            return Err(error.clone());
        }
        let path = item.path();
        let got = service.get(&path, item.most());
        let got = got.map_err(|source| {
            let what = item.text();
            CertificatesError::Service { what, service: asked, source }
        });
        let fit = got.and_then(|bytes| match fits(&bytes) {
            Ok(found) => {
                self.store.put(&item.file_name(), &bytes);
                Ok(found)
            }
            Err(source) => {
                let (url, what) = (service.url(&path), item.text());
                let source = Box::new(source);
                Err(CertificatesError::Unfit { url, service: asked, what, source })
            }
        });
        *failed = fit.as_ref().err().map(|error| (Instant::now(), error.clone()));
        fit
    }

    /// Takes `item` from the cache.
    fn kept<T>(
        &self,
        item: &Item,
        newest: Option<Duration>,
        fits: &impl Fn(&[u8]) -> Result<T, Unfit>,
    ) -> Option<T> {
        let name = item.file_name();
        let kept = self.store.get(&name, item.most())?;
        if newest.is_some_and(|newest| kept.age() > newest) {
            return None;
        }
        let found = fits(&kept.bytes);
        if found.is_err() {
            self.store.forget(&name);
        }
        found.ok()
    }

    fn flight(&self, item: &Item) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let name = item.file_name();
        if let Some(flight) = flights.get(&name) {
            return flight;
        }
        let flight = Flight::default();
        flights.insert(name, Arc::clone(&flight));
        flight
    }
}

/// The manifest in what NVIDIA's service sends: JSON with more beside it.
fn unwrapped(bytes: &[u8]) -> Result<Vec<u8>, Unfit> {
    #[derive(serde::Deserialize)]
    struct Wrapping {
        rim: Base64Bytes,
    }
    let wrapping: Wrapping =
        serde_json::from_slice(bytes).map_err(|error| Unfit::Wrapping(error.to_string()))?;
    Ok(wrapping.rim.0)
}

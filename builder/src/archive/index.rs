//! Packages that verified suites offer.

use std::collections::BTreeMap;

use casemate_measurements::hash::Sha256Hash;

use super::version;
use crate::deb::{Paragraph, paragraphs};
use crate::lock::{ArchivePath, Closure, LockedPackage};
use crate::recipe::{ArchiveName, PackageSpec, Suite};

/// A suite whose Release file was verified and whose indices hash to what it says.
#[derive(Debug)]
pub(crate) struct VerifiedSuite {
    /// The archive.
    pub(crate) archive: ArchiveName,
    /// The suite.
    pub(crate) name: Suite,
    /// Do packages come from it only on request?
    pub(crate) on_request: bool,
    /// Its Packages files, one after the other.
    pub(crate) packages: String,
}

/// A package that a suite offers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    /// The suite.
    pub(crate) suite: &'a VerifiedSuite,
    /// Its stanza.
    pub(crate) stanza: Paragraph<'a>,
    /// Its version.
    pub(crate) version: &'a str,
}

impl Candidate<'_> {
    /// What a lock says of it. `None` if its stanza is malformed.
    pub(crate) fn lock(&self, closure: Closure) -> Option<LockedPackage> {
        let field = |name| self.stanza.field(name);
        let path = field("Filename")?;
        let path: ArchivePath = path.strip_prefix("./").unwrap_or(path).parse().ok()?;
        let sha256: Sha256Hash = field("SHA256")?.parse().ok()?;
        Some(LockedPackage {
            name: field("Package")?.parse().ok()?,
            version: self.version.parse().ok()?,
            architecture: field("Architecture")?.parse().ok()?,
            archive: self.suite.archive.clone(),
            suite: self.suite.name.clone(),
            path,
            size: field("Size")?.parse().ok()?,
            sha256,
            closures: vec![closure],
        })
    }
}

/// All packages of all suites, by name.
#[derive(Debug)]
pub(crate) struct Index<'a> {
    by_name: BTreeMap<&'a str, Vec<Candidate<'a>>>,
}

impl<'a> Index<'a> {
    /// Reads the Packages files of `suites`, whose order is the order of preference among equal
    /// versions.
    pub(crate) fn new(suites: &'a [VerifiedSuite]) -> Self {
        let mut by_name: BTreeMap<&str, Vec<Candidate<'_>>> = BTreeMap::new();
        for suite in suites {
            for stanza in paragraphs(&suite.packages) {
                if let (Some(name), Some(version)) =
                    (stanza.field("Package"), stanza.field("Version"))
                {
                    let candidate = Candidate { suite, stanza, version };
                    by_name.entry(name).or_default().push(candidate);
                }
            }
        }
        Self { by_name }
    }

    /// All that have this name.
    pub(crate) fn named(&self, name: &str) -> &[Candidate<'a>] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The package with this name, version and, if given, architecture.
    pub(crate) fn exactly(
        &self,
        name: &str,
        version: &str,
        architecture: Option<&str>,
    ) -> Option<Candidate<'a>> {
        let fits = |candidate: &&Candidate<'_>| {
            candidate.version == version
                && architecture.is_none_or(|a| candidate.stanza.field("Architecture") == Some(a))
        };
        self.named(name).iter().find(fits).copied()
    }

    /// The newest package that fits `spec`; from suites on request only if it says so.
    pub(crate) fn best(&self, spec: &PackageSpec) -> Option<Candidate<'a>> {
        let fits = |candidate: &&Candidate<'_>| match (spec.suite(), spec.version()) {
            (Some(suite), _) => candidate.suite.name == *suite,
            (_, Some(version)) => candidate.version == version.as_str(),
            _ => !candidate.suite.on_request,
        };
        let mut best: Option<Candidate<'a>> = None;
        for candidate in self.named(spec.name().as_str()).iter().filter(fits) {
            if best.is_none_or(|best| version::compare(candidate.version, best.version).is_gt()) {
                best = Some(*candidate);
            }
        }
        best
    }

    /// The names of essential packages in suites that need no request.
    pub(crate) fn essential(&self) -> impl Iterator<Item = &'a str> {
        self.by_name
            .iter()
            .filter(|(_, candidates)| {
                candidates.iter().any(|candidate| {
                    !candidate.suite.on_request
                        && candidate.stanza.field("Essential") == Some("yes")
                })
            })
            .map(|(name, _)| *name)
    }
}

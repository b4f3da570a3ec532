//! Packages that verified suites offer.

use std::collections::BTreeMap;

use casemate_measurements::hash::Sha256Hash;

use super::version;
use crate::deb::{Paragraph, paragraphs};
use crate::lock::{ArchivePath, Closure, LockedFile, LockedPackage, LockedSource};
use crate::recipe::{ArchiveName, PackageSpec, StageName, Suite};

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
    /// Its Sources files, if they were asked for.
    pub(crate) sources: String,
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

impl Candidate<'_> {
    /// What a lock says of it as a source package for `stage`: its files but the description,
    /// whose place the signed index takes; with `upstream` those of its author alone. `None` if
    /// its stanza is malformed or no file is left.
    pub(crate) fn lock_source(&self, stage: &StageName, upstream: bool) -> Option<LockedSource> {
        let directory = self.stanza.field("Directory")?;
        let mut files = Vec::new();
        for line in self.stanza.field("Checksums-Sha256")?.lines().filter(|l| !l.trim().is_empty())
        {
            let mut words = line.split_whitespace();
            let (sha256, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let name = words.next()?;
            let signed = name.strip_suffix(".asc").is_some() || name.strip_suffix(".dsc").is_some();
            if !signed && (!upstream || name.contains(".orig")) {
                let path = format!("{directory}/{name}").parse().ok()?;
                files.push(LockedFile { path, size, sha256 });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        (!files.is_empty()).then_some(())?;
        Some(LockedSource {
            stage: stage.clone(),
            name: self.stanza.field("Package")?.parse().ok()?,
            version: self.version.parse().ok()?,
            archive: self.suite.archive.clone(),
            suite: self.suite.name.clone(),
            files,
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
        Self::of(suites, |suite| &suite.packages)
    }

    /// Reads their Sources files.
    pub(crate) fn of_sources(suites: &'a [VerifiedSuite]) -> Self {
        Self::of(suites, |suite| &suite.sources)
    }

    fn of(suites: &'a [VerifiedSuite], text: impl Fn(&'a VerifiedSuite) -> &'a str) -> Self {
        let mut by_name: BTreeMap<&str, Vec<Candidate<'_>>> = BTreeMap::new();
        for suite in suites {
            for stanza in paragraphs(text(suite)) {
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

//! What a new lock keeps of an old one, its own or that of the recipe that it extends: every version
//! but those it was told to move, and those that must move with them.

use std::collections::{BTreeMap, BTreeSet};

use super::apt::{Apt, Question};
use super::resolve::name_in_clause;
use super::{Closure, Lock, LockedPackage, LockedSource, ResolveError};
use crate::archive::Index;
use crate::deb::{Paragraph, read_control};
use crate::fetch::Cache;
use crate::recipe::{PackageName, PackageSpec, StageName};

/// The old lock and what is to move.
#[derive(Debug)]
pub(super) struct Kept {
    packages: Vec<LockedPackage>,
    sources: Vec<LockedSource>,
    moving: Vec<PackageName>,
    /// Closures of one package that is asked for anew.
    fresh: Vec<Closure>,
    /// Stanzas of locked packages whose files are in the cache: what apt is told of those that
    /// the archive has no more.
    stanzas: BTreeMap<(String, String), String>,
    gone: String,
}

impl Kept {
    /// Keeps `old` but for the packages `moving`.
    pub(super) fn new(
        old: &Lock,
        moving: &[PackageName],
        cache: &Cache,
    ) -> Result<Self, ResolveError> {
        for name in moving {
            let known = old.packages().iter().any(|package| package.name == *name)
                || old.sources().iter().any(|source| source.name == *name);
            if !known {
                return Err(ResolveError::NotLocked { name: name.clone() });
            }
        }
        let mut stanzas = BTreeMap::new();
        let mut gone = String::new();
        for package in old.packages() {
            // One that is not in the cache or damaged there is known from the archive, if at all.
            if !cache.has(package.sha256, Some(package.size)) {
                continue;
            }
            if let Ok(control) = read_control(&cache.blob(package.sha256)) {
                let text = control.text().trim_end();
                let key = (package.name.to_string(), package.version.to_string());
                stanzas.insert(key, text.to_owned());
                gone.push_str(text);
                gone.push_str(&format_file(package));
            }
        }
        let (packages, sources) = (old.packages().to_vec(), old.sources().to_vec());
        let (moving, fresh) = (moving.to_vec(), Vec::new());
        Ok(Self { packages, sources, moving, fresh, stanzas, gone })
    }

    /// The same, but for the package of `closure`.
    pub(super) fn let_go(&mut self, closure: Closure) {
        self.fresh.push(closure);
    }

    /// Stanzas, with hash and path, of the locked packages that are in the cache.
    pub(super) fn gone_stanzas(&self) -> &str {
        &self.gone
    }

    /// The package of a closure of one package, unless it is to move.
    pub(super) fn single(&self, closure: &Closure, spec: &PackageSpec) -> Option<LockedPackage> {
        if self.fresh.contains(closure) {
            return None;
        }
        let package = self.packages.iter().find(|package| package.is_in(closure))?;
        let moves = self.moving.iter().any(|name| name == spec.name() || *name == package.name);
        let fits = spec.suite().is_none_or(|suite| package.suite == *suite)
            && spec.version().is_none_or(|version| package.version == *version);
        (!moves && fits).then(|| of(package, closure))
    }

    /// The source package of `stage`, unless it is to move.
    pub(super) fn source(&self, stage: &StageName, spec: &PackageSpec) -> Option<LockedSource> {
        let mut all = self.sources.iter();
        let source = all.find(|s| s.stage == *stage && s.name == *spec.name())?;
        let moves = self.moving.iter().any(|name| name == spec.name());
        let fits = spec.suite().is_none_or(|suite| source.suite == *suite)
            && spec.version().is_none_or(|version| source.version == *version);
        (!moves && fits).then(|| source.clone())
    }

    /// Is a package of this name locked for `closure`?
    pub(super) fn holds(&self, closure: &Closure, name: &PackageName) -> bool {
        self.packages.iter().any(|package| package.is_in(closure) && package.name == *name)
    }

    /// The locked package of this name and version.
    pub(super) fn package(
        &self,
        closure: &Closure,
        name: &str,
        version: &str,
    ) -> Option<LockedPackage> {
        self.packages
            .iter()
            .find(|p| p.name.as_str() == name && p.version.as_str() == version)
            .map(|package| of(package, closure))
    }

    /// The versions that `closure` has after the packages to move have moved, and what must move
    /// with them: apt is told that the old closure is installed, and asked for the moving ones.
    pub(super) fn versions(
        &self,
        closure: &Closure,
        apt: &Apt,
        question: &Question,
        (index, excluded): (&Index<'_>, &BTreeSet<&str>),
    ) -> Result<BTreeMap<String, String>, ResolveError> {
        let mut versions = BTreeMap::new();
        let mut stanzas = Vec::new();
        for package in self.packages.iter().filter(|package| package.is_in(closure)) {
            let (name, version) = (package.name.as_str(), package.version.as_str());
            if excluded.contains(name) {
                continue;
            }
            let cached = self.stanzas.get(&(name.to_owned(), version.to_owned()));
            let indexed = index.exactly(name, version, None).map(|c| c.stanza.text());
            // One that neither archive nor cache knows cannot be kept: it moves.
            if let Some(stanza) = cached.map(String::as_str).or(indexed) {
                stanzas.push(as_installed(stanza));
                versions.insert(name.to_owned(), version.to_owned());
            }
        }
        let wanted = self.wanted(closure, question, &versions);
        if wanted.is_empty() {
            return Ok(versions);
        }
        let what = format!("an update of the {closure} closure");
        let (installed, unmet) = met(&question.installed, stanzas);
        let held = unmet.iter().filter_map(|stanza| {
            let name = Paragraph::new(stanza).field("Package")?.to_owned();
            Some((name.clone(), versions.get(&name)?.clone()))
        });
        let held = held.filter(|(name, _)| !self.moving.iter().any(|moves| moves.as_str() == name));
        let moved = Question { what, wanted, held: held.collect(), installed };
        for chosen in apt.ask(&moved)? {
            versions.insert(chosen.name, chosen.version);
        }
        Ok(versions)
    }

    /// The packages to move, and those that the recipe asks for and the old closure lacks.
    fn wanted(
        &self,
        closure: &Closure,
        question: &Question,
        versions: &BTreeMap<String, String>,
    ) -> Vec<String> {
        let name_of = |request: &str| -> String {
            request.split(['/', '=']).next().unwrap_or_default().to_owned()
        };
        let moves = |name: &str| self.moving.iter().any(|moving| moving.as_str() == name);
        let mut wanted: Vec<String> = question
            .wanted
            .iter()
            .filter(|request| {
                let name = name_of(request);
                moves(&name) || !versions.contains_key(&name)
            })
            .cloned()
            .collect();
        for package in self.packages.iter().filter(|package| package.is_in(closure)) {
            let name = package.name.as_str();
            if moves(name) && !question.wanted.iter().any(|request| name_of(request) == name) {
                // From the suite that it came from, which may be one that needs a request.
                wanted.push(format!("{name}/{}", package.suite));
            }
        }
        wanted
    }
}

fn of(package: &LockedPackage, closure: &Closure) -> LockedPackage {
    LockedPackage { closures: vec![closure.clone()], ..package.clone() }
}

/// What apt is told is installed, and those of `stanzas` that it is not told of: they need what is
/// not there, as the old recipe left it out and the new one does not, and apt would do nothing else
/// than to ask for a repair.
fn met(stand_ins: &[String], mut stanzas: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut unmet = Vec::new();
    loop {
        let (good, bad): (Vec<String>, Vec<String>) = {
            let have: BTreeSet<&str> =
                stand_ins.iter().chain(&stanzas).flat_map(|stanza| names_of(stanza)).collect();
            stanzas.iter().cloned().partition(|stanza| has_needs(stanza, &have))
        };
        stanzas = good;
        if bad.is_empty() {
            return ([stand_ins, &stanzas].concat(), unmet);
        }
        unmet.extend(bad);
    }
}

/// The names that a package answers to.
fn names_of(stanza: &str) -> impl Iterator<Item = &str> {
    let fields = ["Package", "Provides"].map(|name| Paragraph::new(stanza).field(name));
    fields.into_iter().flatten().flat_map(|value| value.split(',')).map(name_in_clause)
}

/// Is one alternative of each thing that a package needs among `have`? Versions are not looked at.
fn has_needs(stanza: &str, have: &BTreeSet<&str>) -> bool {
    let fields = ["Depends", "Pre-Depends"].map(|name| Paragraph::new(stanza).field(name));
    let mut clauses = fields.into_iter().flatten().flat_map(|value| value.split(','));
    clauses.all(|clause| {
        clause.trim().is_empty() || clause.split('|').any(|one| have.contains(name_in_clause(one)))
    })
}

/// The fields that an index has beside those of a control file, and the end of the stanza.
fn format_file(package: &LockedPackage) -> String {
    format!("\nFilename: {}\nSize: {}\nSHA256: {}\n\n", package.path, package.size, package.sha256)
}

/// `stanza` as dpkg's status file has it.
fn as_installed(stanza: &str) -> String {
    let fields = Paragraph::new(stanza).fields().filter(|(name, _)| {
        !["Status", "Filename", "Size", "SHA256", "MD5sum", "Essential", "Important", "Protected"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other))
    });
    let mut text = String::from("Status: install ok installed\n");
    for (name, value) in fields {
        text.push_str(name);
        text.push_str(": ");
        text.push_str(value);
        text.push('\n');
    }
    text
}

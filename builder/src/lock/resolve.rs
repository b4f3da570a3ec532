//! Making a lock: which suites to read, which questions to ask, what the answers mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::apt::{Apt, AptError, Chosen, Question};
use super::base::base_lock;
use super::kept::Kept;
use super::{Closure, Lock, LockError, LockSummary, LockedPackage, LockedSource, LockedSuite};
use crate::archive::{
    Access, ArchiveError, Asked, Candidate, Index, Keyring, Mirrors, SignatureError, VerifiedSuite,
};
use crate::fetch::{Cache, FetchOptions, Http};
use crate::progress::{Progress, Total};
use crate::recipe::{Exclude, PackageName, PackageSpec, Recipe, RecipeError, StageSource, Suite};

/// How to make a lock.
#[derive(Debug)]
pub struct LockOptions {
    /// Where indices are kept and held packages are looked up.
    pub cache: Cache,
    /// Where archives are served.
    pub mirrors: Mirrors,
    /// Files with keys; if empty, those of the machine.
    pub keyrings: Vec<PathBuf>,
    /// `None` moves every package to its newest version, but for those of the lock of a recipe that
    /// this one extends. Else only these move, with what they need, and what the recipe asks for
    /// anew is added.
    pub update: Option<Vec<PackageName>>,
    /// Move also what the lock of the extended recipe has.
    pub newest: bool,
    /// How to fetch.
    pub fetch: FetchOptions,
    /// The time that Release files are judged by.
    pub now: SystemTime,
}

/// Why no lock could be made.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The recipe is not usable.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The old lock is not usable, or the new one cannot be written.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An archive is not usable.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There are no keys.
    #[error(transparent)]
    Keyring(#[from] SignatureError),
    /// apt found no solution.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A package that the recipe names is in no suite.
    #[error("{field}: no suite of the recipe has {spec}{}", elsewhere(found))]
    NoPackage {
        /// The recipe's field.
        field: &'static str,
        /// The request.
        spec: String,
        /// Where the package is in another version or suite.
        found: Vec<String>,
    },
    /// A package to update is not in the lock.
    #[error("--update {name}: the lock has no such package")]
    NotLocked {
        /// The name.
        name: PackageName,
    },
    /// apt wants a package from a suite that packages come from on request only.
    #[error(
        "{closure} would get {package} from {suite}, but the recipe asks for nothing from there: \
         ask for it as {package}/{suite}"
    )]
    Unrequested {
        /// The closure.
        closure: Closure,
        /// The package.
        package: String,
        /// The suite.
        suite: String,
    },
    /// A stanza of a verified index is malformed.
    #[error("the archive's stanza of {package} is malformed")]
    Stanza {
        /// The package and its version.
        package: String,
    },
}

fn elsewhere(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; there is {}", found.join(", ")) }
}

/// Makes or updates the lock of the recipe in `dir`, and says what moved.
///
/// # Errors
///
/// If an archive cannot be believed, apt finds no solution, or a file cannot be read or written.
pub fn lock(
    dir: &Path,
    options: &LockOptions,
    progress: &dyn Progress,
) -> Result<LockSummary, ResolveError> {
    let recipe = Recipe::load(dir)?;
    let old = match Lock::load(dir) {
        Ok(lock) => Some(lock),
        Err(LockError::Missing { .. }) => None,
        // A lock that cannot be read is no obstacle to making a new one, only to keeping to it.
        Err(_) if options.update.is_none() => None,
        Err(error) => return Err(error.into()),
    };
    let base = if options.newest { None } else { base_lock(&recipe)? };
    let kept = match (&options.update, &old, &base) {
        (Some(names), Some(old), _) => Some(Kept::new(old, names, &options.cache)?),
        (names, _, Some(base)) => {
            Some(base.kept(&recipe, names.as_deref().unwrap_or_default(), &options.cache)?)
        }
        (Some(names), None, None) if !names.is_empty() => {
            return Err(ResolveError::NotLocked { name: names[0].clone() });
        }
        _ => None,
    };
    let (suites, locked_suites) = read_suites(&recipe, old.as_ref(), options, progress)?;
    let closures = Closure::of(&recipe);
    let phase = progress.phase("resolve", Total::Items(closures.len() as u64));
    let index = Index::new(&suites);
    let mut resolver =
        Resolver { recipe: &recipe, index: &index, suites: &suites, kept, notes: Vec::new() };
    let mut packages = Vec::new();
    for closure in &closures {
        phase.detail(&closure.name());
        packages.append(&mut resolver.closure(closure)?);
        phase.advance(1);
    }
    let base = base.filter(|_| options.update.is_none() || old.is_none());
    if base.is_some() {
        resolver.follow_headers(&mut packages)?;
    }
    let sources = resolver.sources(&Index::of_sources(&suites))?;
    let new = Lock::new(recipe.request_hash(), locked_suites, packages).with_sources(sources);
    let before = old.as_ref().or(base.as_ref().map(|base| &base.lock));
    let mut summary = LockSummary::between(before, &new);
    summary.notes = resolver.notes;
    if let Some(base) = base {
        summary.notes.push(format!(
            "what {} has stays as it is there: --newest moves it, --update NAME one package",
            base.dir.join(super::FILE_NAME).display()
        ));
    }
    if old.as_ref() != Some(&new) {
        new.save(dir)?;
    }
    phase.finish(&format!("{} packages", new.packages().len()));
    Ok(summary)
}

/// Gets all suites of the recipe; those that need no request come first.
fn read_suites(
    recipe: &Recipe,
    old: Option<&Lock>,
    options: &LockOptions,
    progress: &dyn Progress,
) -> Result<(Vec<VerifiedSuite>, Vec<LockedSuite>), ResolveError> {
    let keyring = Keyring::find(&options.keyrings)?;
    let http = Http::new(options.fetch.timeout);
    let access = Access {
        http: &http,
        cache: &options.cache,
        mirrors: &options.mirrors,
        keyring: &keyring,
        options: &options.fetch,
        now: options.now,
        progress,
    };
    let mut asked = Vec::new();
    for on_request in [false, true] {
        for (archive, settings) in &recipe.archive {
            let suites = if on_request { &settings.on_request } else { &settings.suites };
            for suite in suites {
                let locked_date = old
                    .and_then(|old| {
                        old.suites().iter().find(|s| s.archive == *archive && s.name == *suite)
                    })
                    .map(|suite| suite.date.as_str());
                let sources = wants_sources(recipe, suite, on_request);
                asked.push(Asked { archive, settings, suite, on_request, sources, locked_date });
            }
        }
    }
    let phase = progress.phase("read archives", Total::Items(asked.len() as u64));
    let (mut suites, mut locked) = (Vec::new(), Vec::new());
    for asked in &asked {
        phase.detail(asked.suite.as_str());
        let (suite, entry) = access.suite(asked)?;
        suites.push(suite);
        locked.push(entry);
        phase.advance(1);
    }
    phase.finish(&format!("{} suites, signatures good", suites.len()));
    Ok((suites, locked))
}

/// May a source package of the recipe come from `suite`?
fn wants_sources(recipe: &Recipe, suite: &Suite, on_request: bool) -> bool {
    recipe.stages.iter().flat_map(|stage| &stage.sources).any(|source| {
        let asked = source.package.suite();
        asked == Some(suite) || (asked.is_none() && !on_request)
    })
}

struct Resolver<'a> {
    recipe: &'a Recipe,
    index: &'a Index<'a>,
    suites: &'a [VerifiedSuite],
    kept: Option<Kept>,
    notes: Vec<String>,
}

impl Resolver<'_> {
    fn closure(&mut self, closure: &Closure) -> Result<Vec<LockedPackage>, ResolveError> {
        let recipe = self.recipe;
        match closure {
            Closure::Firmware => {
                let Some(spec) = &recipe.firmware.package else { return Ok(Vec::new()) };
                self.single(closure, "firmware.package", spec, |candidate| candidate)
            }
            Closure::Stage(name) => {
                let stage = recipe.stages.iter().find(|stage| stage.name == *name);
                let Some(stage) = stage else { return Ok(Vec::new()) };
                let asked = ("stage.packages", stage.packages.as_slice());
                self.solve(closure, asked, &stage.exclude, &[])
            }
            Closure::Kernel => {
                let Some(spec) = &recipe.kernel.package else { return Ok(Vec::new()) };
                let index = self.index;
                self.single(closure, "kernel.package", spec, |candidate| {
                    follow_meta(index, candidate)
                })
            }
            Closure::Guest => {
                let excluded: BTreeSet<&str> =
                    recipe.guest.exclude.iter().map(|entry| entry.package.as_str()).collect();
                let essential = self.index.essential().filter(|name| !excluded.contains(name));
                let essential: Vec<String> = essential.map(str::to_owned).collect();
                let asked = ("guest.packages", recipe.guest.packages.as_slice());
                self.solve(closure, asked, &recipe.guest.exclude, &essential)
            }
            Closure::Tools => {
                let asked = ("tools.packages", recipe.tools.packages.as_slice());
                self.solve(closure, asked, &recipe.tools.exclude, &[])
            }
        }
    }

    /// The source packages of all stages: the newest that fit.
    fn sources(&self, index: &Index<'_>) -> Result<Vec<LockedSource>, ResolveError> {
        let mut sources = Vec::new();
        for stage in &self.recipe.stages {
            for StageSource { package: spec, upstream } in &stage.sources {
                if let Some(kept) = self.kept.as_ref().and_then(|k| k.source(&stage.name, spec)) {
                    sources.push(kept);
                    continue;
                }
                let found = index.best(spec).ok_or_else(|| {
                    let known = index.named(spec.name().as_str()).iter();
                    let found = known.map(|c| format!("{} in {}", c.version, c.suite.name));
                    let (field, spec) = ("stage.source", spec.to_string());
                    ResolveError::NoPackage { field, spec, found: found.collect() }
                })?;
                let locked = found.lock_source(&stage.name, *upstream);
                let package = || format!("{} {}", spec.name(), found.version);
                sources.push(locked.ok_or_else(|| ResolveError::Stanza { package: package() })?);
            }
        }
        Ok(sources)
    }

    /// A closure of one package, taken without what it depends on.
    fn single<'s>(
        &'s self,
        closure: &Closure,
        field: &'static str,
        spec: &PackageSpec,
        follow: impl FnOnce(Candidate<'s>) -> Candidate<'s>,
    ) -> Result<Vec<LockedPackage>, ResolveError> {
        if let Some(kept) = self.kept.as_ref().and_then(|kept| kept.single(closure, spec)) {
            return Ok(vec![kept]);
        }
        let best = self.index.best(spec).ok_or_else(|| self.no_package(field, spec))?;
        Ok(vec![lock_candidate(&follow(best), closure)?])
    }

    /// A closure that apt solves.
    fn solve(
        &mut self,
        closure: &Closure,
        (field, asked): (&'static str, &[PackageSpec]),
        exclude: &[Exclude],
        more: &[String],
    ) -> Result<Vec<LockedPackage>, ResolveError> {
        for spec in asked {
            let held = self.kept.as_ref().is_some_and(|kept| kept.holds(closure, spec.name()));
            if self.index.best(spec).is_none() && !held {
                return Err(self.no_package(field, spec));
            }
        }
        let requested: BTreeSet<&str> =
            asked.iter().filter_map(|spec| Some(spec.suite()?.as_str())).collect();
        let suites: Vec<&VerifiedSuite> = self
            .suites
            .iter()
            .filter(|suite| !suite.on_request || requested.contains(suite.name.as_str()))
            .collect();
        let installed = exclude
            .iter()
            .map(|entry| self.stand_in(closure, &entry.package))
            .collect::<Result<Vec<_>, _>>()?;
        let mut question = Question {
            what: format!("the {closure} closure"),
            wanted: asked.iter().map(ToString::to_string).chain(more.iter().cloned()).collect(),
            installed,
            held: BTreeMap::new(),
        };
        let extra = self.kept.as_ref().map_or("", Kept::gone_stanzas);
        let hidden: BTreeSet<&str> = exclude.iter().map(|e| e.package.as_str()).collect();
        let apt = Apt::new(&suites, extra, &hidden)?;
        if let Some(kept) = &self.kept {
            question.held = kept.versions(closure, &apt, &question, (self.index, &hidden))?;
            // A held version wins by its priority, which a request for a suite would override.
            for (wanted, spec) in question.wanted.iter_mut().zip(asked) {
                if let Some(version) = question.held.get(spec.name().as_str()) {
                    *wanted = format!("{}={version}", spec.name());
                }
            }
        }
        let chosen = apt.ask(&question)?;
        let mut packages = Vec::new();
        for chosen in &chosen {
            let package = self.look_up(closure, chosen)?;
            let from_request =
                self.suites.iter().any(|suite| suite.on_request && suite.name == package.suite);
            if from_request && !requested.contains(package.suite.as_str()) {
                let (package, suite) = (package.name.to_string(), package.suite.to_string());
                let closure = closure.clone();
                return Err(ResolveError::Unrequested { closure, package, suite });
            }
            packages.push(package);
        }
        self.note_idle(closure, exclude, &packages);
        Ok(packages)
    }

    /// Moves a kernel that was kept, where what stages compile against it is of another one: the
    /// archive may have its headers no more.
    fn follow_headers(&mut self, packages: &mut [LockedPackage]) -> Result<(), ResolveError> {
        let stages = self.recipe.stages.iter().filter(|stage| stage.makes_modules());
        let closures: Vec<_> = stages.map(|stage| Closure::Stage(stage.name.clone())).collect();
        let fits = |kernel: &LockedPackage, packages: &[LockedPackage]| {
            let headers = kernel.name.as_str().replacen("linux-image-", "linux-headers-", 1);
            let is = |p: &LockedPackage| p.name.as_str() == headers && p.version == kernel.version;
            closures.iter().all(|stage| packages.iter().any(|p| p.is_in(stage) && is(p)))
        };
        let at = packages.iter().position(|package| package.is_in(&Closure::Kernel));
        let Some(at) = at.filter(|at| !fits(&packages[*at], packages)) else { return Ok(()) };
        let Some(kept) = &mut self.kept else { return Ok(()) };
        kept.let_go(Closure::Kernel);
        if let Some(newest) = self.closure(&Closure::Kernel)?.pop().filter(|k| fits(k, packages)) {
            self.notes.push(format!(
                "the kernel moves from {} to {}: the archive has the headers of that one",
                packages[at].version, newest.version
            ));
            packages[at] = newest;
        }
        Ok(())
    }

    /// What a verified index, or the old lock, has for apt's choice.
    fn look_up(&self, closure: &Closure, chosen: &Chosen) -> Result<LockedPackage, ResolveError> {
        let (name, version) = (&chosen.name, &chosen.version);
        if let Some(kept) = self.kept.as_ref().and_then(|k| k.package(closure, name, version)) {
            return Ok(kept);
        }
        let found = self.index.exactly(name, version, Some(&chosen.architecture));
        let stanza = || ResolveError::Stanza { package: format!("{name} {version}") };
        lock_candidate(&found.ok_or_else(stanza)?, closure)
    }

    /// A stanza that makes apt take an excluded package for installed, with what it provides but
    /// without what it needs.
    fn stand_in(&self, closure: &Closure, name: &PackageName) -> Result<String, ResolveError> {
        let field = match closure {
            Closure::Guest => "guest.exclude",
            Closure::Stage(_) => "stage.exclude",
            _ => "tools.exclude",
        };
        let best = self
            .index
            .named(name.as_str())
            .iter()
            .filter(|c| !c.suite.on_request)
            .max_by(|a, b| crate::archive::compare_versions(a.version, b.version));
        let Some(candidate) = best else {
            return Err(ResolveError::NoPackage { field, spec: name.to_string(), found: vec![] });
        };
        let mut stanza = format!(
            "Package: {name}\nStatus: install ok installed\nMaintainer: none\nVersion: {}\n\
             Architecture: {}\nDescription: left out\n",
            candidate.version,
            candidate.stanza.field("Architecture").unwrap_or("amd64"),
        );
        for field in ["Provides", "Multi-Arch"] {
            if let Some(value) = candidate.stanza.field(field) {
                let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
                stanza.push_str(&format_field(field, &value));
            }
        }
        Ok(stanza)
    }

    /// Notes exclusions that nothing in the closure asks for.
    fn note_idle(&mut self, closure: &Closure, exclude: &[Exclude], packages: &[LockedPackage]) {
        let essential: BTreeSet<&str> = self.index.essential().collect();
        let mut needed: BTreeSet<&str> = BTreeSet::new();
        for package in packages {
            let found = self.index.exactly(package.name.as_str(), package.version.as_str(), None);
            for field in ["Depends", "Pre-Depends"] {
                let value = found.and_then(|c| c.stanza.field(field)).unwrap_or_default();
                needed.extend(value.split([',', '|']).map(name_in_clause));
            }
        }
        for entry in exclude {
            let name = entry.package.as_str();
            let provides = self.index.named(name).iter().any(|candidate| {
                let provides = candidate.stanza.field("Provides").unwrap_or_default();
                provides.split(',').map(name_in_clause).any(|p| needed.contains(p))
            });
            let implied = *closure == Closure::Guest && essential.contains(name);
            if !(needed.contains(name) || provides || implied) && self.kept.is_none() {
                self.notes.push(format!("nothing in {closure} needs the excluded package {name}"));
            }
        }
    }

    fn no_package(&self, field: &'static str, spec: &PackageSpec) -> ResolveError {
        let found = self
            .index
            .named(spec.name().as_str())
            .iter()
            .map(|candidate| format!("{} in {}", candidate.version, candidate.suite.name))
            .collect();
        ResolveError::NoPackage { field, spec: spec.to_string(), found }
    }
}

fn format_field(name: &str, value: &str) -> String {
    format!("{name}: {value}\n")
}

/// The package's name in `libc6 (>= 2.38)` or `python3:any`.
pub(super) fn name_in_clause(clause: &str) -> &str {
    let clause = clause.trim();
    clause.split([' ', '(', ':', '[']).next().unwrap_or_default()
}

fn lock_candidate(
    candidate: &Candidate<'_>,
    closure: &Closure,
) -> Result<LockedPackage, ResolveError> {
    candidate.lock(closure.clone()).ok_or_else(|| {
        let name = candidate.stanza.field("Package").unwrap_or_default();
        ResolveError::Stanza { package: format!("{name} {}", candidate.version) }
    })
}

/// The kernel that a meta package depends on, or the package itself.
fn follow_meta<'a>(index: &Index<'a>, candidate: Candidate<'a>) -> Candidate<'a> {
    let depends = candidate.stanza.field("Depends").unwrap_or_default();
    depends
        .split(',')
        .map(str::trim)
        .filter(|clause| clause.starts_with("linux-image-") && !clause.contains('|'))
        .find_map(|clause| {
            let version =
                clause.split_once("(=").map(|(_, rest)| rest.trim_end_matches(')').trim());
            let version = version.unwrap_or(candidate.version);
            index.exactly(name_in_clause(clause), version, None)
        })
        .unwrap_or(candidate)
}

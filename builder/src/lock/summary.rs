//! What changed between two locks, for people.

use std::collections::BTreeMap;
use std::fmt;

use super::{Lock, LockedPackage};

/// What a new lock changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct LockSummary {
    /// Packages that were not there before.
    pub added: Vec<LockedPackage>,
    /// Packages that are no longer there.
    pub removed: Vec<LockedPackage>,
    /// Packages whose version or bytes changed: before and after.
    pub moved: Vec<(LockedPackage, LockedPackage)>,
    /// The number of packages that stayed.
    pub unchanged: usize,
    /// What the author of the recipe should know.
    pub notes: Vec<String>,
}

impl LockSummary {
    /// Compares `old`, if there was a lock, with `new`.
    #[must_use]
    pub fn between(old: Option<&Lock>, new: &Lock) -> Self {
        let mut summary = Self::default();
        let mut before = group(old.map_or(&[], Lock::packages));
        for (name, now) in group(new.packages()) {
            let then = before.remove(name).unwrap_or_default();
            summary.compare(&then, &now);
        }
        for package in before.into_values().flatten() {
            summary.removed.push(package.clone());
        }
        summary
    }

    /// Compares packages of one name, of which there may be several versions.
    fn compare(&mut self, then: &[&LockedPackage], now: &[&LockedPackage]) {
        let stays =
            |a: &LockedPackage, list: &[&LockedPackage]| list.iter().any(|b| a.sha256 == b.sha256);
        let mut gone: Vec<_> = then.iter().filter(|package| !stays(package, now)).collect();
        let mut came: Vec<_> = now.iter().filter(|package| !stays(package, then)).collect();
        self.unchanged += now.len() - came.len();
        while !gone.is_empty() && !came.is_empty() {
            self.moved.push(((*gone.remove(0)).clone(), (*came.remove(0)).clone()));
        }
        self.removed.extend(gone.into_iter().map(|package| (*package).clone()));
        self.added.extend(came.into_iter().map(|package| (*package).clone()));
    }

    /// Did no package change?
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.moved.is_empty()
    }
}

fn group(packages: &[LockedPackage]) -> BTreeMap<&str, Vec<&LockedPackage>> {
    let mut groups: BTreeMap<&str, Vec<&LockedPackage>> = BTreeMap::new();
    for package in packages {
        groups.entry(package.name.as_str()).or_default().push(package);
    }
    groups
}

impl fmt::Display for LockSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for package in &self.added {
            writeln!(f, "+ {} {}", package.name, package.version)?;
        }
        for package in &self.removed {
            writeln!(f, "- {} {}", package.name, package.version)?;
        }
        for (old, new) in &self.moved {
            write!(f, "~ {} {} -> {}", new.name, old.version, new.version)?;
            if old.version == new.version {
                write!(f, " (other bytes: SHA-256 {} -> {})", old.sha256, new.sha256)?;
            }
            writeln!(f)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        write!(
            f,
            "{} added, {} removed, {} moved, {} unchanged",
            self.added.len(),
            self.removed.len(),
            self.moved.len(),
            self.unchanged
        )
    }
}

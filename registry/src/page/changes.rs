//! What changed between two bills of materials, package by package.

use std::collections::BTreeMap;

/// Versions of a package by its name; several where it is there more than once.
pub(super) type Packages = BTreeMap<String, Vec<String>>;

/// What happened to a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It came, with these versions.
    Added(String),
    /// It went.
    Removed(String),
    /// It has other versions.
    Moved(String, String),
}

/// The packages that are not the same, sorted by name.
pub(super) fn changes(before: &Packages, now: &Packages) -> Vec<(String, Change)> {
    let mut found = Vec::new();
    for (name, was) in before {
        match now.get(name) {
            None => found.push((name.clone(), Change::Removed(was.join(", ")))),
            Some(is) if is != was => {
                found.push((name.clone(), Change::Moved(was.join(", "), is.join(", "))));
            }
            Some(_) => {}
        }
    }
    let added = now.iter().filter(|(name, _)| !before.contains_key(*name));
    found.extend(added.map(|(name, is)| (name.clone(), Change::Added(is.join(", ")))));
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

//! Leaves out paths of packages.

use std::collections::BTreeSet;

use crate::merge::Tree;
use crate::recipe::PathPattern;

/// Takes the paths that `drop` matches out of `tree`, with all below them, except those that
/// `keep` matches and the directories above these. Returns the patterns that matched nothing.
pub fn drop_paths(tree: &mut Tree, drop: &[PathPattern], keep: &[PathPattern]) -> Vec<String> {
    let mut matched = vec![false; drop.len()];
    let mut dropped = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for (path, _) in tree.nodes() {
        let absolute = format!("/{path}");
        let below = path.rsplit_once('/').is_some_and(|(parent, _)| dropped.contains(parent));
        let by = drop.iter().position(|pattern| pattern.matches(&absolute));
        if let Some(at) = by {
            matched[at] = true;
        } else if !below {
            continue;
        }
        dropped.insert(path.to_owned());
        if keep.iter().any(|pattern| pattern.matches(&absolute)) {
            kept.insert(path.to_owned());
            kept.extend(path.match_indices('/').map(|(at, _)| path[..at].to_owned()));
        }
    }
    tree.retain(|path, _| !dropped.contains(path) || kept.contains(path));
    let unmatched = drop.iter().zip(matched).filter(|(_, matched)| !matched);
    unmatched.map(|(pattern, _)| pattern.as_str().to_owned()).collect()
}

//! Links, modes and owners, concatenated files, and the empty machine id.

use std::sync::Arc;

use super::{Accounts, StepError};
use crate::merge::{Kind, MergeError, Owner, Tree};
use crate::recipe::{Concat, FileFix, GuestPath, Link};

fn relative(path: &GuestPath) -> &str {
    path.as_str().trim_start_matches('/')
}

/// Makes the recipe's symbolic links, over packaged ones.
///
/// # Errors
/// When one would lie below a file or replace a directory that is not empty.
pub fn link(tree: &mut Tree, links: &[Link]) -> Result<(), StepError> {
    for link in links {
        // `Link::target` is checked text.
        tree.put_link(relative(&link.path), link.target.as_str())?;
    }
    Ok(())
}

/// Changes modes and owners of files that are there.
///
/// # Errors
/// When a file is not there or an owner is not pinned.
pub fn fix_files(tree: &mut Tree, fixes: &[FileFix], accounts: &Accounts) -> Result<(), StepError> {
    for fix in fixes {
        let path = relative(&fix.path);
        let node = tree.get_mut(path).ok_or_else(|| MergeError::Missing {
            path: path.to_owned(),
            needed: "the recipe changes its mode or owner ([[file]])".to_owned(),
        })?;
        if let Some(mode) = fix.mode {
            node.mode = u32::from(mode.bits());
        }
        if let Some(owner) = &fix.owner {
            let (user, group) = (owner.user().as_str(), owner.group().as_str());
            let unpinned = |kind, name: &str| StepError::Unpinned {
                file: path.to_owned(),
                kind,
                name: name.to_owned(),
            };
            let uid = accounts.uid(user).ok_or_else(|| unpinned("user", user))?;
            let gid = accounts.gid(group).ok_or_else(|| unpinned("group", group))?;
            node.owner = Arc::new(Owner { uid, gid, user: user.into(), group: group.into() });
        }
    }
    Ok(())
}

/// Writes each file that the recipe makes of others: those that its patterns match, sorted by
/// path, each ending in a newline.
///
/// # Errors
/// When a pattern matches no file, or one cannot be read.
pub fn concatenate(tree: &mut Tree, concats: &[Concat]) -> Result<(), StepError> {
    for concat in concats {
        let mut bytes = Vec::new();
        let mut matched = vec![false; concat.sources.len()];
        for (path, node) in tree.nodes() {
            let Kind::File(content) = &node.kind else { continue };
            let absolute = format!("/{path}");
            let by = concat.sources.iter().position(|pattern| pattern.matches(&absolute));
            if let Some(at) = by {
                matched[at] = true;
                bytes.extend(tree.read_content(content)?);
                if bytes.last() != Some(&b'\n') {
                    bytes.push(b'\n');
                }
            }
        }
        if let Some(at) = matched.iter().position(|matched| !matched) {
            let pattern = concat.sources[at].as_str().to_owned();
            return Err(StepError::Unmatched { what: "[[concat]]", pattern });
        }
        tree.put_file(relative(&concat.path), 0o644, &bytes)?;
    }
    Ok(())
}

/// An empty `/etc/machine-id`: each boot gets its own, in memory, and none is a first boot.
///
/// # Errors
/// When `/etc` is no directory.
pub fn machine_id(tree: &mut Tree) -> Result<(), StepError> {
    Ok(tree.put_file("etc/machine-id", 0o444, b"")?)
}

//! A tool root: the packages of the tool closure, or of a stage, unpacked into one directory of
//! the cache.

use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;

use super::{BuildError, BuildOptions};
use crate::deb::unpack_all;
use crate::fetch::Cache;
use crate::lock::{Closure, Lock, LockedPackage};
use crate::merge::{Package, Tree, merge, write_directory};
use crate::progress::{Progress, Total};
use crate::steps::{Durability, derived};

const KIND: &str = "tools";

/// Version of what is put around the packages: another one finds no root of an older program's.
const LAYOUT: u32 = 2;

/// Where the tool root of a closure is, once it was assembled.
pub(super) fn place(cache: &Cache, key: &Sha256Hash) -> PathBuf {
    cache.root().join(KIND).join(format!("v{LAYOUT}-{key}"))
}

/// Unpacks `packages` and merges them.
pub(super) fn merged(
    packages: &[&LockedPackage],
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Tree, BuildError> {
    let unpacked = unpack_all(&options.cache, packages, options.jobs.get(), progress)?;
    let packages: Vec<Package> = unpacked
        .into_iter()
        .map(|unpacked| Package {
            name: unpacked.package.name.to_string(),
            sha256: unpacked.package.sha256,
            tar: unpacked.tar,
        })
        .collect();
    Ok(merge(&packages, options.jobs.get(), options.order_seed)?)
}

/// Assembles the tool root, or finds it assembled.
pub(super) fn assemble(
    lock: &Lock,
    closure: &Closure,
    options: &BuildOptions,
    key: &Sha256Hash,
    progress: &dyn Progress,
) -> Result<PathBuf, BuildError> {
    let make = |out: &Path| -> Result<(), BuildError> {
        let packages: Vec<&LockedPackage> = lock.closure(closure).collect();
        let mut tree = merged(&packages, options, progress)?;
        // The links of a merged /usr, for the case that base-files is not among the tools.
        for dir in ["bin", "lib", "lib64", "sbin"] {
            tree.put_link(dir, &format!("usr/{dir}"))?;
        }
        // What every program is given: see the module `namespace`.
        for dir in ["proc", "dev", "tmp", "work"] {
            tree.put_directory(dir, 0o755)?;
        }
        let phase = progress.phase("tools", Total::Unknown);
        write_directory(&tree, out, options.jobs.get())?;
        phase.finish(&format!("{} packages assembled", packages.len()));
        Ok(())
    };
    derived(&options.cache, KIND, key, Durability::Synced, make)
}

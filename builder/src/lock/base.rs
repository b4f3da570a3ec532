//! Where the lock of a recipe that extends another starts: at the other's, so that neither kernel nor
//! compiler moves unasked.

use std::path::PathBuf;

use super::kept::Kept;
use super::{Closure, Lock, LockError, ResolveError};
use crate::fetch::Cache;
use crate::recipe::{PackageName, Recipe};

/// The lock of a recipe that another one extends.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) dir: PathBuf,
    recipe: Recipe,
    pub(super) lock: Lock,
}

impl Base {
    /// What a lock of `recipe` keeps of it.
    pub(super) fn kept(
        &self,
        recipe: &Recipe,
        moving: &[PackageName],
        cache: &Cache,
    ) -> Result<Kept, ResolveError> {
        let mut kept = Kept::new(&self.lock, moving, cache)?;
        if self.recipe.kernel.package != recipe.kernel.package {
            kept.let_go(Closure::Kernel);
        }
        if self.recipe.firmware.package != recipe.firmware.package {
            kept.let_go(Closure::Firmware);
        }
        Ok(kept)
    }
}

/// The lock of the nearest recipe that `recipe` extends and that has one.
pub(super) fn base_lock(recipe: &Recipe) -> Result<Option<Base>, ResolveError> {
    for dir in recipe.bases() {
        match Lock::load(dir) {
            Ok(lock) => {
                let (dir, recipe) = (dir.to_owned(), Recipe::load(dir)?);
                return Ok(Some(Base { dir, recipe, lock }));
            }
            Err(LockError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

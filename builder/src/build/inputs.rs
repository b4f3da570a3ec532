//! Everything that a recipe is built from, so that it can be kept and built from again when no
//! mirror has it any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{self, Manifest};

use super::{BuildError, BuildOptions, Sources, plan, read};
use crate::fetch::{CrateSources, fetch, fetch_crates, fetch_sources};
use crate::progress::Progress;
use crate::recipe::{FILE_NAME, Recipe};

/// A file that a recipe is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What it is called in a bundle: `packages/NAME_VERSION_ARCHITECTURE.deb`,
    /// `crates/NAME-VERSION.crate`, `sources/STAGE/NAME`.
    pub path: String,
    /// Its SHA-256.
    pub sha256: Sha256Hash,
}

/// What a recipe is built from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The release's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Packages of every closure and crates of the guest's programs, sorted by path.
    pub files: Vec<Input>,
    /// The recipe, its lock, and `base-1/image.toml` for the recipe that it extends, `base-2` for
    /// the one that this extends: where they lie, by their path in a bundle.
    pub recipe: BTreeMap<String, PathBuf>,
}

/// Names everything that the recipe in `dir` is built from, and does nothing.
///
/// # Errors
/// When recipe, lock or sources are missing or malformed.
pub fn inputs(dir: &Path) -> Result<Inputs, BuildError> {
    Ok(inputs_of(&read(dir)?, dir))
}

/// Refuses the recipe in `dir` if the release of `manifest` was built from something else: another
/// recipe (those that it extends included), lock, overlay, or other sources of the guest's programs.
///
/// # Errors
/// [`BuildError::OtherInput`], or what keeps the recipe from being built at all.
pub fn check_inputs(dir: &Path, manifest: &Manifest) -> Result<(), BuildError> {
    let expected = &manifest.inputs;
    let same = |what, found: Sha256Hash, expected: Sha256Hash| {
        let other = || BuildError::OtherInput { what, dir: dir.to_owned(), found, expected };
        (found == expected).then_some(()).ok_or_else(other)
    };
    // First, as another recipe is why its lock would be missing or not fit.
    let recipe = Recipe::load(dir)?.sha256();
    same("the recipe, with those that it extends,", recipe, expected.recipe_sha256)?;
    let found = plan(dir, manifest.release.platform)?.inputs;
    let manifest::Inputs { lock_sha256, overlay_sha256, guest_sha256, .. } = found;
    same("the lock", lock_sha256, expected.lock_sha256)?;
    same("the overlay, with the patches of stages,", overlay_sha256, expected.overlay_sha256)?;
    same("the source of the guest's programs", guest_sha256, expected.guest_sha256)
}

fn inputs_of(sources: &Sources, dir: &Path) -> Inputs {
    let mut files: BTreeMap<String, Sha256Hash> = BTreeMap::new();
    for package in sources.lock.packages() {
        let (name, version) = (&package.name, &package.version);
        let path = format!("packages/{name}_{version}_{}.deb", package.architecture);
        files.insert(path, package.sha256);
    }
    for one in sources.crates() {
        files.insert(format!("crates/{one}"), one.sha256);
    }
    for source in sources.lock.sources() {
        for file in &source.files {
            files.insert(format!("sources/{}/{}", source.stage, file.name()), file.sha256);
        }
    }
    for stage in &sources.recipe.stages {
        for file in &stage.files {
            files.insert(format!("sources/{}/{}", stage.name, file.name), file.sha256);
        }
    }
    let own = ["image.toml", "image.lock"];
    let own = own.map(|name| (format!("recipe/{name}"), dir.join(name))).into_iter();
    let bases = sources.recipe.bases().enumerate().map(|(index, base)| {
        (format!("recipe/base-{}/{FILE_NAME}", index + 1), base.join(FILE_NAME))
    });
    Inputs {
        name: sources.recipe.name.to_string(),
        version: sources.recipe.version.to_string(),
        files: files.into_iter().map(|(path, sha256)| Input { path, sha256 }).collect(),
        recipe: own.chain(bases).collect(),
    }
}

/// Gets everything that the recipe in `dir` is built from into the cache, whatever of it was
/// made use of already.
///
/// # Errors
/// When something cannot be had.
pub fn fetch_every_input(
    dir: &Path,
    options: &BuildOptions,
    progress: &dyn Progress,
) -> Result<Inputs, BuildError> {
    let sources = read(dir)?;
    let BuildOptions { cache, mirrors, .. } = options;
    fetch(sources.lock.packages(), cache, mirrors, &options.fetch, progress)?;
    let named = sources.recipe.stages.iter().flat_map(|stage| &stage.files);
    fetch_sources(sources.lock.sources(), named, cache, mirrors, &options.fetch, progress)?;
    let from = CrateSources {
        workspace: sources.recipe.programs_source(),
        cargo_home: options.cargo_home.clone(),
        run_cargo: options.run_cargo,
    };
    fetch_crates(&sources.crates(), cache, &from, mirrors, &options.fetch, progress)?;
    Ok(inputs_of(&sources, dir))
}

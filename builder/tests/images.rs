//! Each image of this repository has a recipe that is read, and a lock that was made for it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use casemate_builder::lock::{Closure, Lock};
use casemate_builder::recipe::Recipe;

/// Images whose packages come from an archive that must be reached to lock them. Their READMEs
/// say how.
const UNLOCKED: [&str; 2] = ["gpu-blackwell", "gpu-rtx-pro-6000"];

fn images() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let images: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!images.is_empty());
    images
}

/// The images with a lock.
fn locked() -> impl Iterator<Item = PathBuf> {
    images().into_iter().filter(|dir| !UNLOCKED.iter().any(|name| dir.ends_with(name)))
}

#[test]
fn what_is_not_locked_says_what_to_do() {
    for dir in images().into_iter().filter(|dir| UNLOCKED.iter().any(|name| dir.ends_with(name))) {
        let recipe = Recipe::load(&dir).unwrap();
        assert!(recipe.archive.values().any(|archive| archive.flat), "{}", dir.display());
        let error = Lock::load(&dir).unwrap_err().to_string();
        assert!(error.contains("casemate image lock"), "{error}");
        let readme = std::fs::read_to_string(dir.join("README.md")).unwrap();
        assert!(readme.contains("casemate image lock"), "{}", dir.display());
    }
}

#[test]
fn recipes_and_locks_belong_together() {
    for dir in locked() {
        let recipe = Recipe::load(&dir).unwrap();
        let lock = Lock::load(&dir).unwrap();
        lock.check_made_for(&recipe).unwrap();
        for closure in Closure::of(&recipe) {
            assert!(lock.closure(&closure).next().is_some(), "{}: {closure}", dir.display());
        }
        let text = std::fs::read_to_string(dir.join("image.lock")).unwrap();
        assert_eq!(text, lock.to_text(), "the lock is as casemate writes it");
    }
}

#[test]
fn no_excluded_package_is_locked_for_the_guest() {
    for dir in locked() {
        let recipe = Recipe::load(&dir).unwrap();
        let lock = Lock::load(&dir).unwrap();
        for excluded in &recipe.guest.exclude {
            let found = lock.closure(&Closure::Guest).find(|p| p.name == excluded.package);
            assert!(found.is_none(), "{}: {}", dir.display(), excluded.package);
        }
    }
}

#[test]
fn no_recipe_or_lock_names_a_host() {
    for dir in images() {
        for file in ["image.toml", "image.lock"] {
            let Ok(text) = std::fs::read_to_string(dir.join(file)) else { continue };
            assert!(!text.contains("://"), "{}/{file}", dir.display());
        }
    }
}

/// What is compiled against a kernel is compiled against the very one that the image boots.
#[test]
fn headers_and_kernel_are_one_version() {
    for dir in locked() {
        let recipe = Recipe::load(&dir).unwrap();
        let lock = Lock::load(&dir).unwrap();
        // A kernel that a stage makes gives its symbols to the stages after it.
        let Some(kernel) = lock.closure(&Closure::Kernel).next() else { continue };
        let release = kernel.name.as_str().strip_prefix("linux-image-").unwrap();
        for stage in recipe.stages.iter().filter(|stage| stage.makes_modules()) {
            let closure = Closure::Stage(stage.name.clone());
            let headers = format!("linux-headers-{release}");
            let found = lock.closure(&closure).find(|p| p.name.as_str() == headers);
            assert_eq!(found.unwrap().version, kernel.version, "{}", dir.display());
        }
    }
}

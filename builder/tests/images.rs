//! Each image of this repository has a recipe that is read, and a lock that was made for it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use casemate_builder::lock::{Closure, Lock};
use casemate_builder::recipe::Recipe;

fn images() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images");
    let images: Vec<PathBuf> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!images.is_empty());
    images
}

#[test]
fn recipes_and_locks_belong_together() {
    for dir in images() {
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
    for dir in images() {
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
            let text = std::fs::read_to_string(dir.join(file)).unwrap();
            assert!(!text.contains("://"), "{}/{file}", dir.display());
        }
    }
}

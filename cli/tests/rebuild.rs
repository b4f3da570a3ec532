//! `casemate image rebuild`, up to where it would build: whether a recipe is the release's own.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../launcher/tests/it/fixture.rs"]
#[expect(dead_code, reason = "the launcher's own tests use all of it")]
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_builder::build;
use casemate_builder::recipe::Recipe;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::Inputs;
use casemate_measurements::platform::Platform;
use fixture::Contents;

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../images").canonicalize().unwrap()
}

/// What a release of `recipe` says that it was built from; of one without a lock, the recipe alone.
fn inputs(recipe: &Path) -> Inputs {
    let other = Sha256Hash::of(b"");
    build::plan(recipe, Platform::Snp).map(|plan| plan.inputs).unwrap_or(Inputs {
        recipe_sha256: Recipe::load(recipe).unwrap().sha256(),
        lock_sha256: other,
        overlay_sha256: other,
        guest_sha256: other,
    })
}

/// What `image rebuild` says of a release of `inputs` and `recipe`, where nothing can be fetched.
fn rebuild(inputs: Inputs, recipe: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let release = dir.path().join("release");
    let mut manifest = Contents::unbootable(Platform::Snp).write(&release);
    manifest.inputs = inputs;
    fs::write(release.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate"));
    command.args(["image", "rebuild", "--offline"]).arg(&release).arg("--recipe").arg(recipe);
    command.arg("--output").arg(dir.path().join("again"));
    let output = command.env("CASEMATE_CACHE", dir.path().join("cache")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn every_image_is_taken_for_what_its_release_was_built_from() {
    for entry in fs::read_dir(images()).unwrap() {
        let recipe = entry.unwrap().path();
        let said = rebuild(inputs(&recipe), &recipe);
        let locked = recipe.join("image.lock").exists();
        // It goes on to what it cannot do here.
        let next =
            if locked { "not in the cache, and fetching offline" } else { "there is no lock" };
        assert!(said.contains(next), "{}: {said}", recipe.display());
    }
}

/// Of cpu-sandbox: a recipe that extends it, and one that extends that, elsewhere.
fn elsewhere(dir: &Path, comment: &str) -> PathBuf {
    let base = images().join("cpu-sandbox");
    let write = |folder: &str, name: &str, extends: &str| {
        let recipe = dir.join(folder);
        fs::create_dir_all(&recipe).unwrap();
        fs::copy(base.join("image.lock"), recipe.join("image.lock")).unwrap();
        let head = format!("# {comment}\nschema = 1\nextends = \"{extends}\"\n");
        let text = format!("{head}name = \"{name}\"\nversion = \"1.0.0\"\n");
        fs::write(recipe.join("image.toml"), text).unwrap();
        recipe
    };
    write("a/deep/middle", "middle", base.to_str().unwrap());
    write("mine", "mine", "../a/deep/middle")
}

#[test]
fn another_recipe_lock_or_file_is_named() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (recipe, other) = (elsewhere(one.path(), "one"), elsewhere(two.path(), "two"));
    let own = inputs(&recipe);
    assert!(rebuild(own.clone(), &recipe).contains("not in the cache"));
    // The text of the recipe itself is the same, that of the one which it extends is not.
    fs::copy(recipe.join("image.toml"), other.join("image.toml")).unwrap();
    let said = rebuild(own.clone(), &other);
    assert!(said.contains("the recipe, with those that it extends,"), "{said}");
    assert!(said.contains(&own.recipe_sha256.to_string()), "{said}");
    let wrong = Sha256Hash::of(b"other");
    for (what, inputs) in [
        ("the lock of", Inputs { lock_sha256: wrong, ..own.clone() }),
        ("the overlay, with the patches", Inputs { overlay_sha256: wrong, ..own.clone() }),
        ("the source of the guest's programs", Inputs { guest_sha256: wrong, ..own.clone() }),
    ] {
        let said = rebuild(inputs, &recipe);
        assert!(said.contains(what) && said.contains(&wrong.to_string()), "{said}");
    }
}

//! The reproducibility claim, and what happens to a build that is interrupted, as tests of the
//! binary.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod interrupted;
mod published;
mod stand_ins;
mod twice;

use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_measurements::manifest::{FILE_NAME, artifact};
use casemate_tests::{binary, casemate, expect_code, recipe, workspace};

/// Everything that a release directory holds.
fn files() -> impl Iterator<Item = &'static str> {
    artifact::ALL.into_iter().chain([FILE_NAME])
}

/// The cache that builds use by default.
fn cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("CASEMATE_CACHE").map_or_else(
        || {
            set("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")))
                .unwrap()
                .join("casemate")
        },
        PathBuf::from,
    )
}

/// A copy of the parts `names` of the default cache.
fn copy_cache(to: &Path, names: &[&str]) {
    std::fs::create_dir_all(to).unwrap();
    for name in names {
        let from = cache().join(name);
        assert!(from.is_dir(), "{} is missing: was the release built?", from.display());
        let mut command = Command::new("cp");
        let _ = expect_code(0, command.args(["-a", "--reflink=auto"]).arg(from).arg(to));
    }
}

/// What a build reads: binary, recipes and the sources of the guest's programs, elsewhere.
fn move_away(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut command = Command::new("cp");
    command.arg("-r");
    for name in ["Cargo.toml", "Cargo.lock", "measurements", "guest"] {
        command.arg(workspace().join(name));
    }
    let _ = expect_code(0, command.arg(to));
    let images = workspace().join("images");
    let _ = expect_code(0, Command::new("cp").arg("-r").arg(images).arg(to));
    std::fs::copy(binary(), to.join("casemate")).unwrap();
}

/// The recipe in a folder of its own, with a text of it replaced.
fn changed_recipe(to: &Path, from: &str, by: &str) -> PathBuf {
    let copy = to.join("changed");
    let _ = expect_code(0, Command::new("cp").arg("-r").arg(recipe()).arg(&copy));
    let path = copy.join("image.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from:?} is not in the recipe");
    // From the copy to the file system's root, then to the workspace.
    let up = "../".repeat(copy.canonicalize().unwrap().components().count() - 1);
    let source = workspace().canonicalize().unwrap().display().to_string();
    let source = format!("source = \"{up}{}\"", source.trim_start_matches('/'));
    let text = text.replacen(from, by, 1).replace("source = \"../..\"", &source);
    std::fs::write(path, text).unwrap();
    copy
}

#[test]
fn a_malformed_recipe_is_refused_with_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = changed_recipe(dir.path(), "epoch = ", "epok = ");
    let line = std::fs::read_to_string(recipe.join("image.toml"))
        .unwrap()
        .lines()
        .position(|line| line.starts_with("epok"))
        .unwrap()
        + 1;
    let mut command = casemate(["image", "build", "--plan"]);
    let output = expect_code(1, command.arg(&recipe));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("image.toml:{line}")) && said.contains("epok"), "{said}");
}

#[test]
fn offline_without_a_cache_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = casemate(["image", "build", "--offline"]);
    command.arg(recipe()).arg("--output").arg(dir.path().join("release"));
    let output = expect_code(1, command.env("CASEMATE_CACHE", dir.path().join("cache")));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("base-files"), "{said}");
    assert!(!dir.path().join("release").exists());
}

#[test]
fn usage_ends_with_one_and_help_with_zero() {
    let _ = expect_code(1, &mut casemate(["image", "build", "--nonsense"]));
    let _ = expect_code(1, &mut casemate(["verify", "nowhere"]));
    let _ = expect_code(0, &mut casemate(["--help"]));
    let output = expect_code(0, &mut casemate(["completions", "bash"]));
    assert!(String::from_utf8(output.stdout).unwrap().contains("simulated-root"));
}

//! Compiles the module with the workspace's own toolchain.
//!
//! Its standard library for WebAssembly comes from `rustup target add wasm32-unknown-unknown`.
//! Where rustup cannot be reached it is compiled from the sources of the same version as Debian
//! packages them: the compiler refuses a library of any other version, and those are the only
//! ones of this version that a Debian mirror has.

use std::path::{Path, PathBuf};
use std::process::Command;

use casemate_builder::archive::{MirrorSettings, Mirrors};
use casemate_builder::fetch::{Cache, FetchOptions, fetch};
use casemate_builder::lock::LockedPackage;
use casemate_builder::progress::Silent;
use casemate_tests::{expect_code, scratch, workspace};

const TARGET: &str = "wasm32-unknown-unknown";

/// Compiles the module and says where it is.
///
/// # Errors
/// When there is no standard library for WebAssembly to be had.
pub(crate) fn compile() -> Result<PathBuf, String> {
    let target = scratch().join("wasm");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--locked", "--release", "--package", "casemate-wasm"])
        .args(["--target", TARGET])
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", &target);
    if !is_installed() {
        cargo
            .args(["-Zbuild-std=std,panic_abort"])
            // Unlocks the flag in a stable release, as Debian and others do to build theirs.
            .env("RUSTC_BOOTSTRAP", "1")
            // Where that flag finds the sources, instead of below the toolchain.
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", sources(&scratch())?);
    }
    let _ = expect_code(0, &mut cargo);
    Ok(target.join(TARGET).join("release/casemate_wasm.wasm"))
}

/// Whether the toolchain has a standard library for WebAssembly.
fn is_installed() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(workspace());
    let output = expect_code(0, &mut rustc);
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).is_dir()
}

/// The sources of the standard library, fetched by hash.
fn sources(parent: &Path) -> Result<PathBuf, String> {
    let package: LockedPackage = toml::from_str(include_str!("rust-src.toml")).unwrap();
    let version = package.version.to_string();
    let version = version.split('+').next().unwrap();
    let pinned = std::fs::read_to_string(workspace().join("rust-toolchain.toml")).unwrap();
    assert!(pinned.contains(&format!("\"{version}\"")), "rust-src.toml is of another version");

    let place = parent.join(format!("rust-src-{version}"));
    let library = place.join(format!("usr/src/rustc-{version}/library"));
    if library.is_dir() {
        return Ok(library);
    }
    let cache = Cache::default_root(|name| std::env::var_os(name)).unwrap();
    let cache = Cache::open(&cache).unwrap();
    let settings = MirrorSettings {
        variable: std::env::var("CASEMATE_MIRRORS").ok(),
        apt_dir: Some("/etc/apt".into()),
        ..MirrorSettings::default()
    };
    let mirrors = Mirrors::discover(&settings).unwrap();
    fetch([&package], &cache, &mirrors, &FetchOptions::default(), &Silent).map_err(|error| {
        format!(
            "no standard library for {TARGET}: `rustup target add {TARGET}` makes this work \
             without Debian's, which cannot be had: {error}"
        )
    })?;
    let new = tempfile::tempdir_in(parent).unwrap();
    let mut unpack = Command::new("sh");
    unpack
        .args(["-euc", "dpkg-deb --fsys-tarfile \"$1\" | tar -x -C \"$2\" \"$3\"", "sh"])
        .arg(cache.blob(package.sha256))
        .arg(new.path())
        .arg(format!("./usr/src/rustc-{version}/library"));
    let _ = expect_code(0, &mut unpack);
    std::fs::rename(new.keep(), &place).unwrap();
    Ok(library)
}

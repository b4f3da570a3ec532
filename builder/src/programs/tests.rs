use super::*;

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let at = dir.join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, text).unwrap();
    }
}

const ROOT: &str = "[workspace]\nmembers = [\"shared\", \"inside\", \"other\"]\n\
    [workspace.package]\nversion = \"1.0.0\"\n\
    [workspace.dependencies]\nshared = { path = \"shared\" }\nleaf = \"1\"\nunused = \"2\"\n\
    [profile.release]\nlto = \"thin\"\n";

const LOCK: &str = "version = 4\n\
    [[package]]\nname = \"inside\"\nversion = \"1.0.0\"\ndependencies = [\"leaf\", \"shared\"]\n\
    [[package]]\nname = \"leaf\"\nversion = \"1.2.0\"\nsource = \"registry+x\"\n\
    checksum = \"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\"\n\
    [[package]]\nname = \"other\"\nversion = \"1.0.0\"\ndependencies = [\"unused\"]\n\
    [[package]]\nname = \"shared\"\nversion = \"1.0.0\"\n\
    [[package]]\nname = \"unused\"\nversion = \"2.0.0\"\nsource = \"registry+x\"\n\
    checksum = \"3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d\"\n";

fn sample() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("Cargo.toml", ROOT),
            ("Cargo.lock", LOCK),
            ("shared/Cargo.toml", "[package]\nname = \"shared\"\n"),
            ("shared/src/lib.rs", "pub fn f() {}"),
            (
                "inside/Cargo.toml",
                "[package]\nname = \"inside\"\n[dependencies]\nleaf.workspace = true\nshared.workspace = true\n[dev-dependencies]\nunused.workspace = true\n[[test]]\nname = \"not_taken\"\n",
            ),
            ("inside/src/lib.rs", ""),
            ("inside/src/bin/one.rs", "fn main() {}"),
            ("inside/src/bin/two/main.rs", "fn main() {}"),
            ("inside/tests/not_taken.rs", "x"),
            ("inside/src/.lib.rs.swp", "x"),
            ("other/Cargo.toml", "[package]\nname = \"other\"\n"),
            ("other/src/lib.rs", ""),
        ],
    );
    dir
}

#[test]
fn a_workspace_is_reduced_to_what_a_package_needs() {
    let dir = sample();
    let workspace = Workspace::read(dir.path(), "inside").unwrap();
    assert_eq!(workspace.binaries(), ["one", "two"]);
    assert_eq!(workspace.crates().len(), 1);
    let out = dir.path().join("out");
    workspace.write(&out, PROFILE).unwrap();
    let root: toml::Table =
        toml::from_str(&std::fs::read_to_string(out.join("Cargo.toml")).unwrap()).unwrap();
    let names = |table: &toml::Value| -> Vec<String> {
        table.as_table().unwrap().keys().cloned().collect()
    };
    assert_eq!(root["workspace"]["members"].as_array().unwrap().len(), 2);
    assert_eq!(names(&root["workspace"]["dependencies"]), ["leaf", "shared"]);
    assert_eq!(root["profile"]["release"]["lto"].as_str(), Some("fat"));
    let lock = std::fs::read_to_string(out.join("Cargo.lock")).unwrap();
    assert!(lock.contains("\"leaf\"") && !lock.contains("unused") && !lock.contains("other"));
    let inside = std::fs::read_to_string(out.join("inside/Cargo.toml")).unwrap();
    assert!(inside.contains("leaf") && !inside.contains("test") && !inside.contains("unused"));
    assert!(out.join("inside/src/bin/one.rs").exists());
    assert!(!out.join("inside/tests").exists() && !out.join("inside/src/.lib.rs.swp").exists());
}

#[test]
fn only_what_matters_changes_the_digest() {
    let dir = sample();
    let digest = || Workspace::read(dir.path(), "inside").unwrap().digest();
    let before = digest();
    write(dir.path(), &[("other/src/lib.rs", "changed"), ("inside/tests/x.rs", "new")]);
    let unused = ROOT.replace("unused = \"2\"", "unused = \"3\"").replace("thin", "off");
    write(dir.path(), &[("Cargo.toml", &unused)]);
    assert_eq!(digest(), before);
    write(dir.path(), &[("shared/src/lib.rs", "pub fn g() {}")]);
    let after = digest();
    assert_ne!(after, before);
    write(dir.path(), &[("Cargo.lock", &LOCK.replace("ca97", "ca98"))]);
    assert_ne!(digest(), after);

    let workspace = Workspace::read(dir.path(), "inside").unwrap();
    let (a, b) = (Sha256Hash::of(b"a"), Sha256Hash::of(b"b"));
    for linkage in [Linkage::Static, Linkage::Dynamic] {
        assert_ne!(key(&workspace, linkage, &a), key(&workspace, linkage, &b));
    }
    let keys = [Linkage::Static, Linkage::Dynamic].map(|linkage| key(&workspace, linkage, &a));
    assert_ne!(keys[0], keys[1]);
}

#[test]
fn what_is_missing_is_named() {
    let dir = sample();
    let error = Workspace::read(dir.path(), "gone").unwrap_err().to_string();
    assert!(error.contains("Cargo.lock") && error.contains("gone"), "{error}");
    let error = Workspace::read(&dir.path().join("nowhere"), "inside").unwrap_err();
    assert!(matches!(error, ProgramError::File { .. }), "{error}");
    write(dir.path(), &[("Cargo.toml", "[workspace\n")]);
    let error = Workspace::read(dir.path(), "inside").unwrap_err();
    assert!(matches!(error, ProgramError::Manifest { .. }), "{error}");
}

#[test]
fn a_damaged_crate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    let entry = LockedCrate {
        name: "leaf".to_owned(),
        version: "1.2.0".to_owned(),
        sha256: Sha256Hash::of(b"a"),
    };
    std::fs::write(cache.blob(entry.sha256), b"b").unwrap();
    let error = vendor(&dir.path().join("vendor"), &[entry], &cache).unwrap_err();
    assert!(matches!(error, ProgramError::Checksum { .. }), "{error}");
}

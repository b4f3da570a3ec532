//! Holds the table of docs/architecture.md: which crate may depend on which.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Every workspace crate with the workspace crates it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("casemate-measurements", &[]),
    ("casemate-builder", &["casemate-measurements", "casemate-web"]),
    ("casemate-launcher", &["casemate-measurements"]),
    ("casemate-validator", &["casemate-measurements", "casemate-web"]),
    ("casemate-registry", &["casemate-measurements", "casemate-web"]),
    // The registry's own module, with the memory of the other one.
    ("casemate-registry-wasm", &["casemate-measurements", "casemate-registry", "casemate-wasm"]),
    ("casemate-guest", &["casemate-measurements"]),
    // The guest's lib is for its tests: they play the whole sequence.
    ("casemate-nvml", &["casemate-guest", "casemate-measurements"]),
    (
        "casemate-cli",
        &[
            "casemate-builder",
            "casemate-launcher",
            "casemate-measurements",
            "casemate-registry",
            "casemate-validator",
        ],
    ),
    (
        "casemate-tests",
        &[
            "casemate-builder",
            "casemate-guest",
            "casemate-launcher",
            "casemate-measurements",
            "casemate-validator",
            "casemate-wasm",
        ],
    ),
    ("casemate-wasm", &["casemate-measurements"]),
    ("casemate-web", &[]),
];

/// The workspace crates that each workspace crate names in any kind of dependency.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let of = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap();
        all.iter().map(name).filter(|name| name.starts_with("casemate-")).collect()
    };
    packages.iter().map(|package| (name(package), of(package))).collect()
}

#[test]
fn crates_depend_only_downwards() {
    let found = dependencies();
    let known: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found.keys().cloned().collect::<BTreeSet<_>>(), known, "a crate came or went");
    for (name, allowed) in ALLOWED {
        for dependency in &found[*name] {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn measurements_is_pure() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../measurements/src");
    let mut folders = vec![std::path::PathBuf::from(source)];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                seen += 1;
                let text = std::fs::read_to_string(&path).unwrap();
                // Tests at the end of a file may read vectors; what ships may not.
                let shipped = text.split("#[cfg(test)]").next().unwrap();
                for word in
                    ["std::fs", "std::process", "std::net", "std::env", "SystemTime", "Instant"]
                {
                    let tests_only = path.components().any(|part| part.as_os_str() == "tests")
                        || path
                            .file_stem()
                            .is_some_and(|stem| stem == "tests" || stem == "vectors");
                    assert!(tests_only || !shipped.contains(word), "{}: {word}", path.display());
                }
            }
        }
    }
    assert!(seen > 8, "only {seen} files found below {source}");
}

//! The bill of materials: which packages and crates the release's files are made of, as
//! `CycloneDX` 1.6 JSON. It has no time and no random number, so it is as reproducible as they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use casemate_measurements::canonical::{self, CanonicalError};
use casemate_measurements::hash::Sha256Hash;
use serde_json::{Value, json};

use crate::fetch::LockedCrate;
use crate::lock::{Closure, Lock, LockedFile, LockedPackage, LockedSource};
use crate::recipe::Recipe;

/// Licences by package name, as far as packages say them in a form for machines.
pub type Licences = BTreeMap<String, Vec<String>>;

/// Writes the bill of materials.
///
/// # Errors
/// Never for values of these types; the writer's error is passed on.
pub fn write(
    recipe: &Recipe,
    lock: &Lock,
    crates: &[LockedCrate],
    licences: &Licences,
) -> Result<Vec<u8>, CanonicalError> {
    let shipped = |package: &&LockedPackage| {
        [Closure::Guest, Closure::Kernel, Closure::Firmware].iter().any(|c| package.is_in(c))
    };
    let mut components: Vec<Value> = lock
        .packages()
        .iter()
        .filter(shipped)
        .map(|package| debian(package, licences.get(package.name.as_str())))
        .collect();
    components.extend(crates.iter().map(cargo));
    let is_tool = |package: &&LockedPackage| package.closures.iter().any(Closure::is_tools);
    let tools: Vec<Value> =
        lock.packages().iter().filter(is_tool).map(|package| debian(package, None)).collect();
    components.extend(lock.sources().iter().map(source));
    let name = format!("{}-{}", recipe.name, recipe.version);
    canonical::to_vec(&json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "operating-system",
                "bom-ref": name,
                "name": recipe.name.as_str(),
                "version": recipe.version.as_str(),
            },
            "tools": { "components": tools },
        },
        "components": components,
    }))
}

fn hashes(sha256: Sha256Hash) -> Value {
    json!([{ "alg": "SHA-256", "content": sha256 }])
}

fn debian(package: &LockedPackage, licences: Option<&Vec<String>>) -> Value {
    let LockedPackage { name, version, architecture, suite, sha256, .. } = package;
    let purl = format!(
        "pkg:deb/debian/{}@{}?arch={architecture}&distro={suite}",
        encoded(name.as_str()),
        encoded(version.as_str())
    );
    let closures: Vec<Value> = package
        .closures
        .iter()
        .map(|closure| json!({ "name": "casemate:closure", "value": closure.name() }))
        .collect();
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": name.as_str(),
        "version": version.as_str(),
        "hashes": hashes(*sha256),
        "properties": closures,
    });
    if let Some(licences) = licences {
        let named = licences.iter().map(|name| json!({ "license": { "name": name } }));
        component["licenses"] = named.collect();
    }
    component
}

/// A source package that a stage is made from.
fn source(source: &LockedSource) -> Value {
    let LockedSource { name, version, suite, files, stage, .. } = source;
    let purl = format!(
        "pkg:deb/debian/{}@{}?arch=source&distro={suite}",
        encoded(name.as_str()),
        encoded(version.as_str())
    );
    let of = |file: &LockedFile| json!({ "alg": "SHA-256", "content": file.sha256 });
    json!({
        "type": "library",
        "bom-ref": format!("{purl}#{stage}"),
        "purl": purl,
        "name": name.as_str(),
        "version": version.as_str(),
        "hashes": files.iter().map(of).collect::<Vec<_>>(),
        "properties": [{ "name": "casemate:closure", "value": format!("stage:{stage}") }],
    })
}

fn cargo(entry: &LockedCrate) -> Value {
    let purl = format!("pkg:cargo/{}@{}", encoded(&entry.name), encoded(&entry.version));
    json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": entry.name,
        "version": entry.version,
        "hashes": hashes(entry.sha256),
    })
}

/// Percent-encodes what a package URL does not take as it is.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The short names of the licences in a copyright file, if it is written for machines (DEP 5);
/// sorted, each once.
#[must_use]
pub fn licences_of(copyright: &str) -> Option<Vec<String>> {
    let first = copyright.trim_start().lines().next()?;
    let (key, format) = first.split_once(':')?;
    if !key.eq_ignore_ascii_case("format") || !format.contains("copyright-format") {
        return None;
    }
    let names = copyright.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        let plain = !value.is_empty() && value.len() <= 200 && !value.chars().any(char::is_control);
        (key == "License" && plain).then(|| value.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_urls_encode_versions() {
        assert_eq!(encoded("1:2.7.6+dfsg-1~deb13u1"), "1%3A2.7.6%2Bdfsg-1~deb13u1");
    }

    #[test]
    fn licences_come_from_files_written_for_machines() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
                    Files: *\nLicense: GPL-2+\n text\n\nFiles: x\nLicense: MIT\n\nLicense: GPL-2+\n";
        assert_eq!(licences_of(text).unwrap(), ["GPL-2+", "MIT"]);
        assert_eq!(licences_of("This is free software.\nLicense: x\n"), None);
        assert_eq!(licences_of(""), None);
    }

    #[test]
    fn a_crate_is_named_by_its_checksum() {
        let entry = LockedCrate {
            name: "ring".to_owned(),
            version: "0.17.14".to_owned(),
            sha256: Sha256Hash::of(b"ring"),
        };
        let component = cargo(&entry);
        assert_eq!(component["purl"], "pkg:cargo/ring@0.17.14");
        assert_eq!(component["hashes"][0]["content"], Sha256Hash::of(b"ring").to_string());
    }
}

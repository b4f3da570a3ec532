//! What is in a release, and what changed since another: package by package, from the bills of
//! materials.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::artifact;
use casemate_registry::release::Release;
use serde::{Deserialize, Serialize};

/// As much of `CycloneDX` as is needed here.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Sbom {
    components: Vec<Component>,
}

#[derive(Debug, Deserialize)]
struct Component {
    name: String,
    version: String,
    #[serde(default)]
    purl: String,
}

/// Versions by kind and name: Debian knows packages and crates of one name.
type Packages = BTreeMap<(String, String), BTreeSet<String>>;

/// Reads the bill of materials of a release, which must be the manifest's.
pub(super) fn read(release: &Release) -> anyhow::Result<Packages> {
    let bytes = release.sbom()?;
    let found = Sha256Hash::of(&bytes);
    let expected = release.manifest().artifact(artifact::SBOM).map(|file| file.sha256);
    anyhow::ensure!(
        expected == Some(found),
        "{} has SHA-256 {found}, which is not the manifest's",
        artifact::SBOM
    );
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> anyhow::Result<Packages> {
    let sbom: Sbom = serde_json::from_slice(bytes)
        .with_context(|| format!("{} is no bill of materials", artifact::SBOM))?;
    let mut packages = Packages::new();
    for Component { name, version, purl } in sbom.components {
        let kind = purl.strip_prefix("pkg:").and_then(|rest| rest.split_once('/'));
        let kind = kind.map_or("?", |(kind, _)| kind).to_owned();
        packages.entry((kind, name)).or_default().insert(version);
    }
    Ok(packages)
}

/// A package that is not the same in two releases.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Changed {
    /// `deb` or `cargo`.
    pub(super) kind: String,
    pub(super) name: String,
    /// Its version before; `None` where it was not there.
    pub(super) before: Option<String>,
    /// Its version now; `None` where it is not there any more.
    pub(super) now: Option<String>,
}

/// What changed, sorted.
pub(super) fn changes(before: &Packages, now: &Packages) -> Vec<Changed> {
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let text = |versions: Option<&BTreeSet<String>>| {
        versions.map(|set| set.iter().cloned().collect::<Vec<_>>().join(", "))
    };
    let changed = names.into_iter().filter(|name| before.get(name) != now.get(name));
    let changed = changed.map(|key| Changed {
        kind: key.0.clone(),
        name: key.1.clone(),
        before: text(before.get(key)),
        now: text(now.get(key)),
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_go_and_move() {
        let sbom = |components: &[(&str, &str, &str)]| {
            let components: Vec<_> = components
                .iter()
                .map(|(kind, name, version)| {
                    let purl = format!("pkg:{kind}/{name}@{version}");
                    serde_json::json!({ "name": name, "version": version, "purl": purl })
                })
                .collect();
            let json = serde_json::json!({ "components": components });
            parse(json.to_string().as_bytes()).unwrap()
        };
        let before = sbom(&[("deb", "a", "1"), ("deb", "b", "1"), ("cargo", "c", "1")]);
        let now = sbom(&[
            ("deb", "a", "1"),
            ("deb", "b", "2"),
            ("deb", "c", "1"),
            ("cargo", "c", "1"),
            ("cargo", "c", "2"),
        ]);
        let lines: Vec<String> = changes(&before, &now)
            .iter()
            .map(|c| format!("{} {} {:?} {:?}", c.kind, c.name, c.before, c.now))
            .collect();
        assert_eq!(
            lines,
            [
                "cargo c Some(\"1\") Some(\"1, 2\")",
                "deb b Some(\"1\") Some(\"2\")",
                "deb c None Some(\"1\")",
            ]
        );
        assert!(changes(&now, &now).is_empty());
        assert!(parse(b"[").is_err());
    }
}

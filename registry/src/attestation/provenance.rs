//! SLSA provenance (v1): from what a release was built. Everything but the builder follows from
//! the manifest and the bill of materials, so a reader computes it again and compares.

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Manifest, artifact};
use serde::Deserialize;
use serde_json::{Value, json};

use super::statement::{PROVENANCE_PREDICATE, Statement, StatementError, subjects};

/// How releases are built: from a recipe and a lock, by `casemate image build`.
pub const BUILD_TYPE: &str = "urn:casemate:image-build:v1";
/// The builder's name where nobody gives one.
pub const LOCAL_BUILDER: &str = "urn:casemate:builder:local";

/// Why no provenance can be stated.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// The bill of materials is not the release's.
    #[error("{} has SHA-256 {found}, expected {expected} by the manifest", artifact::SBOM)]
    OtherSbom {
        /// Its hash.
        found: Sha256Hash,
        /// The manifest's.
        expected: Sha256Hash,
    },
    /// The bill of materials is malformed.
    #[error("{} is no bill of materials of a release", artifact::SBOM)]
    Sbom(#[source] serde_json::Error),
    /// The statement cannot be made.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// As much of `CycloneDX` as is needed here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Sbom {
    metadata: Metadata,
    components: Vec<Component>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Metadata {
    tools: Tools,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Deserialize)]
struct Component {
    purl: String,
    hashes: Vec<HashEntry>,
}

#[derive(Deserialize)]
struct HashEntry {
    alg: String,
    content: Sha256Hash,
}

/// What was built from what: the part of the provenance that the release determines.
///
/// # Errors
/// When `sbom` is not the release's or is malformed.
pub fn build_definition(manifest: &Manifest, sbom: &[u8]) -> Result<Value, ProvenanceError> {
    let found = Sha256Hash::of(sbom);
    if let Some(file) = manifest.artifact(artifact::SBOM)
        && file.sha256 != found
    {
        return Err(ProvenanceError::OtherSbom { found, expected: file.sha256 });
    }
    let sbom: Sbom = serde_json::from_slice(sbom).map_err(ProvenanceError::Sbom)?;
    let inputs = &manifest.inputs;
    let named = [
        ("image.toml", inputs.recipe_sha256),
        ("image.lock", inputs.lock_sha256),
        ("rootfs (digest of its files)", inputs.overlay_sha256),
        ("sources of the guest's programs (digest of the files)", inputs.guest_sha256),
    ];
    let named =
        named.into_iter().map(|(name, hash)| json!({"name": name, "digest": {"sha256": hash}}));
    let packages = sbom.components.iter().chain(&sbom.metadata.tools.components);
    let packages = packages.filter_map(|component| {
        let hash = component.hashes.iter().find(|hash| hash.alg == "SHA-256")?;
        Some(json!({"uri": component.purl, "digest": {"sha256": hash.content}}))
    });
    let release = &manifest.release;
    Ok(json!({
        "buildType": BUILD_TYPE,
        "externalParameters": {
            "image": release.name,
            "version": release.version,
            "platform": release.platform,
        },
        "internalParameters": {},
        "resolvedDependencies": named.chain(packages).collect::<Vec<_>>(),
    }))
}

/// The provenance of a release, as whoever calls himself `builder` (a URI) states it.
///
/// # Errors
/// As [`build_definition`].
pub fn provenance(
    manifest: &Manifest,
    sbom: &[u8],
    builder: &str,
) -> Result<Statement, ProvenanceError> {
    let predicate = json!({
        "buildDefinition": build_definition(manifest, sbom)?,
        "runDetails": {
            "builder": { "id": builder, "version": { "casemate": env!("CARGO_PKG_VERSION") } },
        },
    });
    Ok(Statement::new(&subjects(manifest)?, PROVENANCE_PREDICATE, predicate))
}

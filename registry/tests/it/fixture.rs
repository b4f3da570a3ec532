//! A release that is small and complete, and policies over who signs it.

use std::fs;
use std::path::{Path, PathBuf};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Artifact, Manifest, artifact};
use casemate_measurements::platform::Platform;
use casemate_registry::attestation::LOCAL_BUILDER;
use casemate_registry::keys::TokenDefaults;
use casemate_registry::release::{Depth, Release, Verified};
use casemate_registry::sign::{self, Signer, SigningKey};
use casemate_registry::verify::{Policy, PolicyError};
use serde_json::json;

use crate::{ovmf, release};

/// The bill of materials of a release with `version` of one package.
pub(crate) fn sbom(version: &str) -> Vec<u8> {
    let component = |name: &str, version: &str| {
        json!({
            "type": "library",
            "name": name,
            "version": version,
            "purl": format!("pkg:deb/debian/{name}@{version}?arch=amd64&distro=trixie"),
            "hashes": [{ "alg": "SHA-256", "content": Sha256Hash::of(version.as_bytes()) }],
        })
    };
    let sbom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "metadata": { "tools": { "components": [component("gcc", "14.2.0")] } },
        "components": [component("bash", version), component("zlib1g", "1.3.1")],
    });
    serde_json::to_vec(&sbom).unwrap()
}

/// Writes a release.
pub(crate) fn write(dir: &Path, version: &str) -> Manifest {
    let mut manifest = release::manifest(Platform::Snp);
    version.clone_into(&mut manifest.release.version);
    let sbom = sbom(version);
    let file = Artifact { sha256: Sha256Hash::of(&sbom), size: sbom.len() as u64 };
    manifest.artifacts.insert(artifact::SBOM.to_owned(), file);
    let firmware = ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS));
    let root = vec![7; 3 * 4096];
    let files: [(&str, &[u8]); 6] = [
        (artifact::CMDLINE, manifest.boot.cmdline.as_bytes()),
        (artifact::FIRMWARE, &firmware),
        (artifact::INITRD, b"initrd"),
        (artifact::ROOT, &root),
        (artifact::SBOM, &sbom),
        (artifact::KERNEL, b"kernel"),
    ];
    fs::create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    fs::write(dir.join("manifest.json"), manifest.to_bytes().unwrap()).unwrap();
    manifest
}

/// A folder with a release and keys.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("release"), "0.1.0");
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn release(&self) -> Release {
        Release::open(&self.path("release")).unwrap()
    }

    /// The signer whose key is in a file, made if there is none.
    pub(crate) fn signer(&self, name: &str) -> Signer {
        let path = self.path(name);
        if !path.exists() {
            sign::generate(&path).unwrap();
        }
        let text = path.to_str().unwrap();
        Signer::Key(Box::new(SigningKey::open(text, &TokenDefaults::default()).unwrap()))
    }

    /// Signs the release; the files that hold the provenance and the manifest.
    pub(crate) fn sign(&self, signer: &Signer) -> [PathBuf; 2] {
        let (files, _) = self.release().sign(signer, LOCAL_BUILDER).unwrap();
        files.try_into().unwrap()
    }

    /// A policy over keys in files.
    pub(crate) fn policy(&self, threshold: usize, names: &[&str], more: &str) -> Policy {
        let signer = |name: &&str| format!("[[signer]]\nname = \"{name}\"\nkey = \"{name}.pub\"\n");
        let signers = names.iter().map(signer).collect::<Vec<_>>().concat();
        self.read(&format!("schema = 1\nthreshold = {threshold}\n{more}\n{signers}")).unwrap()
    }

    /// A policy as it would stand in a file beside the keys.
    pub(crate) fn read(&self, text: &str) -> Result<Policy, PolicyError> {
        let path = self.path("signers.toml");
        fs::write(&path, text).unwrap();
        Policy::read(&path)
    }

    pub(crate) fn verify(&self, policy: &Policy) -> Verified {
        self.release().verify(policy, Depth::Files).unwrap()
    }
}

/// Why the one signature of the manifest was refused, with its causes.
pub(crate) fn refusal(verified: &Verified) -> String {
    assert!(!verified.is_trusted());
    let refused: Vec<String> = verified
        .manifest
        .bundles
        .iter()
        .filter_map(|judged| judged.outcome.as_ref().err())
        .map(|error| casemate_measurements::causes::in_one_line(error))
        .collect();
    let [one] = &refused[..] else { panic!("{refused:?}") };
    one.clone()
}

//! Bundles of ours and of cosign's: each verifies the other's. As in Debian 13 (2.5.0) and Debian 14
//! (3.1.1).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_registry::attestation::{MANIFEST_PREDICATE, PROVENANCE_PREDICATE, Statement};

use crate::fixture::{Scene, refusal};
use crate::{peer, run};

/// cosign of a version, in a home of its own.
struct Cosign {
    program: PathBuf,
    home: PathBuf,
    version: &'static str,
}

impl Cosign {
    fn get(version: &'static str, scene: &Scene) -> Option<Self> {
        let program = peer("cosign", "cosign.sh", &[version])?;
        // It would fetch both from the network otherwise.
        let configs = [
            (
                "sc.json",
                r#"{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}"#,
            ),
            (
                "tr.json",
                r#"{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"#,
            ),
        ];
        for (name, text) in configs {
            fs::write(scene.path(name), text).unwrap();
        }
        Some(Self { program, home: scene.path(""), version })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.home).env("HOME", &self.home).env("COSIGN_PASSWORD", "");
        command
    }

    fn verify(&self, key: &str, kind: &str, bundle: &Path, file: &str) -> Output {
        let mut command = self.command();
        command.args(["verify-blob-attestation", "--key", key, "--type", kind, "--bundle"]);
        command.arg(bundle).args(["--insecure-ignore-tlog=true", "--trusted-root", "tr.json"]);
        if self.version == "2" {
            command.arg("--new-bundle-format");
        }
        command.arg(file).output().unwrap()
    }
}

#[test]
fn cosign_verifies_what_we_sign() {
    let scene = Scene::new();
    let [provenance, manifest] = scene.sign(&scene.signer("a"));
    scene.signer("b");
    for version in ["2", "3"] {
        let Some(cosign) = Cosign::get(version, &scene) else { return };
        for (kind, bundle) in [(MANIFEST_PREDICATE, &manifest), (PROVENANCE_PREDICATE, &provenance)]
        {
            // Every file of the release is a subject.
            for file in ["manifest.json", "root.img", "sbom.json"] {
                let output = cosign.verify("a.pub", kind, bundle, &format!("release/{file}"));
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "cosign {version}, {file}: {said}");
            }
            let mut wrong =
                vec![("b.pub", kind, "release/manifest.json"), ("a.pub", kind, "a.pub")];
            if version == "3" {
                // The older one does not look at the kind.
                wrong.push(("a.pub", "urn:casemate:other:v1", "release/manifest.json"));
            }
            for (key, kind, file) in wrong {
                let output = cosign.verify(key, kind, bundle, file);
                assert!(!output.status.success(), "cosign {version} accepts {key}, {kind}, {file}");
            }
        }
    }
}

#[test]
fn we_verify_what_cosign_signs() {
    let scene = Scene::new();
    let Some(cosign) = Cosign::get("3", &scene) else { return };
    run(cosign.command().args(["generate-key-pair", "--output-key-prefix", "c"]));
    let policy = scene.policy(1, &["c"], "");
    let statement = Statement::of_manifest(scene.release().manifest()).unwrap();
    fs::write(scene.path("statement.json"), statement.to_bytes().unwrap()).unwrap();
    fs::create_dir(scene.path("release/signatures")).unwrap();
    let bundle = "release/signatures/cosign.manifest.sigstore.json";
    let mut sign = cosign.command();
    sign.args(["attest-blob", "--yes", "--key", "c.key", "--signing-config", "sc.json"]);
    sign.args(["--statement", "statement.json", "--type", MANIFEST_PREDICATE]);
    run(sign.args(["--bundle", bundle, "release/manifest.json"]));
    let verified = scene.verify(&policy);
    assert!(verified.is_trusted(), "{verified:?}");
    // Version 2 signs statements of version 0.1 alone, about one file.
    let Some(cosign) = Cosign::get("2", &scene) else { return };
    let mut sign = cosign.command();
    sign.args(["attest-blob", "--yes", "--key", "c.key", "--tlog-upload=false"]);
    sign.args(["--new-bundle-format", "--predicate", "release/manifest.json"]);
    sign.args(["--type", MANIFEST_PREDICATE, "--bundle", bundle, "release/manifest.json"]);
    run(&mut sign);
    let error = refusal(&scene.verify(&policy));
    assert!(error.contains("https://in-toto.io/Statement/v0.1"), "{error}");
}

//! Good evidence and who judges it, as the program `seeds` left them in `$CASEMATE_FUZZ_SCENE`.

#![allow(dead_code, reason = "each target takes what it needs")]

use std::path::PathBuf;
use std::sync::OnceLock;

use casemate_measurements::appraisal::{
    Appraiser, Basis, CheckName, KnownRelease, Policy, Session,
};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::Evidence;
use casemate_measurements::hash::{Nonce, Sha256Hash};
use casemate_measurements::manifest::Manifest;
use casemate_measurements::report::Report;
use casemate_measurements::roots::Roots;

pub struct Scene {
    pub evidence: Evidence,
    pub report: Report,
    pub table: CertificateTable,
    pub releases: [KnownRelease; 1],
    pub policy: Policy,
    pub roots: Roots,
    pub now: UnixTime,
    pub session: Session,
}

pub fn get() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let scene = Scene::load();
        let good = serde_json::to_vec(&scene.evidence).expect("evidence can be written");
        assert!(scene.accepts(&good), "the unchanged evidence is refused: run the seeds anew");
        scene
    })
}

impl Scene {
    fn load() -> Self {
        let folder = std::env::var_os("CASEMATE_FUZZ_SCENE").expect("CASEMATE_FUZZ_SCENE is set");
        let read = |name| std::fs::read(PathBuf::from(&folder).join(name)).expect(name);
        let evidence: Evidence = serde_json::from_slice(&read("evidence.json")).expect("evidence");
        let manifest = Manifest::from_bytes(&read("manifest.json")).expect("manifest");
        Self {
            report: Report::parse(&evidence.report.0).expect("report"),
            table: CertificateTable::parse(&evidence.certificates.0).expect("table"),
            policy: Policy::for_release(&manifest.release).simulated(),
            roots: Roots::amd().expect("pinned").with_simulated(&read("ark.der")).expect("root"),
            now: UnixTime(serde_json::from_slice(&read("now.json")).expect("time")),
            session: Session {
                nonce: Nonce::from_bytes(*evidence.nonce.as_bytes()),
                tls_spki_sha256: Sha256Hash::of(b"tls key"),
                elapsed: std::time::Duration::ZERO,
            },
            evidence,
            releases: [KnownRelease::new(manifest).expect("manifest")],
        }
    }

    fn appraiser(&self) -> Appraiser<'_> {
        let Self { releases, policy, roots, now, .. } = self;
        Appraiser { releases, policy, basis: Basis::new(roots, *now) }
    }

    #[must_use]
    pub fn accepts(&self, bytes: &[u8]) -> bool {
        self.appraiser().appraise(bytes, &self.session).is_accepted()
    }

    /// Judges evidence and holds the verdict to what every verdict must be.
    pub fn judge(&self, bytes: &[u8]) {
        let verdict = self.appraiser().appraise(bytes, &self.session);
        let names: Vec<_> = verdict.checks().iter().map(|check| check.name).collect();
        assert_eq!(names, CheckName::ALL, "every check is listed, each once");
        let text = verdict.to_string();
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
        serde_json::to_vec(&verdict).expect("a verdict can be written");
        assert_eq!(verdict.is_accepted(), verdict.exit_code() == 0);
        assert_eq!(verdict.attested_ssh_host_key().is_some(), verdict.is_accepted());
        if verdict.is_accepted() {
            self.assert_same(bytes);
        }
    }

    /// Accepted evidence says what the good one says. What the host adds and nobody needs, such
    /// as an unknown entry of the table, may differ.
    fn assert_same(&self, bytes: &[u8]) {
        let found: Evidence = serde_json::from_slice(bytes).expect("it was accepted");
        let table = CertificateTable::parse(&found.certificates.0).expect("it was accepted");
        assert_eq!((&table.vcek, &table.ask), (&self.table.vcek, &self.table.ask));
        let certificates = self.evidence.certificates.clone();
        assert_eq!(Evidence { certificates, ..found }, self.evidence, "changed and accepted");
    }
}

//! A VM that answers and a verifier that judges.

use casemate_measurements::appraisal::{
    Appraiser, Basis, CheckName, KnownRelease, Outcome, Policy, Question, Session, Verdict,
};
use casemate_measurements::binding::{self, Binding};
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::{HostData, Nonce, Sha256Hash};
use casemate_measurements::launch_config::LaunchConfig;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Unsigned;
use casemate_measurements::revocation::RevocationList;
use casemate_measurements::roots::Roots;

use crate::amd::{self, Endorsed, Maker};
use crate::release;

pub(crate) const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A VM that answers and a verifier that judges; a test changes one thing of it.
pub(crate) struct Scene {
    pub(crate) manifest: Manifest,
    pub(crate) policy: Policy,
    pub(crate) roots: Roots,
    pub(crate) now: UnixTime,
    pub(crate) session: Session,
    pub(crate) fields: Unsigned,
    pub(crate) binding: Binding,
    pub(crate) launch_config: String,
    pub(crate) table: CertificateTable,
    pub(crate) platform: Platform,
    pub(crate) lists: Vec<RevocationList>,
}

pub(crate) fn scene() -> Scene {
    let maker = Maker::get();
    let manifest = release::manifest(Platform::Simulated);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/ me";
    let config = LaunchConfig {
        schema: 1,
        ssh_authorized_keys: vec![key.into()],
        name: "vm-1".into(),
        gpus: None,
    };
    let launch_config = String::from_utf8(config.to_bytes().unwrap()).unwrap();
    let config_hash = Sha256Hash::of(launch_config.as_bytes());
    let shape = release::shape("EPYC-v4", 4);
    Scene {
        policy: Policy::for_release(&manifest.release).simulated(),
        roots: Roots::amd().unwrap().with_simulated(&maker.ark).unwrap(),
        now: UnixTime(amd::NOW),
        session: Session {
            nonce: Nonce::from_bytes([0x42; 32]),
            tls_spki_sha256: Sha256Hash::of(b"tls key"),
            elapsed: std::time::Duration::from_millis(1500),
        },
        fields: Unsigned {
            measurement: manifest.law.digest(&shape),
            host_data: HostData::from(config_hash),
            ..amd::fields()
        },
        binding: Binding {
            tls_spki_sha256: Sha256Hash::of(b"tls key"),
            ssh_host_key: HOST_KEY.into(),
            gpu_evidence_sha256: None,
            launch_config_sha256: config_hash,
        },
        manifest,
        launch_config,
        table: maker.table(&Endorsed::genoa()),
        platform: Platform::Simulated,
        lists: vec![],
    }
}

impl Scene {
    /// What the VM answers to the session's nonce.
    pub(crate) fn evidence(&self) -> Evidence {
        let binding = serde_json::to_string(&self.binding).unwrap();
        let report_data = binding::report_data(&self.session.nonce, binding.as_bytes());
        let fields = Unsigned { report_data, ..self.fields.clone() };
        Evidence {
            schema: Evidence::SCHEMA,
            platform: self.platform,
            nonce: self.session.nonce,
            report: Base64Bytes(amd::sign_bytes(&fields.signed_bytes())),
            certificates: Base64Bytes(self.table.encode().unwrap()),
            binding,
            launch_config: self.launch_config.clone(),
            gpu_evidence: None,
        }
    }

    pub(crate) fn judge(&self, evidence: &Evidence) -> Verdict {
        self.judge_bytes(&serde_json::to_vec(evidence).unwrap())
    }

    pub(crate) fn judge_bytes(&self, bytes: &[u8]) -> Verdict {
        let Self { manifest, policy, roots, now, lists, .. } = self;
        let releases = [KnownRelease::new(manifest.clone()).unwrap()];
        let basis = Basis::new(roots, *now).with_revocation_lists(lists);
        Appraiser { releases: &releases, policy, basis }.appraise(bytes, &self.session)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.judge(&self.evidence())
    }
}

/// Holds a verdict to an exit code and to the very checks that must fail.
#[track_caller]
pub(crate) fn refused(verdict: &Verdict, exit_code: u8, failed: &[CheckName]) {
    let found: Vec<CheckName> = verdict
        .checks()
        .iter()
        .filter(|check| check.outcome == Outcome::Failed)
        .map(|check| check.name)
        .collect();
    assert_eq!(found, failed, "{verdict}");
    assert_eq!(verdict.exit_code(), exit_code, "{verdict}");
    assert!(!verdict.is_accepted());
    assert_eq!(verdict.attested_ssh_host_key(), None, "{verdict}");
    assert!(!serde_json::to_string(verdict).unwrap().contains(HOST_KEY), "{verdict}");
    assert!(!verdict.to_string().contains(HOST_KEY), "{verdict}");
    let names: Vec<_> = verdict.checks().iter().map(|check| check.name).collect();
    assert_eq!(names, CheckName::ALL, "every check is listed, each once");
    if exit_code == 2 {
        // What a report says is nobody's business before it is genuine.
        for check in verdict.checks().iter().filter(|c| c.question == Question::Acceptable) {
            assert_eq!(check.outcome, Outcome::Skipped, "{:?}", check.name);
            assert!(check.found.starts_with("not reached"), "{}", check.found);
        }
        assert_eq!(verdict.measurement(), None);
        assert_eq!(verdict.shape(), None);
    }
}

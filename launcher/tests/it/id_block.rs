//! Releases that were signed: which ID block a launch gets, and which launches are refused
//! because there is no good one.

use std::fs;
use std::path::Path;

use casemate_launcher::host::HostFacts;
use casemate_launcher::id_block::NoIdBlock;
use casemate_launcher::machine::Accel;
use casemate_launcher::plan::{LaunchPlan, PlanError};
use casemate_launcher::release::{Release, ReleaseError};
use casemate_launcher::state::VmPaths;
use casemate_measurements::hash::{FamilyId, ImageId, Sha256Hash, Sha384Hash};
use casemate_measurements::id_block::release::{FILE_NAME, IdBlocks, IdBlocksError};
use casemate_measurements::id_block::{self, IdBlockError, PublicKey, Signature, Signer};
use casemate_measurements::identity::Identity;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::kvm::LinuxVersion;
use casemate_measurements::policy::{GuestPolicy, PolicyBit};
use p384::ecdsa::SigningKey;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;

use crate::fixture::{Contents, request, snp_host};

struct Key(SigningKey, PublicKey);

fn key(seed: u8) -> Key {
    let private = SigningKey::from_slice(&[seed; 48]).unwrap();
    let point = private.verifying_key().to_encoded_point(false);
    Key(private, PublicKey::from_sec1(point.as_bytes()).unwrap())
}

impl Signer for Key {
    fn public_key(&self) -> &PublicKey {
        &self.1
    }

    fn sign(
        &self,
        digest: &Sha384Hash,
    ) -> Result<Signature, Box<dyn std::error::Error + Send + Sync>> {
        let signature: p384::ecdsa::Signature = self.0.sign_prehash(digest.as_bytes())?;
        let (r, s) = signature.split_bytes();
        Ok(Signature::from_raw(&[r, s].concat())?)
    }
}

/// Writes a release that names an ID key.
fn write(dir: &Path, id: &Key) -> Manifest {
    let identity = Identity {
        family_id: FamilyId::from_bytes([1; 16]),
        image_id: ImageId::from_bytes([2; 16]),
        guest_svn: 3,
        id_keys: vec![id.1.digest()],
        author_keys: vec![],
    };
    Contents { id_block: Some(identity), ..Contents::unbootable(Platform::Snp) }.write(dir)
}

fn sign(dir: &Path, manifest: &Manifest, id: &Key, author: Option<&dyn Signer>) {
    let hash = Sha256Hash::of(&manifest.to_bytes().unwrap());
    let blocks = IdBlocks::sign(manifest, hash, id, author, &mut |_| ()).unwrap();
    fs::write(dir.join(FILE_NAME), blocks.to_bytes().unwrap()).unwrap();
}

fn plan(dir: &Path, host: &HostFacts) -> Result<LaunchPlan, PlanError> {
    let release = Release::open(dir).unwrap();
    let paths = VmPaths::new("/run/casemate/vms/vm-1".into()).unwrap();
    LaunchPlan::new(&release, &request(Platform::Snp, "vm-1"), host, &paths)
}

#[test]
fn a_launch_of_a_signed_release_is_given_the_block_of_its_shape() {
    let dir = tempfile::tempdir().unwrap();
    let (id, author) = (key(1), key(2));
    let manifest = write(dir.path(), &id);
    for author in [None, Some(&author)] {
        sign(dir.path(), &manifest, &id, author.map(|author| author as &dyn Signer));
        let plan = plan(dir.path(), &snp_host()).unwrap();
        let given = plan.machine.id_block.clone().unwrap();
        let enabled = given.author_key_enabled;
        assert_eq!(enabled, author.is_some());
        let policy = GuestPolicy::default();
        let accepted =
            id_block::verify(&given.block.0, &given.auth.0, enabled, &plan.digest, policy).unwrap();
        assert_eq!(accepted.id_key_digest, id.1.digest());

        let line = plan.arguments(Accel::Kvm).to_string();
        let option = |name: &str, bytes: &id_block::IdBlock| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(bytes.to_bytes());
            format!("\"{name}\":\"{text}\"")
        };
        assert!(line.contains(&option("id-block", &accepted.block)), "{line}");
        assert!(line.contains(&format!("\"author-key-enabled\":{enabled}")), "{line}");
        let shown = plan.to_string();
        assert!(shown.contains(&format!("ID key         {}", id.1.digest())), "{shown}");
        assert!(shown.contains("guest policy   0x30000 (smt)"), "{shown}");
        let other = plan.machine.shape;
        assert_eq!(manifest.find(&other).unwrap().measurement, accepted.block.launch_digest);
    }
}

#[test]
fn a_launch_without_a_good_block_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let id = key(1);
    let manifest = write(dir.path(), &id);
    let refused = || match plan(dir.path(), &snp_host()) {
        Err(PlanError::IdBlock(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refused(), NoIdBlock::Missing));

    sign(dir.path(), &manifest, &id, None);
    let path = dir.path().join(FILE_NAME);
    let json = fs::read_to_string(&path).unwrap();
    let hash = Sha256Hash::of(&manifest.to_bytes().unwrap()).to_string();
    fs::write(&path, json.replace(&hash, &"0".repeat(64))).unwrap();
    assert!(matches!(refused(), NoIdBlock::Blocks(IdBlocksError::OtherManifest { .. })));

    // The signatures of two rows exchanged.
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = value["signatures"].as_array().unwrap();
    let row = |at: usize| rows[at]["signature"].as_str().unwrap();
    let mut swapped = json.clone();
    for at in 1..rows.len() {
        swapped = swapped.replace(row(at), row(0));
    }
    fs::write(&path, swapped).unwrap();
    assert!(matches!(refused(), NoIdBlock::Block(IdBlockError::Signature { .. })));

    fs::write(&path, "{}").unwrap();
    let error = Release::open(dir.path()).unwrap_err();
    assert!(matches!(error, ReleaseError::IdBlocks { .. }), "{error}");
}

#[test]
fn a_policy_that_the_hosts_kvm_refuses_is_refused_before() {
    let dir = tempfile::tempdir().unwrap();
    let policy = GuestPolicy::default().with(PolicyBit::SingleSocket);
    Contents { policy, ..Contents::unbootable(Platform::Snp) }.write(dir.path());
    let mut host = snp_host();
    let error = plan(dir.path(), &host).unwrap_err();
    let PlanError::Policy(refusal) = error else { panic!("{error}") };
    let text = refusal.to_string();
    assert!(text.contains("Linux 6.17 or newer on the host, found 6.12"), "{text}");
    host.linux = LinuxVersion::from_release("6.17.0");
    let shown = plan(dir.path(), &host).unwrap().to_string();
    assert!(shown.contains("guest policy   0x130000 (smt, single_socket)"), "{shown}");
}

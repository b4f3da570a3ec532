//! VMs with GPUs: the GPU evidence belongs to the VM, and the GPUs are the promised ones.

use casemate_measurements::appraisal::{CheckName, Expect, Outcome, Verdict};
use casemate_measurements::binding;
use casemate_measurements::gpu::rim::RimStore;
use casemate_measurements::gpu_evidence::{GpuSet, chip_of};
use casemate_measurements::hash::{HostData, Nonce, Sha256Hash};
use casemate_measurements::launch_config::LaunchConfig;

use crate::nvidia::{self, Device};
use crate::scene::{Scene, refused, scene};

fn set(count: u8, nvswitches: u8) -> GpuSet {
    GpuSet { chip: "GH100".into(), count, board: None, nvswitches }
}

/// A VM that is promised GPUs.
fn promised(gpus: Option<GpuSet>) -> Scene {
    let mut scene = scene();
    let config = LaunchConfig::from_bytes(scene.launch_config.as_bytes()).unwrap();
    let config = LaunchConfig { gpus, ..config }.to_bytes().unwrap();
    let hash = Sha256Hash::of(&config);
    scene.launch_config = String::from_utf8(config).unwrap();
    scene.binding.launch_config_sha256 = hash;
    scene.fields.host_data = HostData::from(hash);
    scene.policy.gpu_evidence = Expect::Exactly(true);
    let mut store = RimStore::default();
    for rim in nvidia::Rim::all() {
        store.add(rim.xml().as_bytes()).unwrap();
    }
    scene.roots = scene.roots.with_simulated_gpus(&nvidia::root()).unwrap();
    scene.roots = scene.roots.with_gpu_manifests(store);
    scene
}

fn nonce(scene: &Scene) -> Nonce {
    binding::gpu_nonce(&scene.session.nonce, &scene.session.tls_spki_sha256)
}

/// The verdict on a VM that sends GPU evidence and binds it.
fn judge(mut scene: Scene, gpus: &str) -> Verdict {
    scene.binding.gpu_evidence_sha256 = Some(Sha256Hash::of(gpus.as_bytes()));
    let mut evidence = scene.evidence();
    evidence.gpu_evidence = Some(gpus.into());
    scene.judge(&evidence)
}

fn hopper(count: u8, nonce: Nonce) -> Vec<Device> {
    (1..=count).map(|number| Device::hopper(number, nonce)).collect()
}

#[test]
fn promised_gpus_are_accepted() {
    let one = promised(Some(set(1, 0)));
    let gpus = nvidia::evidence(&hopper(1, nonce(&one)));
    let verdict = judge(one, &gpus);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let machine = promised(Some(set(8, 4)));
    let gpus = nvidia::evidence(&Device::hopper_machine(nonce(&machine)));
    let verdict = judge(machine, &gpus);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let skipped = verdict.check(CheckName::GpuRevocation).unwrap();
    assert_eq!(skipped.outcome, Outcome::Skipped);
}

/// What the launcher promises for this PCI device number is what the certificate or the signed
/// report names.
#[test]
fn an_rtx_pro_6000_is_the_gpu_that_was_promised() {
    let promise = |device| GpuSet { chip: chip_of(device).unwrap().into(), ..set(1, 0) };
    let with = |device, gpu: fn(u8, Nonce) -> Device| {
        let scene = promised(Some(promise(device)));
        let gpus = nvidia::evidence(&[gpu(1, nonce(&scene))]);
        judge(scene, &gpus)
    };
    let verdict = with(0x2bb5, Device::rtx);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    refused(&with(0x2bb5, Device::blackwell), 3, &[CheckName::GpuSet]);
    refused(&with(0x2901, Device::rtx), 3, &[CheckName::GpuSet]);
    assert_eq!(with(0x2901, Device::blackwell).exit_code(), 0);
}

#[test]
fn fewer_other_or_no_gpus_are_refused() {
    let with = |promise: Option<GpuSet>, count: u8| {
        let scene = promised(promise);
        let gpus = nvidia::evidence(&hopper(count, nonce(&scene)));
        judge(scene, &gpus)
    };
    let only = [CheckName::GpuSet];
    refused(&with(Some(set(2, 0)), 1), 3, &only);
    refused(&with(Some(set(1, 0)), 2), 3, &only);
    refused(&with(Some(set(1, 4)), 1), 3, &only);
    refused(&with(Some(GpuSet { chip: "GB100".into(), ..set(1, 0) }), 1), 3, &only);
    let board = Some("G520_0200_886".to_owned());
    refused(&with(Some(GpuSet { board, ..set(1, 0) }), 1), 3, &only);
    refused(&with(None, 1), 3, &only);
    let nothing = promised(Some(set(1, 0))).verdict();
    refused(&nothing, 3, &[CheckName::GpuEvidence, CheckName::GpuSet]);
}

#[test]
fn gpu_evidence_of_another_vm_is_refused() {
    // Proxied from a VM whose TLS key is another one: the same nonce, other GPU nonces.
    let scene = promised(Some(set(1, 0)));
    let other = binding::gpu_nonce(&scene.session.nonce, &Sha256Hash::of(b"other TLS key"));
    let gpus = nvidia::evidence(&hopper(1, other));
    refused(&judge(scene, &gpus), 2, &[CheckName::GpuNonce]);
    // The verifier's own nonce is no GPU nonce either.
    let scene = promised(Some(set(1, 0)));
    let gpus = nvidia::evidence(&hopper(1, scene.session.nonce));
    refused(&judge(scene, &gpus), 2, &[CheckName::GpuNonce]);
    // Exchanged after the binding.
    let scene = promised(Some(set(1, 0)));
    let (bound, sent) = (hopper(1, nonce(&scene)), hopper(2, nonce(&scene)));
    let mut scene = scene;
    let bound = nvidia::evidence(&bound);
    scene.binding.gpu_evidence_sha256 = Some(Sha256Hash::of(bound.as_bytes()));
    let mut evidence = scene.evidence();
    evidence.gpu_evidence = Some(nvidia::evidence(&sent[1..]));
    refused(&scene.judge(&evidence), 2, &[CheckName::GpuEvidenceBound]);
}

#[test]
fn gpu_evidence_is_bound_genuine_and_refused_where_none_is_wanted() {
    let mut scene = promised(Some(set(1, 0)));
    let gpus = nvidia::evidence(&hopper(1, nonce(&scene)));
    scene.policy.gpu_evidence = Expect::Exactly(false);
    refused(&judge(scene, &gpus), 3, &[CheckName::GpuEvidence]);
    refused(&judge(promised(Some(set(1, 0))), "gpu"), 2, &[CheckName::GpuCertificates]);
    let mut scene = promised(Some(set(1, 0)));
    scene.binding.gpu_evidence_sha256 = Some(Sha256Hash::of(gpus.as_bytes()));
    refused(&scene.verdict(), 2, &[CheckName::GpuEvidenceBound]);
}

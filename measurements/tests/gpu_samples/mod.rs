//! GPU evidence against what NVIDIA's own devices said.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use casemate_measurements::appraisal::{
    CheckName, Expect, GpuAppraiser, GpuPolicy, Outcome, missing_gpu_manifests, read_foreign,
};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::evidence::Base64Bytes;
use casemate_measurements::gpu::rim::{RimId, RimStore};
use casemate_measurements::gpu_evidence::{Architecture, DeviceEvidence, GpuSet, chip_of};
use casemate_measurements::hash::Nonce;
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;

use crate::{nvidia, vectors};

/// Evidence of a real `NVSwitch`, from the test data of NVIDIA's attestation-sdk (Apache-2.0).
#[test]
fn a_real_switch_is_genuine() {
    let roots = Roots::amd().unwrap();
    let nonce = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
    let nonce: Nonce = nonce.parse().unwrap();
    let evidence = include_str!("../samples/ls10.json");
    let (policy, now) = (GpuPolicy::strict(), UnixTime(nvidia::NOW));
    let appraiser = GpuAppraiser { policy: &policy, roots: &roots, platform: Platform::Snp, now };
    let verdict = appraiser.appraise(evidence, &nonce);
    assert_eq!(verdict.exit_code(), 3, "{verdict}");
    let check = |name| verdict.check(name).unwrap();
    assert_eq!(check(CheckName::GpuCertificates).found, "NVIDIA:LS_10:48B02DFE0092CDDB");
    assert_eq!(check(CheckName::GpuReports).outcome, Outcome::Passed);
    assert_eq!(check(CheckName::GpuNonce).outcome, Outcome::Passed);
    assert!(check(CheckName::GpuSet).found.contains("switches without a GPU"), "{verdict}");
    assert!(check(CheckName::GpuVersions).found.contains("96.10.55.00.01"), "{verdict}");
    let verdict = appraiser.appraise(evidence, &Nonce::from_bytes([0x42; 32]));
    assert_eq!(verdict.check(CheckName::GpuNonce).unwrap().outcome, Outcome::Failed);
    // The same in the form of NVIDIA's collector.
    let ours: serde_json::Value = serde_json::from_str(evidence).unwrap();
    let device = &ours["devices"][0];
    let foreign = serde_json::json!([{
        "arch": "LS10", "version": "1.0", "nonce": "x",
        "evidence": device["report"], "certificate": device["certificates"],
    }]);
    let read = read_foreign(&foreign.to_string()).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&read).unwrap(), ours);
    assert!(read_foreign("[").is_err());
}

/// The parts of a vector of one device: its report as hex and its certificates as PEM.
fn vector(architecture: Architecture, report: &str, chain: &str) -> (String, Nonce) {
    let text = |name: &str| vectors::read(&format!("gpu/{name}")).unwrap();
    let report = hex::decode(text(report).trim_ascii()).unwrap();
    let nonce = Nonce::from_bytes(report[4..36].try_into().unwrap());
    let certificates = Base64Bytes(text(chain));
    let device = DeviceEvidence { architecture, report: Base64Bytes(report), certificates };
    (nvidia::json(vec![device]), nonce)
}

/// A real RTX PRO 6000 in a VM: its certificate says `GB20X`, its signed report `GB202`.
#[test]
fn a_real_rtx_pro_6000_is_what_the_launcher_promises() {
    if vectors::folder().is_none() {
        return;
    }
    let (evidence, nonce) = vector(
        Architecture::Blackwell,
        "trustee/blackwellAttestationReport.txt",
        "trustee/blackwell_cert_chain_case1.txt",
    );
    let (roots, now) = (Roots::amd().unwrap(), UnixTime(nvidia::NOW));
    let judge = |chip: &str| {
        let set = GpuSet { chip: chip.into(), count: 1, board: None, nvswitches: 0 };
        let policy = GpuPolicy { set: Expect::Exactly(set), ..GpuPolicy::strict() };
        let appraiser =
            GpuAppraiser { policy: &policy, roots: &roots, platform: Platform::Snp, now };
        appraiser.appraise(&evidence, &nonce)
    };
    let verdict = judge(chip_of(0x2bb5).unwrap());
    let check = |name| verdict.check(name).unwrap();
    assert!(check(CheckName::GpuCertificates).found.contains(":GB20X:"), "{verdict}");
    for name in [CheckName::GpuReports, CheckName::GpuNonce, CheckName::GpuSet] {
        assert_eq!(check(name).outcome, Outcome::Passed, "{verdict}");
    }
    let versions = "BLACKWELL driver 595.58.03 VBIOS 98.02.81.00.01";
    assert_eq!(check(CheckName::GpuVersions).found, versions);
    assert_eq!(check(CheckName::GpuFabric).outcome, Outcome::Passed, "{verdict}");
    // Nobody published its manifests, so nothing else may stand between it and acceptance.
    let failed = verdict.checks().iter().filter(|check| check.outcome == Outcome::Failed);
    assert_eq!(failed.map(|check| check.name).collect::<Vec<_>>(), [CheckName::GpuMeasurements]);
    for other in ["GB100", "GB203", "GH100"] {
        assert_eq!(judge(other).check(CheckName::GpuSet).unwrap().outcome, Outcome::Failed);
    }
}

/// NVIDIA's own manifest for the switch of its own sample: the certificate names the chip `LS_10`,
/// the manifest `LS10`.
#[test]
fn a_real_switch_equals_its_own_manifest() {
    if vectors::folder().is_none() {
        return;
    }
    let folder = "nvidia-attestation-sdk";
    let (evidence, nonce) = vector(
        Architecture::Ls10,
        &format!("{folder}/switchAttestationReport.txt"),
        &format!("{folder}/switchCertChain.txt"),
    );
    let rim = format!("gpu/{folder}/switchVBIOSRim_NV_SWITCH_BIOS_5612_0002_890_9610550001.xml");
    let mut store = RimStore::default();
    store.add(&vectors::read(&rim).unwrap()).unwrap();
    let (policy, now) = (GpuPolicy::strict(), UnixTime(nvidia::NOW));
    let roots = Roots::amd().unwrap();
    let platform = Platform::Snp;
    let missing = missing_gpu_manifests(&evidence, &roots, platform, now);
    let names: Vec<&str> = missing.iter().map(RimId::name).collect();
    assert_eq!(names, ["NV_SWITCH_BIOS_5612_0002_890_9610550001"]);
    missing[0].check(&vectors::read(&rim).unwrap(), &roots, platform, now).unwrap();
    let roots = roots.with_gpu_manifests(store);
    assert_eq!(missing_gpu_manifests(&evidence, &roots, platform, now), []);
    let appraiser = GpuAppraiser { policy: &policy, roots: &roots, platform, now };
    let verdict = appraiser.appraise(&evidence, &nonce);
    let check = verdict.check(CheckName::GpuMeasurements).unwrap();
    assert_eq!(check.outcome, Outcome::Passed, "{verdict}");
    assert_eq!(check.found, "31 measurements of 1 devices equal signed manifests");
}

/// The samples in NVIDIA's verifier; `None`, after printing why, where they cannot be had.
fn samples() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers/nvidia.sh");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let output = Command::new(script).env("CARGO_TARGET_DIR", target).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().into());
    }
    let required = std::env::var("CASEMATE_REQUIRE").unwrap_or_default();
    let reason = format!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(!required.split(',').any(|name| name == "nvidia"), "{reason}");
    println!("skipped: {reason}");
    None
}

#[test]
fn a_real_gpu_is_genuine_and_each_flipped_byte_of_it_is_not() {
    let Some(samples) = samples() else { return };
    let report = fs::read_to_string(samples.join("hopperAttestationReport.txt")).unwrap();
    let device = DeviceEvidence {
        architecture: Architecture::Hopper,
        report: Base64Bytes(hex::decode(report.trim()).unwrap()),
        certificates: Base64Bytes(fs::read(samples.join("hopperCertChain.txt")).unwrap()),
    };
    let nonce = "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb";
    let nonce: Nonce = nonce.parse().unwrap();
    let (roots, policy, now) = (Roots::amd().unwrap(), GpuPolicy::strict(), UnixTime(nvidia::NOW));
    let appraiser = GpuAppraiser { policy: &policy, roots: &roots, platform: Platform::Snp, now };
    let judge =
        |device: &DeviceEvidence| appraiser.appraise(&nvidia::json(vec![device.clone()]), &nonce);
    let verdict = judge(&device);
    let check = |name| verdict.check(name).unwrap();
    assert_eq!(verdict.exit_code(), 3, "{verdict}");
    assert_eq!(check(CheckName::GpuCertificates).found, "NVIDIA:GH100:48B02D92494BADF4");
    assert_eq!(check(CheckName::GpuReports).outcome, Outcome::Passed);
    assert_eq!(check(CheckName::GpuNonce).outcome, Outcome::Passed);
    assert!(check(CheckName::GpuSet).found.contains("1 GPU GH100 on 1010_0200_882"), "{verdict}");
    let versions = "HOPPER driver 550.90.07 VBIOS 96.00.9F.00.01";
    assert_eq!(check(CheckName::GpuVersions).found, versions);
    let measured = &check(CheckName::GpuMeasurements).found;
    assert!(measured.contains("no reference integrity manifest for driver 550.90.07 of GH100"));
    for at in (0..device.report.0.len()).step_by(97) {
        let mut flipped = device.clone();
        flipped.report.0[at] ^= 0x20;
        assert_eq!(judge(&flipped).exit_code(), 2, "byte {at}");
    }
}

#[test]
fn manifests_that_nvidia_signed_are_believed_until_they_expire() {
    let Some(samples) = samples() else { return };
    let (roots, mut store) = (Roots::amd().unwrap(), RimStore::default());
    for entry in fs::read_dir(samples).unwrap() {
        let path = entry.unwrap().path();
        // The copy of another one, for use without a GPU.
        let copy = path.ends_with("1010_0200_882_96005E0001_test_no_gpu.swidtag");
        if path.extension().is_some_and(|extension| extension == "swidtag") && !copy {
            store
                .add(&fs::read(&path).unwrap())
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
    assert_eq!(store.len(), 25);
    // 2024-01-01 and 2026-06-01.
    let at = |seconds| store.verify_each(&roots, UnixTime(seconds)).collect::<Vec<_>>();
    let valid: Vec<_> =
        at(1_704_067_200).into_iter().filter(|(.., result)| result.is_ok()).collect();
    assert_eq!(valid.len(), 25, "{:?}", at(1_704_067_200));
    let driver = valid.iter().find(|(_, version, _)| *version == "545.00").unwrap();
    assert_eq!(driver.0, "GH100");
    assert!(at(1_780_272_000).iter().any(|(.., result)| result.is_err()), "some have expired");
}

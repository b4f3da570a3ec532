//! GPU evidence against a maker that really signs, each field wrong once.

use std::sync::OnceLock;

use casemate_measurements::appraisal::{
    CheckName, Expect, GpuAppraiser, GpuPolicy, GpuVerdict, Outcome,
};
use casemate_measurements::chain::UnixTime;
use casemate_measurements::gpu::rim::RimStore;
use casemate_measurements::gpu_evidence::{Architecture, GpuSet};
use casemate_measurements::hash::Nonce;
use casemate_measurements::platform::Platform;
use casemate_measurements::roots::Roots;
use proptest::prelude::*;
use x509_cert::ext::pkix::KeyUsages;

use crate::nvidia::{self, Device, Rim};

pub(crate) const NONCE: Nonce = Nonce::from_bytes([0x42; 32]);

pub(crate) fn roots_with(rims: &[Rim]) -> Roots {
    let mut store = RimStore::default();
    for rim in rims {
        store.add(rim.xml().as_bytes()).unwrap();
    }
    Roots::amd().unwrap().with_simulated_gpus(&nvidia::root()).unwrap().with_gpu_manifests(store)
}

fn judge_with(roots: &Roots, policy: &GpuPolicy, evidence: &str) -> GpuVerdict {
    let (platform, now) = (Platform::Simulated, UnixTime(nvidia::NOW));
    GpuAppraiser { policy, roots, platform, now }.appraise(evidence, &NONCE)
}

/// Roots with the manifests of every good device.
pub(crate) fn all_roots() -> &'static Roots {
    static ROOTS: OnceLock<Roots> = OnceLock::new();
    ROOTS.get_or_init(|| roots_with(&Rim::all()))
}

fn judge(devices: &[Device]) -> GpuVerdict {
    judge_with(all_roots(), &GpuPolicy::strict(), &nvidia::evidence(devices))
}

/// Holds a verdict to the one check that must fail and to words of its reason.
#[track_caller]
pub(crate) fn refused(verdict: &GpuVerdict, name: CheckName, words: &str) {
    let failed: Vec<_> =
        verdict.checks().iter().filter(|check| check.outcome == Outcome::Failed).collect();
    assert_eq!(failed.len(), 1, "{verdict}");
    assert_eq!(failed[0].name, name, "{verdict}");
    let text = format!("expected {}, found {}", failed[0].expected, failed[0].found);
    assert!(text.contains(words), "{words:?} not in {text:?}");
    assert!(verdict.summary().starts_with("SIMULATED"), "{verdict}");
    let code = if verdict.summary().contains("not genuine") { 2 } else { 3 };
    assert_eq!(verdict.exit_code(), code, "{verdict}");
}

#[test]
fn good_machines_are_accepted() {
    for devices in [
        vec![Device::hopper(1, NONCE)],
        vec![Device::blackwell(1, NONCE)],
        Device::blackwells(2, NONCE),
        vec![Device::rtx(1, NONCE)],
        Device::hopper_machine(NONCE),
    ] {
        let verdict = judge(&devices);
        assert_eq!(verdict.exit_code(), 0, "{verdict}");
        let fabric = &verdict.check(CheckName::GpuFabric).unwrap().found;
        let switches =
            devices.len() - devices.iter().filter(|d| !d.architecture.is_switch()).count();
        assert!(fabric.contains(&format!("{switches} switches")), "{fabric}");
        let revocation = verdict.check(CheckName::GpuRevocation).unwrap();
        assert_eq!(revocation.outcome, Outcome::Skipped);
        assert!(verdict.to_string().lines().all(|line| line.starts_with("SIMULATED")));
    }
}

#[test]
fn simulated_roots_count_for_the_simulated_platform_alone() {
    let (roots, policy) = (all_roots(), GpuPolicy::strict());
    let evidence = nvidia::evidence(&[Device::hopper(1, NONCE)]);
    let now = UnixTime(nvidia::NOW);
    let appraiser = GpuAppraiser { policy: &policy, roots, platform: Platform::Snp, now };
    let verdict = appraiser.appraise(&evidence, &NONCE);
    assert_eq!(verdict.exit_code(), 2, "{verdict}");
    assert!(verdict.summary().contains("no root of NVIDIA"), "{verdict}");
    let unmarked = include_bytes!("../../src/roots/nvidia-device.pem");
    assert!(Roots::amd().unwrap().with_simulated_gpus(unmarked).is_err());
}

#[test]
fn each_fault_of_a_chain_is_refused() {
    let check = CheckName::GpuCertificates;
    let with = |change: &dyn Fn(&mut Device)| {
        let mut device = Device::hopper(1, NONCE);
        change(&mut device);
        judge(&[device])
    };
    refused(&with(&|d| d.leaf.by = 7), check, "is not signed by");
    refused(&with(&|d| d.leaf.issuer = "other".into()), check, "is not signed by");
    refused(&with(&|d| d.middle.by = 7), check, "is not signed by");
    refused(&with(&|d| d.middle.issuer = "other".into()), check, "is not signed by");
    refused(&with(&|d| d.leaf.from = nvidia::NOW + 1), check, "is valid from");
    refused(&with(&|d| d.middle.from = 0), check, "is valid from");
    refused(&with(&|d| d.middle.ca = Some(false)), check, "expected CA");
    refused(&with(&|d| d.middle.ca = None), check, "expected CA");
    refused(&with(&|d| d.middle.usage = KeyUsages::CRLSign), check, "expected keyCertSign");
    refused(&with(&|d| d.leaf.ca = Some(true)), check, "expected the key of a signer");
    refused(&with(&|d| d.leaf.usage = KeyUsages::KeyCertSign), check, "expected digitalSignature");
    refused(&with(&|d| d.identity = "NVIDIA:GB100:1".into()), check, "expected a device of HOPPER");
    refused(&with(&|d| d.identity = "OTHER:GH100:1".into()), check, "expected a device of HOPPER");
    refused(&with(&|d| d.architecture = Architecture::Ls10), check, "expected a device of LS10");
    refused(&with(&|d| d.flags = Some(0x10)), check, "state that is refused: debug");
    refused(&with(&|d| d.flags = Some(0x20)), check, "state that is refused: recovery");
    refused(&with(&|d| d.flags = Some(0x40)), check, "state that is refused: not secure");
    assert_eq!(with(&|d| d.flags = Some(0x80)).exit_code(), 0);
}

#[test]
fn a_chain_of_other_certificates_is_refused() {
    let (roots, policy) = (all_roots(), GpuPolicy::strict());
    let device = Device::hopper(1, NONCE);
    let chain = device.chain();
    let genuine = device.evidence();
    let with = |pem: Vec<u8>| {
        let mut evidence = genuine.clone();
        evidence.certificates.0 = pem;
        judge_with(roots, &policy, &nvidia::json(vec![evidence]))
    };
    let check = CheckName::GpuCertificates;
    assert_eq!(with(nvidia::to_pem(&chain[..2])).exit_code(), 0, "the root may be left out");
    let mut ended = nvidia::to_pem(&chain);
    ended.push(0);
    assert_eq!(with(ended).exit_code(), 0, "NVML ends the text with a zero byte");
    refused(&with(nvidia::to_pem(&chain[..1])), check, "no root of NVIDIA");
    refused(&with(nvidia::to_pem(&chain[2..])), check, "signs no reports");
    let swapped = [chain[1].clone(), chain[0].clone(), chain[2].clone()];
    refused(&with(nvidia::to_pem(&swapped)), check, "is an authority");
    // A root of the same name with another key, under which everything else is consistent.
    let mut impostor = Device::hopper(1, NONCE);
    impostor.middle.by = 8;
    let mut forged = device.middle.clone();
    (forged.subject, forged.key, forged.by) = (forged.issuer.clone(), 8, 8);
    let forged = [impostor.chain()[0].clone(), impostor.chain()[1].clone(), forged.sign()];
    refused(&with(nvidia::to_pem(&forged)), check, "no root of NVIDIA");
    refused(&with(nvidia::to_pem(&vec![chain[1].clone(); 9])), check, "expected 1 to 8");
    refused(&with(b"-----BEGIN CERTIFICATE-----".to_vec()), check, "no PEM certificate");
    refused(&with(vec![]), check, "expected 1 to 8");
    refused(&with(vec![b'\n'; 40_000]), check, "expected 1 to 32768");
    let key = String::from_utf8(nvidia::to_pem(&chain)).unwrap();
    refused(&with(key.replacen("CERTIFICATE", "PRIVATE KEY", 2).into()), check, "PEM");
    for at in (0..chain[0].len()).step_by(11) {
        let mut flipped = chain.clone();
        flipped[0][at] ^= 0x10;
        let verdict = with(nvidia::to_pem(&flipped));
        assert_eq!(verdict.exit_code(), 2, "byte {at} of the leaf");
    }
}

#[test]
fn each_field_of_a_report_counts() {
    let (roots, policy) = (all_roots(), GpuPolicy::strict());
    let device = Device::hopper(1, NONCE);
    let genuine = device.evidence();
    let with = |report: Vec<u8>| {
        let mut evidence = genuine.clone();
        evidence.report.0 = report;
        judge_with(roots, &policy, &nvidia::json(vec![evidence]))
    };
    let check = CheckName::GpuReports;
    let good = genuine.report.0.clone();
    // Unsigned changes: one bit of each byte, in steps that meet every field.
    for at in (0..good.len()).step_by(211).chain(0..55).chain(good.len() - 110..good.len()) {
        let mut report = good.clone();
        report[at] ^= 1;
        refused(&with(report), check, "");
    }
    // Signed changes: what even the device's key cannot make a report of.
    let signed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = device.unsigned();
        change(&mut bytes);
        with(device.sign(bytes))
    };
    refused(&signed(&|b| b[0] = 0x12), check, "SPDM version of the request is 0x12");
    refused(&signed(&|b| b[1] = 0xe1), check, "code of the request");
    refused(&signed(&|b| b[2] = 0), check, "attributes of the request");
    refused(&signed(&|b| b[3] = 1), check, "operation of the request");
    refused(&signed(&|b| b[36] = 1), check, "certificate slot of the response");
    refused(&signed(&|b| b[37] = 0x10), check, "SPDM version of the response");
    refused(&signed(&|b| b[38] = 0x7f), check, "code of the response");
    refused(&signed(&|b| b[39] = 1), check, "first parameter");
    refused(&signed(&|b| b[41] = 63), check, "measurement blocks");
    refused(&signed(&|b| b[41] = 65), check, "index of a measurement block");
    refused(&signed(&|b| b[42] = 0xff), check, "ends within");
    refused(&signed(&|b| b[45] = 2), check, "block 1 has the index 2");
    refused(&signed(&|b| b[46] = 2), check, "specification of a measurement block");
    refused(&signed(&|b| b[50] = 49), check, "measurement");
    refused(&signed(&|b| b.push(0)), check, "signature");
    refused(&signed(&|b| _ = b.pop()), check, "signature");
    refused(&with(vec![0x11; 9000]), check, "expected at most 8192");
    refused(&with(vec![]), check, "SPDM version of the request");
    let other_key = Device { key: 99, ..device.clone() };
    refused(&with(other_key.sign(device.unsigned())), check, "not signed by the key");
}

#[test]
fn each_field_of_the_opaque_data_counts() {
    let check = CheckName::GpuReports;
    let with = |field: u16, value: &[u8]| {
        let mut device = Device::hopper(1, NONCE);
        device.field(field, value.to_vec());
        judge(&[device])
    };
    refused(&with(20, &[0; 48]), check, "its key is for f1f1");
    assert_eq!(with(20, &[]).exit_code(), 0, "firmware that does not name itself");
    refused(&with(3, &[]), check, "the driver's version");
    refused(&with(3, &[0xff, 0]), check, "the driver's version");
    refused(&with(3, b"590\n12\0"), check, "the driver's version");
    refused(&with(6, &[]), check, "expected a version of 8 bytes");
    refused(&with(17, &[]), check, "a part of the board's name");
    refused(&with(11, &[]), check, "aa or 55");
    refused(&with(11, &[0]), check, "aa or 55");
    refused(&with(36, &[3, 0]), check, "0 to 2");
    let mut twice = Device::hopper(1, NONCE);
    twice.opaque.push((3, b"1\0".to_vec()));
    refused(&judge(&[twice]), check, "field 3 stands there twice");
    let mut switch = Device::switch(100, NONCE);
    switch.field(26, vec![0; 63]);
    refused(&judge(&[switch.clone()]), check, "64 bytes and more");
    switch.field(22, vec![0; 7]);
    refused(&judge(&[switch]), check, "64 bytes and more");
}

#[test]
fn evidence_asked_with_another_nonce_is_refused() {
    let other = Device::hopper(1, Nonce::from_bytes([0x43; 32]));
    let (good, check) = (Device::hopper(2, NONCE), CheckName::GpuNonce);
    refused(&judge(std::slice::from_ref(&other)), check, "4343");
    refused(&judge(&[good, other]), check, "4343");
}

#[test]
fn devices_are_alike_and_each_there_once() {
    let (one, two) = (Device::hopper(1, NONCE), Device::hopper(2, NONCE));
    let check = CheckName::GpuSet;
    refused(&judge(&[one.clone(), one.clone()]), check, "is there twice");
    // Another report of the same device is no other device.
    let again = Device { measurements: two.measurements.clone(), ..one.clone() };
    refused(&judge(&[one.clone(), two.clone(), again]), check, "is there twice");
    refused(&judge(&[one.clone(), Device::blackwell(2, NONCE)]), check, "of another kind");
    let mut other_board = two;
    other_board.field(15, b"886\0".to_vec());
    refused(&judge(&[one.clone(), other_board]), check, "of another kind");
    let set = |board: Option<&str>| GpuSet {
        chip: "GH100".into(),
        count: 1,
        board: board.map(Into::into),
        nvswitches: 0,
    };
    let (roots, evidence) = (all_roots(), nvidia::evidence(&[one]));
    let judge_set = |set: Expect<GpuSet>| {
        let policy = GpuPolicy { set, ..GpuPolicy::strict() };
        judge_with(roots, &policy, &evidence)
    };
    assert_eq!(judge_set(Expect::Exactly(set(None))).exit_code(), 0);
    assert_eq!(judge_set(Expect::Exactly(set(Some("G520_0200_885")))).exit_code(), 0);
    let other = judge_set(Expect::OneOf(vec![set(Some("G520_0200_886"))]));
    refused(&other, check, "found 1 GPU GH100 on G520_0200_885");
    let two = GpuSet { count: 2, ..set(None) };
    refused(&judge_set(Expect::Exactly(two)), check, "expected 2 GPU GH100");
}

#[test]
fn a_mesh_with_one_link_wrong_is_refused() {
    let check = CheckName::GpuFabric;
    let with = |change: &dyn Fn(&mut Vec<Device>)| {
        let mut devices = Device::hopper_machine(NONCE);
        change(&mut devices);
        judge(&devices)
    };
    refused(&with(&|d| _ = d.pop()), check, "is linked to switches");
    refused(&with(&|d| _ = d.remove(0)), check, "is linked to 8 GPUs, not 7");
    refused(&with(&|d| d.truncate(8)), check, "is in mode PPCIE, found 0 switches");
    refused(&with(&|d| d[3].field(36, vec![0, 0])), check, "is not in mode PPCIE");
    refused(&with(&|d| d[3].field(36, vec![])), check, "is not in mode PPCIE");
    let one_wrong = |d: &mut Vec<Device>| {
        let (at, field) = d[5].opaque.iter().enumerate().find(|(_, f)| f.0 == 22).unwrap();
        let mut links = field.1.clone();
        links[0] ^= 1;
        d[5].opaque[at].1 = links;
    };
    refused(&with(&one_wrong), check, "NVIDIA:GH100:48B02D0000000006 is linked to switches");
    let other_gpu = |d: &mut Vec<Device>| {
        let gpus = d[10].opaque.iter_mut().find(|(field, _)| *field == 26).unwrap();
        gpus.1[0] ^= 1;
    };
    refused(&with(&other_gpu), check, "is linked to other GPUs");
    let lonely = |d: &mut Vec<Device>| {
        for switch in &mut d[8..] {
            let gpus = switch.opaque.iter_mut().find(|(field, _)| *field == 26).unwrap();
            gpus.1.copy_within(0..8, 8);
        }
    };
    refused(&with(&lonely), check, "is linked to 7 GPUs, not 8");
    let same = |d: &mut Vec<Device>| d[9].field(22, vec![100, 2, 3, 4, 5, 6, 7, 8]);
    refused(&with(&same), check, "two switches state the number");
}

#[test]
fn several_blackwells_must_all_encrypt_their_links() {
    let check = CheckName::GpuFabric;
    let with = |change: &dyn Fn(&mut Vec<Device>)| {
        let mut devices = Device::blackwells(4, NONCE);
        change(&mut devices);
        judge(&devices)
    };
    assert_eq!(with(&|_| ()).exit_code(), 0);
    refused(&with(&|d| d[3].field(36, vec![0, 0])), check, "0004 is in mode SPT");
    refused(&with(&|d| d[0].field(36, vec![])), check, "0001 states no mode");
    let all_alone = |d: &mut Vec<Device>| d.iter_mut().for_each(|d| d.field(36, vec![0, 0]));
    refused(&with(&all_alone), check, "MPT");
    // One GPU has no link to another.
    for mode in [&[0, 0][..], &[1, 0], &[]] {
        let mut one = Device::blackwell(1, NONCE);
        one.field(36, mode.to_vec());
        assert_eq!(judge(&[one]).exit_code(), 0, "{mode:?}");
    }
}

#[test]
fn a_chip_is_known_by_its_own_name_or_its_family_and_the_signed_report() {
    let set = |chip: &str| GpuSet { chip: chip.into(), count: 1, board: None, nvswitches: 0 };
    let judge_set = |device: Device, chip| {
        let policy = GpuPolicy { set: Expect::Exactly(set(chip)), ..GpuPolicy::strict() };
        judge_with(all_roots(), &policy, &nvidia::evidence(&[device]))
    };
    let rtx = || Device::rtx(1, NONCE);
    assert_eq!(judge_set(rtx(), "GB202").exit_code(), 0);
    assert_eq!(judge_set(rtx(), "GB20X").exit_code(), 0);
    let check = CheckName::GpuSet;
    refused(&judge_set(rtx(), "GB203"), check, "found 1 GPU GB202");
    refused(&judge_set(rtx(), "GB100"), check, "found 1 GPU GB202");
    refused(&judge_set(Device::blackwell(1, NONCE), "GB202"), check, "found 1 GPU GB100");
    assert_eq!(judge_set(Device::blackwell(1, NONCE), "GB10X").exit_code(), 0);
    // A report makes no chip of one that its certificate is not for.
    let found = |mut device: Device, said: &str, chip| {
        device.field(35, said.as_bytes().to_vec());
        let verdict = judge_set(device, chip);
        let check = verdict.check(CheckName::GpuSet).unwrap();
        assert_eq!(check.outcome, Outcome::Failed, "{verdict}");
        check.found.clone()
    };
    for said in ["GB100", "GB2020", "GB20X", ""] {
        assert!(found(rtx(), said, "GB202").contains("GPU GB20X"), "{said}");
    }
    assert!(found(Device::blackwell(1, NONCE), "GB202", "GB202").contains("GPU GB100"));
}

#[test]
fn versions_below_the_floor_are_refused() {
    let (roots, evidence) = (all_roots(), nvidia::evidence(&[Device::hopper(1, NONCE)]));
    let check = CheckName::GpuVersions;
    let strict = GpuPolicy::strict();
    let judge_policy = |policy: GpuPolicy| judge_with(roots, &policy, &evidence);
    let mut policy = strict.clone();
    policy.driver_floor.insert(Architecture::Hopper, "590.12.1".parse().unwrap());
    refused(&judge_policy(policy.clone()), check, "driver at least 590.12.1");
    policy.driver_floor.clear();
    refused(&judge_policy(policy), check, "that the policy has a floor for");
    let architecture = Expect::Exactly(Architecture::Blackwell);
    refused(&judge_policy(GpuPolicy { architecture, ..strict.clone() }), check, "found");
    let vbios = Expect::OneOf(vec!["96.00.A6.00.01".to_owned()]);
    refused(&judge_policy(GpuPolicy { vbios, ..strict.clone() }), check, nvidia::VBIOS);
    let vbios = Expect::Exactly(nvidia::VBIOS.to_owned());
    assert_eq!(judge_policy(GpuPolicy { vbios, ..strict }).exit_code(), 0);
}

#[test]
fn measurements_are_held_to_signed_manifests() {
    let check = CheckName::GpuMeasurements;
    let device = Device::hopper(1, NONCE);
    let evidence = nvidia::evidence(std::slice::from_ref(&device));
    let judge_rims = |rims: &[Rim]| judge_with(&roots_with(rims), &GpuPolicy::strict(), &evidence);
    let (driver, vbios) = (Rim::all()[0].clone(), Rim::all()[1].clone());
    refused(&judge_rims(&[]), check, "unverified: no reference integrity manifest for driver");
    refused(
        &judge_rims(std::slice::from_ref(&driver)),
        check,
        "no reference integrity manifest for VBIOS",
    );
    let with = |change: &dyn Fn(&mut Rim)| {
        let mut driver = driver.clone();
        change(&mut driver);
        judge_rims(&[driver, vbios.clone()])
    };
    refused(&with(&|r| r.golden[1].2 = vec![vec![0; 48]]), check, "other measurements at 2");
    refused(&with(&|r| r.golden[1].0 = 64), check, "other measurements at 64");
    refused(&with(&|r| r.golden[1].0 = 3), check, "two manifests name measurement 3");
    refused(&with(&|r| r.golden[1].0 = 1), check, "measurement 1 stands there twice");
    refused(&with(&|r| r.golden[1].2.clear()), check, "1 to 64 alternatives");
    refused(&with(&|r| r.golden.iter_mut().for_each(|g| g.1 = false)), check, "no active");
    let inactive = |r: &mut Rim| (r.golden[1].1, r.golden[1].2[1]) = (false, vec![0; 48]);
    assert_eq!(with(&inactive).exit_code(), 0, "what is inactive does not count");
    refused(&with(&|r| r.signer.by = 7), check, "unverified");
    refused(&with(&|r| r.signer.from = 0), check, "is valid from");
    refused(&with(&|r| r.signer.usage = KeyUsages::CRLSign), check, "expected digitalSignature");
    // The decoder's measurement counts only while the decoder is on.
    let mut other = device;
    other.measurements[35] = vec![0; 48];
    refused(&judge(&[other.clone()]), check, "other measurements at 35");
    other.field(11, vec![0x55]);
    assert_eq!(judge(&[other]).exit_code(), 0);
    // What the policy does not ask for is told and not judged.
    let policy = GpuPolicy { measurements_match: Expect::Any, ..GpuPolicy::strict() };
    let verdict = judge_with(&roots_with(&[]), &policy, &evidence);
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let found = verdict.check(check).unwrap();
    assert_eq!(found.outcome, Outcome::Skipped);
    assert!(found.found.contains("unverified: no reference integrity manifest"), "{verdict}");
}

#[test]
fn a_changed_manifest_is_refused() {
    let evidence = nvidia::evidence(&[Device::hopper(1, NONCE)]);
    let good = Rim::all()[0].xml();
    let with = |xml: &str| {
        let mut store = RimStore::default();
        store.add(xml.as_bytes()).unwrap();
        store.add(Rim::all()[1].xml().as_bytes()).unwrap();
        let roots = Roots::amd().unwrap().with_simulated_gpus(&nvidia::root()).unwrap();
        judge_with(&roots.with_gpu_manifests(store), &GpuPolicy::strict(), &evidence)
    };
    assert_eq!(with(&good).exit_code(), 0);
    let check = CheckName::GpuMeasurements;
    for (from, to, words) in [
        ("eeee", "eeef", "does not hash"),
        ("name=\"n\"", "name=\"o\"", "does not hash"),
        ("<Payload>", "<Payload>\n", "does not hash"),
        ("</Payload>", "<!-- c --></Payload>", "comments"),
        ("#ecdsa-sha384", "#ecdsa-sha256", "ecdsa-sha256"),
        ("URI=\"\"", "URI=\"#a\"", "whole document"),
        ("#enveloped-signature", "#other", "expected http"),
        ("<ds:SignatureValue>", "<ds:SignatureValue>AAAA", "signature"),
        ("<ds:SignedInfo>", "<ds:SignedInfo><ds:Object></ds:Object>", "one reference"),
        ("<ds:KeyInfo>", "<ds:Object></ds:Object><ds:KeyInfo>", "SignedInfo, SignatureValue"),
        (
            "</ds:Signature>",
            "</ds:Signature><ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"></ds:Signature>",
            "Signature elements",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        let verdict = with(&good.replacen(from, to, 1));
        assert_eq!(verdict.exit_code(), 3, "{from}: {verdict}");
        let found = &verdict.check(check).unwrap().found;
        assert!(found.contains("unverified") && found.contains(words), "{from}: {found}");
    }
    // The same text in another writing is the same document.
    assert_eq!(with(&good.replace("></Meta>", "/>")).exit_code(), 0);
    assert_eq!(with(&good.replace("<Meta ", "<Meta\n  ")).exit_code(), 0);
    let mut store = RimStore::default();
    store.add(good.as_bytes()).unwrap();
    store.add(good.as_bytes()).unwrap();
    assert_eq!(store.len(), 1);
    assert!(store.add(good.replacen("eeee", "eeef", 1).as_bytes()).is_err(), "a second one");
    for bad in ["", "<a/>", "<SoftwareIdentity/>", "\u{0}"] {
        assert!(store.add(bad.as_bytes()).is_err(), "{bad:?}");
    }
    assert!(store.add(&[0xff]).is_err());
}

#[test]
fn what_is_no_gpu_evidence_is_refused() {
    let (roots, policy) = (roots_with(&[]), GpuPolicy::strict());
    let check = CheckName::GpuCertificates;
    let good = nvidia::evidence(&[Device::hopper(1, NONCE)]);
    let with = |text: &str| judge_with(&roots, &policy, text);
    refused(&with(""), check, "not the expected JSON");
    refused(&with("{}"), check, "not the expected JSON");
    refused(&with("{\"schema\":1,\"devices\":[]}"), check, "0 devices, expected 1 to 64");
    refused(&with(&good.replace("\"schema\":1", "\"schema\":2")), check, "schema 2, expected 1");
    refused(&with(&good.replace("HOPPER", "RUBIN")), check, "not the expected JSON");
    refused(&with(&good.replace("{\"schema\"", "{\"x\":1,\"schema\"")), check, "unknown field");
    let device = good.split_once('[').unwrap().1.rsplit_once(']').unwrap().0;
    let many = format!("{{\"schema\":1,\"devices\":[{}]}}", vec![device; 65].join(","));
    refused(&with(&many), check, "65 devices");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a device says, there is a verdict.
    #[test]
    fn no_report_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..4500) {
        let device = Device::hopper(1, NONCE);
        let genuine = device.evidence();
        let mut report = device.unsigned();
        let at = cut.min(report.len());
        report.truncate(at);
        report.extend(&bytes);
        prop_assume!(report != device.unsigned());
        let (roots, policy) = (all_roots(), GpuPolicy::strict());
        for report in [device.sign(report.clone()), report, bytes] {
            let mut evidence = genuine.clone();
            evidence.report.0 = report;
            let verdict = judge_with(roots, &policy, &nvidia::json(vec![evidence]));
            prop_assert_ne!(verdict.exit_code(), 0);
        }
    }

    /// Whatever a manifest says, adding it ends.
    #[test]
    fn no_manifest_panics(text in "[<>/a-z\"=:& \\[\\]!?-]{0,200}", at in 0_usize..3000) {
        let mut good = Rim::all()[0].xml();
        let at = at.min(good.len());
        good.insert_str(at, &text);
        let mut store = RimStore::default();
        _ = store.add(good.as_bytes());
        _ = store.add(text.as_bytes());
    }
}

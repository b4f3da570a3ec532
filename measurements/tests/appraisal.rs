//! Evidence, genuine and not, wanted and not: each refusal is for its own reason.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod amd;
mod chains;
mod gpu_devices;
mod gpu_others;
mod gpu_samples;
mod gpu_vms;
mod nvidia;
mod ovmf;
mod processors;
mod release;
mod scene;
mod vectors;

use amd::{Endorsed, Maker};
use casemate_measurements::appraisal::{
    CheckName, Expect, KnownRelease, Outcome, Policy, UnlistedShapes, Verdict, Vmpl,
};
use casemate_measurements::binding;
use casemate_measurements::certificates::CertificateTable;
use casemate_measurements::evidence::{Base64Bytes, Evidence};
use casemate_measurements::hash::{HostData, LaunchDigest, Nonce, Sha256Hash};
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::report::{self, Unsigned, platform_info};
use casemate_measurements::roots::Roots;
use casemate_measurements::tcb::{Product, Tcb};
use proptest::prelude::*;
use scene::{HOST_KEY, Scene, refused, scene};

#[test]
fn good_evidence_is_accepted_and_names_the_shape() {
    let verdict = scene().verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert!(verdict.is_genuine() && verdict.is_accepted());
    assert_eq!(verdict.attested_ssh_host_key(), Some(HOST_KEY));
    assert_eq!(verdict.shape(), Some(&release::shape("EPYC-v4", 4)));
    let skipped: Vec<_> = verdict
        .checks()
        .iter()
        .filter(|check| check.outcome == Outcome::Skipped)
        .map(|check| check.name)
        .collect();
    let mut expected = vec![CheckName::Revocation];
    expected.extend([CheckName::GpuCertificates, CheckName::GpuReports, CheckName::GpuNonce]);
    expected.extend([
        CheckName::RevocationList,
        CheckName::PolicyExpiry,
        CheckName::ReleaseManifest,
        CheckName::ReleaseExpiry,
        CheckName::Vcpus,
        CheckName::CpuModel,
        CheckName::Smt,
        CheckName::Tsme,
        CheckName::Rapl,
        CheckName::CiphertextHiding,
        CheckName::ChipAllowed,
        CheckName::ChipDenied,
        CheckName::LaunchConfig,
        CheckName::SshKeys,
        CheckName::GpuFabric,
    ]);
    expected.extend([CheckName::GpuVersions, CheckName::GpuMeasurements]);
    expected.extend([CheckName::GpuRevocation, CheckName::GpuSecondOpinion]);
    assert_eq!(skipped, expected);
}

#[test]
fn every_line_of_a_simulated_verdict_says_so() {
    let mut scene = scene();
    for (policy, exit_code) in [(scene.policy.clone(), 0), (scene.policy.clone(), 3)] {
        scene.policy = policy;
        if exit_code == 3 {
            scene.policy.vmpl = Expect::Exactly(Vmpl::try_from(1).unwrap());
        }
        let verdict = scene.verdict();
        assert_eq!(verdict.exit_code(), exit_code);
        assert!(verdict.is_simulated());
        assert!(verdict.to_string().lines().all(|line| line.contains("SIMULATED")), "{verdict}");
        assert!(verdict.summary().contains("SIMULATED"));
    }
}

#[test]
fn simulated_evidence_is_refused_by_default() {
    let mut scene = scene();
    scene.policy = Policy::for_release(&scene.manifest.release);
    refused(&scene.verdict(), 2, &[CheckName::Platform]);
    // Even where the policy says simulated, a root must be given by hand.
    scene.policy = scene.policy.simulated();
    scene.roots = Roots::amd().unwrap();
    let verdict = scene.verdict();
    refused(&verdict, 2, &[CheckName::Chain]);
    assert!(verdict.summary().contains("SIMULATED"), "{verdict}");
}

#[test]
fn a_simulated_chain_is_worth_nothing_for_the_real_platform() {
    let mut scene = scene();
    scene.policy.platform = Expect::Any;
    scene.platform = Platform::Snp;
    refused(&scene.verdict(), 2, &[CheckName::Chain]);
    scene.table.ark = None;
    let verdict = scene.verdict();
    refused(&verdict, 2, &[CheckName::Chain]);
    assert!(verdict.summary().contains("no root that this verifier trusts"), "{verdict}");
}

#[test]
fn a_release_for_one_platform_is_not_accepted_on_the_other() {
    let mut scene = scene();
    scene.manifest = release::manifest(Platform::Snp);
    scene.fields.measurement = scene.manifest.law.digest(&release::shape("EPYC-v4", 1));
    refused(&scene.verdict(), 3, &[CheckName::ReleasePlatform]);
}

#[test]
fn evidence_that_is_none_is_refused() {
    let scene = scene();
    let evidence = scene.evidence();
    let good = serde_json::to_vec(&evidence).unwrap();
    for bytes in [&b""[..], b"null", b"{}", b"\xff", &good[..good.len() - 1], &vec![b' '; 5 << 20]]
    {
        refused(&scene.judge_bytes(bytes), 2, &[CheckName::Evidence]);
    }
    let other = Evidence { schema: 2, ..evidence.clone() };
    refused(&scene.judge(&other), 2, &[CheckName::Evidence]);
    let unknown = String::from_utf8(good).unwrap().replacen('{', "{\"\\u001b[31mx\":1,", 1);
    let verdict = scene.judge_bytes(unknown.as_bytes());
    refused(&verdict, 2, &[CheckName::Evidence]);
    assert!(!verdict.to_string().contains('\u{1b}'), "a host must not write to the terminal");
    let short = Evidence { report: Base64Bytes(vec![0; 100]), ..evidence.clone() };
    refused(&scene.judge(&short), 2, &[CheckName::Report]);
    let table = Evidence { certificates: Base64Bytes(vec![1; 100]), ..evidence.clone() };
    refused(&scene.judge(&table), 2, &[CheckName::Chain]);
    let none = Evidence { certificates: Base64Bytes(vec![]), ..evidence };
    refused(&scene.judge(&none), 2, &[CheckName::Chain]);
}

#[test]
fn old_evidence_is_refused() {
    let mut scene = scene();
    let old = scene.evidence();
    scene.session.nonce = Nonce::from_bytes([0x43; 32]);
    refused(&scene.judge(&old), 2, &[CheckName::Nonce]);
    // The echo is the host's word: changed, the report still says which nonce it answered.
    let dressed = Evidence { nonce: scene.session.nonce, ..old };
    refused(&scene.judge(&dressed), 2, &[CheckName::ReportNonce]);
}

#[test]
fn evidence_through_another_tls_endpoint_is_refused() {
    let mut scene = scene();
    let evidence = scene.evidence();
    scene.session.tls_spki_sha256 = Sha256Hash::of(b"the proxy's key");
    refused(&scene.judge(&evidence), 2, &[CheckName::TlsKey]);
}

#[test]
fn nothing_that_is_bound_may_be_exchanged() {
    let scene = scene();
    let evidence = scene.evidence();
    let other_key = evidence.binding.replace("AAAAC3", "AAAAC4");
    assert_ne!(other_key, evidence.binding);
    let other = Evidence { binding: other_key, ..evidence.clone() };
    refused(&scene.judge(&other), 2, &[CheckName::ReportBinding]);
    // The same JSON in another spelling is other bytes.
    let spaced = Evidence { binding: format!("{} ", evidence.binding), ..evidence.clone() };
    refused(&scene.judge(&spaced), 2, &[CheckName::ReportBinding]);
    let config = evidence.launch_config.replace("me\"", "you\"");
    assert_ne!(config, evidence.launch_config);
    let other = Evidence { launch_config: config, ..evidence.clone() };
    refused(&scene.judge(&other), 2, &[CheckName::LaunchConfigBound, CheckName::HostData]);
    let gpu = Evidence { gpu_evidence: Some("{}".into()), ..evidence };
    let failed = [CheckName::GpuEvidenceBound, CheckName::GpuCertificates];
    refused(&scene.judge(&gpu), 2, &failed);
}

#[test]
fn a_launch_config_that_the_vm_was_not_started_with_is_refused() {
    let mut scene = scene();
    scene.fields.host_data = HostData::from_bytes([0; 32]);
    refused(&scene.verdict(), 2, &[CheckName::HostData]);
}

#[test]
fn a_binding_of_another_shape_is_refused_even_when_it_is_bound() {
    let scene = scene();
    let mut evidence = scene.evidence();
    evidence.binding = evidence.binding.replacen('{', "{\"x\":1,", 1);
    let report_data = binding::report_data(&scene.session.nonce, evidence.binding.as_bytes());
    let fields = Unsigned { report_data, ..scene.fields.clone() };
    evidence.report = Base64Bytes(amd::sign_bytes(&fields.signed_bytes()));
    refused(&scene.judge(&evidence), 2, &[CheckName::Binding]);
}

#[test]
fn a_report_that_was_not_signed_so_is_refused_before_it_is_read() {
    let scene = scene();
    let mut evidence = scene.evidence();
    // One bit of the measurement, of HOST_DATA, of REPORT_DATA, of the policy, of R and of S.
    for at in [0x90, 0xc0, 0x50, 0x08, 0x2a0, 0x2e8] {
        evidence.report.0[at] ^= 1;
        refused(&scene.judge(&evidence), 2, &[CheckName::Signature]);
        evidence.report.0[at] ^= 1;
    }
    assert_eq!(scene.judge(&evidence).exit_code(), 0);
}

#[test]
fn a_key_is_endorsed_for_one_tcb_chip_and_product() {
    let mut scene = scene();
    let maker = Maker::get();
    let genoa = Endorsed::genoa();
    let older = Endorsed { tcb: Tcb { microcode: 83, ..genoa.tcb }, ..genoa.clone() };
    scene.table = maker.table(&older);
    refused(&scene.verdict(), 2, &[CheckName::EndorsedTcb]);
    scene.table = maker.table(&Endorsed { hardware_id: vec![0xc2; 64], ..genoa.clone() });
    refused(&scene.verdict(), 2, &[CheckName::Chip]);
    for hardware_id in [vec![], vec![0xc1; 8], vec![0; 64]] {
        scene.table = maker.table(&Endorsed { hardware_id, ..genoa.clone() });
        refused(&scene.verdict(), 2, &[CheckName::Chip]);
    }
    for product in ["Milan-B0", "Turin", "Naples"] {
        scene.table = maker.table(&Endorsed { product, ..genoa.clone() });
        refused(&scene.verdict(), 2, &[CheckName::Chain]);
    }
}

#[test]
fn chains_must_hold_in_every_link() {
    let mut scene = scene();
    let maker = Maker::get();
    let good = maker.table(&Endorsed::genoa());
    let genoa = Endorsed::genoa;
    let tables = [
        (
            "names the issuer",
            CertificateTable {
                ask: Some(maker.ask_named("OTHER SIMULATED", true)),
                ..good.clone()
            },
        ),
        (
            "no authority",
            CertificateTable { ask: Some(maker.ask_named("ASK SIMULATED", false)), ..good.clone() },
        ),
        (
            "no root that this verifier trusts",
            CertificateTable { ark: Some(maker.root_named("ARK SIMULATED")), ..good.clone() },
        ),
        ("not signed by the ASK", {
            // The last byte of the certificate is of its signature.
            let mut vcek = maker.vcek(&genoa());
            *vcek.last_mut().unwrap() ^= 1;
            CertificateTable { vcek: Some(vcek), ..good.clone() }
        }),
        ("valid from", maker.table(&Endorsed { from: amd::NOW + 1, ..genoa() })),
        ("valid from", maker.table(&Endorsed { from: amd::NOW - 2 * 31_536_000, ..genoa() })),
        ("expected SIMULATED in its name", maker.table(&Endorsed { name: "SEV-VCEK", ..genoa() })),
        ("unknown", maker.table(&Endorsed { extra: Some("1.2.3.4"), ..genoa() })),
        ("twice there", maker.table(&Endorsed { extra: Some("1.3.6.1.4.1.3704.1.4"), ..genoa() })),
    ];
    for (expected, table) in tables {
        scene.table = table;
        let verdict = scene.verdict();
        refused(&verdict, 2, &[CheckName::Chain]);
        let found = &verdict.check(CheckName::Chain).unwrap().found;
        assert!(found.contains(expected), "{expected}: {found}");
    }
    // Without a root in the table the trusted one is used.
    scene.table = CertificateTable { ark: None, ..good };
    assert_eq!(scene.verdict().exit_code(), 0);
}

#[test]
fn only_a_root_that_says_simulated_can_be_given_as_one() {
    let maker = Maker::get();
    let roots = || Roots::amd().unwrap();
    assert!(roots().with_simulated(&maker.root_named("ARK-Genoa")).is_err());
    assert!(roots().with_simulated(&maker.ask).is_err(), "not self-signed");
    assert!(roots().with_simulated(b"junk").is_err());
    assert!(roots().with_simulated(&maker.ark).unwrap().trusts_simulated());
}

#[test]
fn another_launch_is_refused_and_an_unlisted_shape_is_named() {
    let mut scene = scene();
    scene.fields.measurement = LaunchDigest::from_bytes([1; 48]);
    let verdict = scene.verdict();
    refused(&verdict, 3, &[CheckName::Measurement]);
    assert!(verdict.summary().contains("no launch of this release"), "{verdict}");
    let shape = release::shape("EPYC-Milan", 3);
    scene.fields.measurement = scene.manifest.law.digest(&shape);
    let verdict = scene.verdict();
    refused(&verdict, 3, &[CheckName::Measurement]);
    assert!(verdict.summary().contains("3 x EPYC-Milan"), "{verdict}");
    scene.policy.shapes.unlisted = UnlistedShapes::AcceptByLaw;
    let verdict = scene.verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert_eq!(verdict.shape(), Some(&shape));
}

#[test]
fn a_manifest_that_contradicts_itself_is_no_release() {
    let mut manifest = scene().manifest;
    manifest.reference_values[0].measurement = LaunchDigest::from_bytes([9; 48]);
    let error = KnownRelease::new(manifest).unwrap_err().to_string();
    assert!(error.contains("by the law"), "{error}");
}

/// What a test changes of a scene.
type Change = Box<dyn Fn(&mut Scene)>;

#[test]
fn what_a_genuine_report_says_must_be_wanted() {
    let policy = |raw| GuestPolicy::new(raw).unwrap();
    let older = Tcb { snp: 22, ..Endorsed::genoa().tcb };
    let changes: Vec<(Change, &[CheckName])> = vec![
        (
            Box::new(move |scene| scene.fields.policy = policy(0xb0000)),
            &[CheckName::GuestPolicy, CheckName::Debug],
        ),
        (
            Box::new(move |scene| scene.fields.policy = policy(0x70000)),
            &[CheckName::GuestPolicy, CheckName::Migration],
        ),
        (Box::new(move |scene| scene.fields.policy = policy(0x20000)), &[CheckName::GuestPolicy]),
        (
            Box::new(move |scene| {
                // A release that asks for it is refused all the same.
                scene.fields.policy = policy(0xb0000);
                scene.manifest.guest_policy = policy(0xb0000);
            }),
            &[CheckName::Debug],
        ),
        (Box::new(|scene| scene.fields.vmpl = 1), &[CheckName::Vmpl]),
        (
            Box::new(move |scene| {
                scene.fields.tcb = older.to_raw(Product::Genoa);
                let endorsed = Endorsed { tcb: older, ..Endorsed::genoa() };
                scene.table = Maker::get().table(&endorsed);
            }),
            &[CheckName::TcbFloor],
        ),
        (Box::new(|scene| scene.policy.tcb_floor.clear()), &[CheckName::TcbFloor]),
        (
            Box::new(|scene| scene.fields.platform_info &= !platform_info::ALIAS_CHECK),
            &[CheckName::AliasCheck],
        ),
        (Box::new(|scene| scene.policy.machine.smt = Expect::Exactly(false)), &[CheckName::Smt]),
        (
            Box::new(|scene| scene.policy.launch_config = Expect::Exactly(Sha256Hash::of(b"x"))),
            &[CheckName::LaunchConfig],
        ),
    ];
    for (change, failed) in changes {
        let mut scene = scene();
        change(&mut scene);
        refused(&scene.verdict(), 3, failed);
    }
}

#[test]
fn a_launch_config_that_no_guest_would_take_is_refused() {
    let mut scene = scene();
    scene.launch_config = "{}".into();
    let hash = Sha256Hash::of(b"{}");
    scene.binding.launch_config_sha256 = hash;
    scene.fields.host_data = hash.into();
    refused(&scene.verdict(), 3, &[CheckName::LaunchConfig]);
}

#[test]
fn committed_and_launch_tcb_are_held_to_the_floor_too() {
    for at in [0x1e0 + 6, 0x1f0 + 6] {
        let scene = scene();
        let mut evidence = scene.evidence();
        let mut signed = [0; report::SIGNED_LEN];
        signed.copy_from_slice(&evidence.report.0[..report::SIGNED_LEN]);
        signed[at] -= 1;
        evidence.report = Base64Bytes(amd::sign_bytes(&signed));
        refused(&scene.judge(&evidence), 3, &[CheckName::TcbFloor]);
    }
}

#[test]
fn a_verdict_has_a_json_form() {
    let scene = scene();
    let json = serde_json::to_string(&scene.verdict()).unwrap();
    assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), scene.verdict());
    assert!(serde_json::from_str::<Verdict>(&json.replacen('{', "{\"x\":1,", 1)).is_err());
    let verdict = serde_json::to_value(scene.verdict()).unwrap();
    assert_eq!(verdict["genuine"], true);
    assert_eq!(verdict["acceptable"], true);
    assert_eq!(verdict["simulated"], true);
    assert_eq!(verdict["ssh_host_key"], HOST_KEY);
    assert_eq!(verdict["shape"]["cpu_model"], "EPYC-v4");
    assert_eq!(verdict["checks"][0]["name"], "evidence");
    assert_eq!(verdict["checks"][0]["outcome"], "passed");
    assert_eq!(verdict["checks"][0]["source"], "format");
}

/// Someone else's real report: its chain and signature hold, and it says nothing to us.
#[test]
fn a_real_report_of_another_vm_is_not_genuine_for_this_session() {
    if vectors::folder().is_none() {
        return;
    }
    let read = |name: &str| vectors::read(&format!("reports/ms_tav/{name}"));
    let mut scene = scene();
    scene.policy = Policy::for_release(&scene.manifest.release);
    scene.platform = Platform::Snp;
    let report = read("genoa_attestation_report.bin").unwrap();
    scene.session.nonce = Nonce::from_bytes(report[0x50..0x70].try_into().unwrap());
    scene.table = CertificateTable {
        vcek: read("genoa_vcek.pem"),
        vlek: None,
        ask: read("genoa_ask.pem"),
        ark: read("genoa_ark.pem"),
    };
    let evidence = Evidence { report: Base64Bytes(report), ..scene.evidence() };
    let verdict = scene.judge(&evidence);
    refused(&verdict, 2, &[CheckName::ReportBinding]);
    for name in [CheckName::Chain, CheckName::EndorsedTcb, CheckName::Chip, CheckName::Signature] {
        assert_eq!(verdict.check(name).unwrap().outcome, Outcome::Passed, "{verdict}");
    }
    assert!(!verdict.is_simulated() && !verdict.to_string().contains("SIMULATED"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_changed_byte_of_evidence_panics_or_is_accepted_as_another(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let scene = scene();
        let good = scene.evidence();
        let mut bytes = serde_json::to_vec(&good).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let verdict = scene.judge_bytes(&bytes);
        if verdict.is_accepted() {
            // Certificates may be missing whose place a trusted one takes; nothing else differs.
            let changed = serde_json::from_slice::<Evidence>(&bytes).unwrap();
            let certificates = good.certificates.clone();
            prop_assert_eq!(Evidence { certificates, ..changed }, good);
        }
    }
}

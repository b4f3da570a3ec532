//! Acceptable? Is what a genuine report says what the verifier wants?

use crate::hash::Sha256Hash;
use crate::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use crate::launch_config::LaunchConfig;
use crate::manifest::{Manifest, ReferenceValue};
use crate::platform::Platform;
use crate::policy::GuestPolicy;
use crate::report::{Report, platform_info};
use crate::tcb::{Product, Tcb};

use super::Appraiser;
use super::genuine::Claim;
use super::policy::{Expect, Policy, UnlistedShapes};
use super::verdict::{CheckName, Recorder, platform_text};

const ANY: &str = "not judged: the policy accepts any";

/// Judges, recording every check.
pub(super) fn judge(appraiser: &Appraiser<'_>, claim: &Claim, recorder: &mut Recorder) {
    let (manifest, policy) = (appraiser.manifest, appraiser.policy);
    let report = claim.report.report();
    recorder.measurement = Some(report.measurement());
    recorder.skip(
        CheckName::Revocation,
        &"no certificate revoked",
        "not judged: no revocation list is consulted",
    );
    judge_release(manifest, policy, claim.evidence.platform, recorder);
    if let Some(manifest) = recorder.step(
        CheckName::Manifest,
        "artifacts, law and table that agree",
        manifest.check().map(|()| manifest),
        |manifest| format!("{} launch digests agree", manifest.reference_values.len()),
    ) {
        judge_measurement(manifest, policy, report, recorder);
    }
    judge_guest_policy(manifest, report, recorder);
    expect(recorder, CheckName::Vmpl, &policy.vmpl, &report.vmpl());
    judge_tcb(policy, report, claim.product, recorder);
    judge_machine(policy, report, recorder);
    judge_launch_config(policy, &claim.evidence.launch_config, recorder);
    let found = claim.evidence.gpu_evidence.is_some();
    expect(recorder, CheckName::GpuEvidence, &policy.gpu_evidence, &found);
}

/// Records an expectation; what may be anything is not judged.
fn expect<T>(recorder: &mut Recorder, name: CheckName, expected: &Expect<T>, found: &T)
where
    T: PartialEq + std::fmt::Display,
{
    match expected.accepts(found) {
        Some(passed) => _ = recorder.record(name, passed, expected, found),
        None => recorder.skip(name, expected, &format!("{ANY}, found {found}")),
    }
}

fn judge_release(
    manifest: &Manifest,
    policy: &Policy,
    platform: Platform,
    recorder: &mut Recorder,
) {
    let release = &manifest.release;
    let expected = format!("{} {}", policy.release_name, policy.release_version);
    let found = format!("{} {}", release.name, release.version);
    let name = policy.release_name.accepts(&release.name);
    match (name, policy.release_version.accepts(&release.version)) {
        (None, None) => recorder.skip(CheckName::Release, &expected, &format!("{ANY}: {found}")),
        (name, version) => {
            let passed = name.unwrap_or(true) && version.unwrap_or(true);
            recorder.record(CheckName::Release, passed, &expected, &found);
        }
    }
    let (expected, found) = (platform_text(platform), platform_text(release.platform));
    recorder.equal(CheckName::ReleasePlatform, &expected, &found);
}

fn judge_measurement(
    manifest: &Manifest,
    policy: &Policy,
    report: &Report,
    recorder: &mut Recorder,
) {
    let found = report.measurement();
    let expected = format!("one of the {} listed", manifest.reference_values.len());
    let listed = manifest.find_measurement(&found).map(ReferenceValue::shape);
    let by_law = || {
        let shapes: Vec<Shape> = unlisted_shapes().collect();
        let digests = manifest.law.matrix(&shapes);
        shapes.into_iter().zip(digests).find(|(_, digest)| *digest == found).map(|(shape, _)| shape)
    };
    let (passed, text) = match (listed, policy.unlisted_shapes) {
        (Some(shape), _) => {
            recorder.shape = Some(shape);
            (true, format!("{found} ({shape})"))
        }
        (None, rule) => match by_law() {
            None => (false, format!("{found}, which is no launch of this release")),
            Some(shape) => {
                recorder.shape = Some(shape);
                let text = format!("{found} ({shape}), by the law, not in the table");
                (rule == UnlistedShapes::AcceptByLaw, text)
            }
        },
    };
    recorder.record(CheckName::Measurement, passed, &expected, &text);
}

/// Shapes that a report may be of although the table does not list them: stock QEMU with every
/// CPU signature, by the model that names it first.
fn unlisted_shapes() -> impl Iterator<Item = Shape> {
    let first = |model: &CpuModel| {
        let same = |other: &&CpuModel| other.signature() == model.signature();
        CpuModel::ALL.iter().find(same) == Some(model)
    };
    CpuModel::ALL.into_iter().filter(first).flat_map(|cpu_model| {
        (1..=u64::from(VcpuCount::MAX)).filter_map(|count| VcpuCount::new(count).ok()).map(
            move |vcpus| Shape {
                vmm: Vmm::Qemu,
                cpu_model,
                guest_features: GuestFeatures::SNP_ACTIVE,
                vcpus,
            },
        )
    })
}

fn judge_guest_policy(manifest: &Manifest, report: &Report, recorder: &mut Recorder) {
    let (expected, found) = (manifest.guest_policy.to_string(), format!("{:#x}", report.policy()));
    recorder.equal(CheckName::GuestPolicy, &expected, &found);
    // A policy that this code cannot read allows everything.
    let policy = GuestPolicy::new(report.policy()).ok();
    let text = |allowed: bool| if allowed { "allowed" } else { "not allowed" }.to_owned();
    let debug = policy.is_none_or(GuestPolicy::allows_debug);
    recorder.equal(CheckName::Debug, &text(false), &text(debug));
    let migration = policy.is_none_or(GuestPolicy::allows_migration);
    recorder.equal(CheckName::Migration, &text(false), &text(migration));
}

fn judge_tcb(policy: &Policy, report: &Report, product: Product, recorder: &mut Recorder) {
    let name = CheckName::TcbFloor;
    let Some(floor) = policy.tcb_floor.get(&product) else {
        recorder.record(name, false, &"a product that the policy has a floor for", &product);
        return;
    };
    let expected = format!("{product} at least {floor}");
    // What is committed cannot be gone back behind, what launched has seen the first secrets.
    for (what, raw) in [
        ("reported", report.reported_tcb()),
        ("committed", report.committed_tcb()),
        ("launch", report.launch_tcb()),
    ] {
        let tcb = Tcb::from_raw(raw, product);
        if !tcb.is_some_and(|tcb| tcb.is_at_least(floor)) {
            let found = tcb.map_or_else(|| hex::encode(raw), |tcb| tcb.to_string());
            recorder.record(name, false, &expected, &format!("{what} {found}"));
            return;
        }
    }
    let found = Tcb::from_raw(report.reported_tcb(), product).map(|tcb| tcb.to_string());
    recorder.record(name, true, &expected, &found.unwrap_or_default());
}

fn judge_machine(policy: &Policy, report: &Report, recorder: &mut Recorder) {
    let machine = &policy.machine;
    let info = report.platform_info();
    let bits = [
        ("SMT", platform_info::SMT, &machine.smt),
        ("TSME", platform_info::TSME, &machine.tsme),
        ("ECC", platform_info::ECC, &machine.ecc),
        ("ciphertext hiding", platform_info::CIPHERTEXT_HIDING, &machine.ciphertext_hiding),
        ("alias check", platform_info::ALIAS_CHECK, &machine.alias_check),
    ];
    let (mut expected, mut found, mut passed, mut judged) = (vec![], vec![], true, false);
    for (name, bit, rule) in bits {
        let on = info & bit != 0;
        let accepts = rule.accepts(&on);
        judged |= accepts.is_some();
        passed &= accepts.unwrap_or(true);
        expected.push(format!("{name} {rule}"));
        found.push(format!("{name} {on}"));
    }
    let (expected, found) = (expected.join(", "), found.join(", "));
    if judged {
        recorder.record(CheckName::Machine, passed, &expected, &found);
    } else {
        recorder.skip(CheckName::Machine, &expected, &format!("{ANY}: {found}"));
    }
}

fn judge_launch_config(policy: &Policy, bytes: &str, recorder: &mut Recorder) {
    let name = CheckName::LaunchConfig;
    match LaunchConfig::from_bytes(bytes.as_bytes()) {
        Err(error) => {
            let refused = Err::<(), _>(error);
            recorder.step(name, "a launch config", refused, |()| String::new());
        }
        Ok(config) => {
            let hash = Sha256Hash::of(bytes.as_bytes());
            let keys = config.ssh_authorized_keys.len();
            let found = format!("{hash}: VM {}, {keys} SSH keys may log in", config.name);
            match policy.launch_config.accepts(&hash) {
                Some(passed) => _ = recorder.record(name, passed, &policy.launch_config, &found),
                None => recorder.skip(name, &"any", &format!("{ANY}: {found}")),
            }
        }
    }
}

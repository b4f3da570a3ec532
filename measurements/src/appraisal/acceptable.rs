//! Acceptable? Is what a genuine report says what the verifier wants?

use crate::hash::{ChipId, Sha256Hash};
use crate::launch_config::LaunchConfig;
use crate::policy::GuestPolicy;
use crate::report::{Report, SigningKey, platform_info};
use crate::silicon::{self, Line};
use crate::tcb::{Product, Tcb};

use super::genuine::Claim;
use super::gpu;
use super::id_block;
use super::known::KnownRelease;
use super::policy::{GuestPolicyRule, Policy, RevocationPolicy};
use super::rules::{AnswerTime, SshKey};
use super::source::Source;
use super::verdict::{ANY, CheckName, Recorder};
use super::{Appraiser, Session, release};

/// Most keys of strangers that a verdict names.
const MOST_NAMED: usize = 8;

/// Judges, recording every check.
pub(super) fn judge(
    appraiser: &Appraiser<'_>,
    claim: &Claim,
    session: &Session,
    recorder: &mut Recorder<'_>,
) {
    let (policy, basis) = (appraiser.policy, &appraiser.basis);
    let report = claim.report.report();
    recorder.measurement = Some(report.measurement());
    let holds = policy.expires.holds_at(basis.now());
    recorder.judged(CheckName::PolicyExpiry, holds, &policy.expires, &basis.now());
    judge_time(policy, session, recorder);
    judge_revocation(policy, claim.had_list, recorder);
    let platform = claim.evidence.platform;
    let known = release::judge(appraiser.releases, policy, basis, platform, report, recorder);
    judge_guest_policy(policy, known, report, recorder);
    let identity = known.and_then(|known| known.manifest().id_block.as_ref());
    id_block::judge(identity, &policy.id_block, report, recorder);
    for (name, field) in [
        (CheckName::IdBlock, ["id_block.family_id", "id_block.image_id"].as_slice()),
        (CheckName::IdKeys, &["id_block.id_key", "id_block.author_key"]),
    ] {
        if let Some(field) = field.iter().find(|field| policy.states(field)) {
            recorder.resourced(name, Source::Policy(field));
        }
    }
    let vmpl = policy.vmpl.accepts_by(|level| level.get() == report.vmpl());
    recorder.judged(CheckName::Vmpl, vmpl, &policy.vmpl, &report.vmpl());
    judge_tcb(policy, report, claim.product, recorder);
    judge_machine(policy, report, recorder);
    judge_chip(policy, report, claim.product, recorder);
    let config = judge_launch_config(policy, &claim.evidence.launch_config, recorder);
    let found = claim.evidence.gpu_evidence.is_some();
    recorder.expect(CheckName::GpuEvidence, &policy.gpu_evidence, &found);
    let promised = config.and_then(|config| config.gpus);
    let believed = appraiser.basis.believed(claim.evidence.platform);
    gpu::acceptable(believed, &policy.gpu, promised.as_ref(), &claim.gpus, recorder);
}

fn judge_time(policy: &Policy, session: &Session, recorder: &mut Recorder<'_>) {
    let found = format!("a fresh nonce was answered in {} ms", session.elapsed.as_millis());
    let holds = match policy.answer_time {
        AnswerTime::AtMost(most) => Some(session.elapsed <= most),
        AnswerTime::Any => None,
    };
    recorder.judged(CheckName::AnswerTime, holds, &policy.answer_time, &found);
}

fn judge_revocation(policy: &Policy, judged: bool, recorder: &mut Recorder<'_>) {
    let name = CheckName::RevocationList;
    let found = if judged { "one" } else { "none" };
    match policy.revocation {
        RevocationPolicy::Required => _ = recorder.record(name, judged, &"one", &found),
        RevocationPolicy::WhenGiven => {
            recorder.skip(name, &"one or none", &format!("{ANY}, found {found}"));
        }
    }
}

fn judge_guest_policy(
    policy: &Policy,
    known: Option<&KnownRelease>,
    report: &Report,
    recorder: &mut Recorder<'_>,
) {
    let name = CheckName::GuestPolicy;
    // A policy that this code cannot read allows everything.
    let stated = GuestPolicy::new(report.policy()).ok();
    let named = |policy: GuestPolicy| format!("{policy} ({})", policy.describe());
    let found = stated.map_or_else(|| format!("{:#x}", report.policy()), named);
    match &policy.guest_policy {
        GuestPolicyRule::OfManifest => {
            let expected = known.map(|known| named(known.manifest().guest_policy));
            let expected = expected.unwrap_or_else(|| "the one of a release".to_owned());
            recorder.equal(name, &expected, &found);
        }
        GuestPolicyRule::Is(expected) => {
            let accepted = expected.accepts_by(|policy| policy.raw() == report.policy());
            recorder.judged(name, accepted, expected, &found);
            recorder.resourced(name, Source::Policy("guest_policy"));
        }
    }
    let text = |allowed: bool| if allowed { "allowed" } else { "not allowed" }.to_owned();
    let debug = stated.is_none_or(GuestPolicy::allows_debug);
    recorder.equal(CheckName::Debug, &text(false), &text(debug));
    let migration = stated.is_none_or(GuestPolicy::allows_migration);
    recorder.equal(CheckName::Migration, &text(false), &text(migration));
}

fn judge_tcb(policy: &Policy, report: &Report, product: Product, recorder: &mut Recorder<'_>) {
    let name = CheckName::TcbFloor;
    let Some((floor, expected)) = floor_of(policy, report, product) else {
        let found = report.cpuid().map_or_else(
            || product.to_string(),
            |(family, model, stepping)| {
                format!("CPUID family {family:#x} model {model:#x} stepping {stepping}")
            },
        );
        recorder.record(name, false, &"a processor that the policy has a floor for", &found);
        return;
    };
    // What is committed cannot be gone back behind, what launched has seen the first secrets.
    for (what, raw) in [
        ("reported", report.reported_tcb()),
        ("committed", report.committed_tcb()),
        ("launch", report.launch_tcb()),
    ] {
        let tcb = Tcb::from_raw(raw, product);
        if !tcb.is_some_and(|tcb| tcb.is_at_least(&floor)) {
            let found = tcb.map_or_else(|| hex::encode(raw), |tcb| tcb.to_string());
            recorder.record(name, false, &expected, &format!("{what} {found}"));
            return;
        }
    }
    let found = Tcb::from_raw(report.reported_tcb(), product).map(|tcb| tcb.to_string());
    recorder.record(name, true, &expected, &found.unwrap_or_default());
}

/// The oldest firmware that is accepted of the processor of `report`, also in words; `None` where
/// the policy has none. Version 2 does not say which silicon it is, and microcode counts on each
/// silicon by itself, so such a report must be new enough for all silicons of its product.
fn floor_of(policy: &Policy, report: &Report, product: Product) -> Option<(Tcb, String)> {
    let floor = |line: Line| policy.tcb_floor.get(&line).copied();
    if let Some(cpuid) = report.cpuid() {
        let line = Line::from_cpuid(cpuid)?;
        let floor = floor(line)?;
        return Some((floor, format!("{line} at least {floor}")));
    }
    let floors: Option<Vec<Tcb>> = Line::of(product).map(floor).collect();
    let strictest = floors?.into_iter().reduce(Tcb::strictest)?;
    let why = "version 2 does not say which silicon it is";
    Some((strictest, format!("every {product} at least {strictest}: {why}")))
}

fn judge_machine(policy: &Policy, report: &Report, recorder: &mut Recorder<'_>) {
    let machine = &policy.machine;
    let info = report.platform_info();
    for (name, bit, expected) in [
        (CheckName::Smt, platform_info::SMT, &machine.smt),
        (CheckName::Tsme, platform_info::TSME, &machine.tsme),
        (CheckName::Ecc, platform_info::ECC, &machine.ecc),
        (CheckName::Rapl, platform_info::RAPL_DISABLED, &machine.rapl_disabled),
        (CheckName::CiphertextHiding, platform_info::CIPHERTEXT_HIDING, &machine.ciphertext_hiding),
        (CheckName::AliasCheck, platform_info::ALIAS_CHECK, &machine.alias_check),
    ] {
        recorder.expect(name, expected, &(info & bit != 0));
    }
}

fn judge_chip(policy: &Policy, report: &Report, product: Product, recorder: &mut Recorder<'_>) {
    let (chip, chips) = (report.chip_id(), &policy.chips);
    let hidden = chip == ChipId::from_bytes([0; ChipId::LEN]);
    // Only a VCEK is endorsed for a chip: under a VLEK the id is the firmware's word.
    let named = chips.allow.accepts(&chip) == Some(true)
        && !hidden
        && report.signing_key() == SigningKey::Vcek;
    let found = if hidden { "hidden by the host".to_owned() } else { chip.to_string() };
    let name = CheckName::ChipAllowed;
    match silicon::by_id_alone(product) {
        Some(why) if !named => {
            let expected =
                format!("a {product} chip that chips.allow names, under its VCEK, because {why}");
            recorder.record(name, false, &expected, &format!("{product} chip, {found}"));
        }
        _ => recorder.expect(name, &chips.allow, &chip),
    }
    let passed = !hidden && !chips.deny.contains(&chip);
    let passed = (!chips.deny.is_empty()).then_some(passed);
    let expected = match chips.deny.len() {
        0 => "any".to_owned(),
        denied => format!("none of the {denied} refused"),
    };
    recorder.judged(CheckName::ChipDenied, passed, &expected, &found);
}

fn judge_launch_config(
    policy: &Policy,
    bytes: &str,
    recorder: &mut Recorder<'_>,
) -> Option<LaunchConfig> {
    let name = CheckName::LaunchConfig;
    let config = match LaunchConfig::from_bytes(bytes.as_bytes()) {
        Ok(config) => config,
        Err(error) => {
            let refused = Err::<LaunchConfig, _>(error);
            recorder.step(name, "a launch config", refused, |_| String::new());
            return None;
        }
    };
    let hash = Sha256Hash::of(bytes.as_bytes());
    let found = format!("{hash}: VM {}", config.name);
    recorder.judged(name, policy.launch_config.accepts(&hash), &policy.launch_config, &found);
    judge_keys(policy, &config.ssh_authorized_keys, recorder);
    Some(config)
}

/// Every key that may log in must be an accepted one; not every accepted one need be let in.
fn judge_keys(policy: &Policy, lines: &[String], recorder: &mut Recorder<'_>) {
    let accepts = |line: &&String| match line.parse::<SshKey>() {
        Ok(key) => policy.ssh_keys.accepts(&key),
        Err(_) => Some(false),
    };
    let others: Vec<&String> = lines.iter().filter(|line| accepts(line) == Some(false)).collect();
    let found = match others.as_slice() {
        [] => format!("{} may log in", lines.len()),
        others => {
            let (count, all) = (others.len(), lines.len());
            let noun = if count == 1 { "this key" } else { "these keys" };
            let mut named: Vec<String> =
                others.iter().take(MOST_NAMED).map(|line| named(line)).collect();
            if count > MOST_NAMED {
                named.push(format!("{} more", count - MOST_NAMED));
            }
            let named = named.join(", ");
            format!("{count} of {all} are others: {noun} may log in too: {named}")
        }
    };
    let passed = (policy.ssh_keys != super::Expect::Any).then_some(others.is_empty());
    recorder.judged(CheckName::SshKeys, passed, &policy.ssh_keys, &found);
}

/// A key with its comment and its fingerprint.
fn named(line: &str) -> String {
    match line.parse::<SshKey>().ok().and_then(|key| key.fingerprint()) {
        Some(fingerprint) => format!("{line} ({fingerprint})"),
        None => line.to_owned(),
    }
}

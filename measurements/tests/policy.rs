//! Policy files: each field accepts and refuses for its own reason, what is malformed is refused
//! with its line, and no looser policy refuses more.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[expect(dead_code, reason = "its attacks on chains are mounted where chains are judged")]
mod amd;
mod ovmf;
mod release;
#[expect(dead_code, reason = "what it refuses is told by other tests")]
mod scene;

use casemate_measurements::appraisal::policy_file::PolicyFile;
use casemate_measurements::appraisal::{
    Allowance, Appraiser, Basis, CheckName, KnownRelease, Origin, Outcome, Policy, Source, Verdict,
};
use casemate_measurements::hash::{ChipId, Sha256Hash};
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::report::platform_info;
use proptest::prelude::*;
use scene::{Scene, scene};

/// What lets the scene in, whose machine is a stock host on the simulated platform.
const BASE: &str =
    "schema = 1\nplatform = \"simulated\"\nallow = [\"no-revocation-list\", \"stock-host\"]\n";
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/";
const OTHER_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIARKsFU4uE39dKTdDufXgkdGJj6mbnohXIFRcztca+Ri";

fn policy(rest: &str) -> Policy {
    PolicyFile::parse(&format!("{BASE}{rest}"))
        .unwrap_or_else(|error| panic!("{rest}: {}", std::error::Error::source(&error).unwrap()))
}

fn judge(rest: &str) -> Verdict {
    Scene { policy: policy(rest), ..scene() }.verdict()
}

fn failed(verdict: &Verdict) -> Vec<CheckName> {
    let failed = verdict.checks().iter().filter(|check| check.outcome == Outcome::Failed);
    failed.map(|check| check.name).collect()
}

/// The only failed check, and where its expectation comes from.
#[track_caller]
fn refused(verdict: &Verdict, name: CheckName, source: &str) {
    assert_eq!(failed(verdict), [name], "{verdict}");
    assert_eq!(verdict.exit_code(), 3);
    assert_eq!(verdict.check(name).unwrap().source, source, "{verdict}");
}

fn sha256(manifest: Manifest) -> Sha256Hash {
    *KnownRelease::new(manifest).unwrap().sha256()
}

/// Accepted, refused, by which check, from which field.
type Case = (String, String, CheckName, &'static str);

fn fields() -> Vec<Case> {
    let scene = scene();
    let manifest = sha256(scene.manifest.clone()).to_string();
    let config = Sha256Hash::of(scene.launch_config.as_bytes()).to_string();
    let other = "0".repeat(64);
    let release = |rest: &str| format!("[[release]]\nname = \"cpu-sandbox\"\n{rest}");
    let revoked = |rest: &str| format!("[[revoked]]\n{rest}");
    vec![
        (
            "expires = \"2026-06-02\"".into(),
            "expires = \"2026-06-01\"".into(),
            CheckName::PolicyExpiry,
            "expires",
        ),
        (
            "answer_seconds = 2".into(),
            "answer_seconds = 1".into(),
            CheckName::AnswerTime,
            "answer_seconds",
        ),
        (
            "guest_policy = \"0x30000\"".into(),
            "guest_policy = [\"0x20000\"]".into(),
            CheckName::GuestPolicy,
            "guest_policy",
        ),
        ("vmpl = [0, 1]".into(), "vmpl = 1".into(), CheckName::Vmpl, "vmpl"),
        (
            format!("launch_config = \"{config}\""),
            format!("launch_config = \"{other}\""),
            CheckName::LaunchConfig,
            "launch_config",
        ),
        (
            format!("ssh_keys = [\"{KEY} x\", \"{OTHER_KEY}\"]"),
            format!("ssh_keys = \"{OTHER_KEY}\""),
            CheckName::SshKeys,
            "ssh_keys",
        ),
        (
            "gpu_evidence = [true, false]".into(),
            "gpu_evidence = true".into(),
            CheckName::GpuEvidence,
            "gpu_evidence",
        ),
        (
            release("version = [\"0.1.0\", \"0.2.0\"]"),
            release("version = \"0.2.0\""),
            CheckName::Release,
            "release",
        ),
        (
            release("minimum = \"0.1.0-rc.1\""),
            release("minimum = \"0.1.1\""),
            CheckName::Release,
            "release",
        ),
        (
            release(&format!("version = \"any\"\nmanifest_sha256 = \"{manifest}\"")),
            release(&format!("version = \"any\"\nmanifest_sha256 = \"{other}\"")),
            CheckName::ReleaseManifest,
            "release",
        ),
        (
            release("version = \"any\"\nexpires = \"2026-06-02\""),
            release("version = \"any\"\nexpires = \"2026-06-01\""),
            CheckName::ReleaseExpiry,
            "release",
        ),
        (
            revoked("name = \"cpu-sandbox\"\nversions = [\"0.0.9\"]"),
            revoked("name = \"cpu-sandbox\"\nversions = [\"0.1.0\"]"),
            CheckName::ReleaseRevoked,
            "revoked",
        ),
        (
            revoked("name = \"cpu-sandbox\"\nbelow = \"0.1.0\""),
            revoked("name = \"cpu-sandbox\"\nbelow = \"0.1.1\""),
            CheckName::ReleaseRevoked,
            "revoked",
        ),
        (
            revoked(&format!("manifest_sha256 = \"{other}\"")),
            revoked(&format!("manifest_sha256 = \"{manifest}\"")),
            CheckName::ReleaseRevoked,
            "revoked",
        ),
    ]
}

fn tables() -> Vec<Case> {
    let chip = ChipId::from_bytes([0xc1; 64]).to_string();
    let other_chip = "0".repeat(128);
    let machine = |rest: &str| format!("[machine]\n{rest}");
    let floor =
        |snp: u8| format!("[tcb_floor.Genoa]\nbootloader=10\ntee=0\nsnp={snp}\nmicrocode=86");
    vec![
        (
            "[shapes]\nvcpus = [1, \"4..=8\"]".into(),
            "[shapes]\nvcpus = \"5..=8\"".into(),
            CheckName::Vcpus,
            "shapes.vcpus",
        ),
        (
            "[shapes]\ncpu_models = \"EPYC-v1\"".into(),
            "[shapes]\ncpu_models = [\"EPYC-Milan\"]".into(),
            CheckName::CpuModel,
            "shapes.cpu_models",
        ),
        (machine("smt = true"), machine("smt = false"), CheckName::Smt, "machine.smt"),
        (machine("tsme = false"), machine("tsme = true"), CheckName::Tsme, "machine.tsme"),
        (machine("ecc = true"), machine("ecc = false"), CheckName::Ecc, "machine.ecc"),
        (
            machine("rapl_disabled = false"),
            machine("rapl_disabled = true"),
            CheckName::Rapl,
            "machine.rapl_disabled",
        ),
        (
            machine("ciphertext_hiding = [false, true]"),
            machine("ciphertext_hiding = true"),
            CheckName::CiphertextHiding,
            "machine.ciphertext_hiding",
        ),
        (
            machine("alias_check = true"),
            machine("alias_check = []"),
            CheckName::AliasCheck,
            "machine.alias_check",
        ),
        (floor(27), floor(28), CheckName::TcbFloor, "tcb_floor"),
        (
            format!("[chips]\nallow = [\"{chip}\"]"),
            format!("[chips]\nallow = \"{other_chip}\""),
            CheckName::ChipAllowed,
            "chips.allow",
        ),
        (
            format!("[chips]\ndeny = [\"{other_chip}\"]"),
            format!("[chips]\ndeny = [\"{chip}\"]"),
            CheckName::ChipDenied,
            "chips.deny",
        ),
    ]
}

#[test]
fn each_field_accepts_and_refuses() {
    for (accepted, other, name, field) in fields().into_iter().chain(tables()) {
        let verdict = judge(&accepted);
        assert_eq!(verdict.exit_code(), 0, "{accepted}: {verdict}");
        refused(&judge(&other), name, &format!("policy file: {field}"));
    }
}

#[test]
fn the_strict_policy_refuses_what_hosts_show_and_each_difference_has_a_name() {
    let strict = PolicyFile::parse("schema = 1\nplatform = \"simulated\"").unwrap();
    let mut scene = Scene { policy: strict, ..scene() };
    let differences = failed(&scene.verdict());
    let shown = [
        CheckName::RevocationList,
        CheckName::Smt,
        CheckName::Tsme,
        CheckName::Rapl,
        CheckName::CiphertextHiding,
    ];
    assert_eq!(differences, shown);
    for name in differences {
        scene.policy.allow(Allowance::for_check(name).unwrap(), Origin::Option);
    }
    let verdict = scene.verdict();
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    for name in shown {
        let check = verdict.check(name).unwrap();
        assert_eq!(check.outcome, Outcome::Skipped);
        assert!(check.found.starts_with("not judged: the verifier accepts any"), "{}", check.found);
        assert!(check.source.starts_with("option: "), "{}", check.source);
    }
    for allowance in Allowance::ALL {
        let text = format!("schema = 1\nallow = [\"{}\"]", allowance.name());
        let mut allowed = Policy::strict();
        allowed.allow(allowance, Origin::File);
        assert_eq!(PolicyFile::parse(&text).unwrap(), allowed);
    }
}

#[test]
fn a_stated_field_overrides_an_allowance() {
    let verdict = judge("[machine]\nsmt = false");
    refused(&verdict, CheckName::Smt, "policy file: machine.smt");
}

#[test]
fn what_is_malformed_is_refused_with_its_line() {
    for (text, expected) in [
        ("", "missing field `schema`"),
        ("schema = 2", ""),
        ("schema = 1\nsmt = true", "unknown field `smt`"),
        ("schema = 1\n[machine]\nSMT = true", "line 3"),
        ("schema = 1\nallow = [\"smt\"]", "unknown variant `smt`"),
        ("schema = 1\nvmpl = 4", "VMPL 4: expected 0 to 3"),
        ("schema = 1\nexpires = \"tomorrow\"", "expected a day"),
        ("schema = 1\nlaunch_config = \"ab\"", "expected 64 lower-case hex digits"),
        ("schema = 1\nguest_policy = \"0x1\"", "bit 17"),
        ("schema = 1\nguest_policy = [\"manifest\"]", "stands alone"),
        ("schema = 1\nanswer_seconds = \"soon\"", "number of seconds"),
        ("schema = 1\nssh_keys = [\"ssh-ed25519\"]", "no SSH public key"),
        ("schema = 1\n[shapes]\nvcpus = \"4..=2\"", "no range of vCPUs"),
        ("schema = 1\n[shapes]\ncpu_models = \"host\"", "CPU model \"host\" is unknown"),
        ("schema = 1\n[tcb_floor.Naples]\nsnp = 1", "Naples"),
        ("schema = 1\n[tcb_floor.Bergamo]\nsnp = 1", "`Bergamo-Siena`"),
        ("schema = 1\n[[release]]\nname = \"a\"", "neither `version` nor `minimum`"),
        ("schema = 1\n[[release]]\nname = \"a\"\nminimum = \"1\"", "SemVer"),
        ("schema = 1\n[[revoked]]\nname = \"a\"", "expected what is revoked"),
        ("schema = 1\n[[revoked]]\nversions = [\"1\"]", "expected what is revoked"),
        ("schema = 1\nschema = 1", "duplicate key"),
    ] {
        let error = PolicyFile::parse(text).unwrap_err();
        let mut said = error.to_string();
        if let Some(source) = std::error::Error::source(&error) {
            said = source.to_string();
            assert!(said.contains("line "), "{text}: {said}");
        }
        assert!(said.contains(expected), "{text}: {said}");
    }
    assert!(PolicyFile::parse(&" ".repeat(2 << 20)).is_err());
}

#[test]
fn the_template_is_the_strict_policy_and_says_every_default() {
    let template = PolicyFile::template(None);
    assert_eq!(PolicyFile::parse(&template).unwrap(), Policy::strict());
    let known = KnownRelease::new(scene().manifest).unwrap();
    let policy = PolicyFile::parse(&PolicyFile::template(Some(&known))).unwrap();
    let release = policy.lines().into_iter().find(|line| line.field == "release").unwrap();
    assert_eq!((release.accepts.as_str(), release.open), ("cpu-sandbox 0.1.0", false));

    // With every default stated it accepts the same.
    let (fields, _) = template.split_once("\n# Releases that are refused").unwrap();
    let assignment = |line: &str| {
        let key = line.split(' ').next().unwrap_or("");
        let keyed = key.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        line.starts_with('[') || (keyed && line[key.len()..].starts_with(" = "))
    };
    let stated: Vec<&str> = fields
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| assignment(line)).unwrap_or(line))
        .collect();
    let stated = PolicyFile::parse(&stated.join("\n")).unwrap();
    for (line, default) in stated.lines().into_iter().zip(Policy::strict().lines()) {
        assert_eq!((line.field, &line.accepts), (default.field, &default.accepts));
        let by_default = ["release", "revoked", "chips.deny"].contains(&line.field);
        assert_eq!(line.source == "policy file", !by_default, "{}", line.field);
    }
}

#[test]
fn every_expectation_of_the_policy_is_a_field_of_it() {
    let fields: Vec<&str> = Policy::strict().lines().iter().map(|line| line.field).collect();
    for name in CheckName::ALL {
        if let Source::Policy(field) = name.source() {
            assert!(fields.contains(&field), "{name:?}: {field}");
        }
    }
}

/// The release that really runs is the one that is judged, whichever others are held.
#[test]
fn of_several_releases_the_one_that_runs_is_found() {
    let scene = scene();
    let ours = KnownRelease::new(scene.manifest.clone()).unwrap();
    let other = KnownRelease::new(release::manifest(Platform::Snp)).unwrap();
    let mut same = scene.manifest.clone();
    same.release.version = "0.2.0".into();
    let same = KnownRelease::new(same).unwrap();
    let judge = |releases: &[KnownRelease], rest: &str| {
        let basis = Basis::new(&scene.roots, scene.now);
        let policy = &policy(rest);
        let evidence = serde_json::to_vec(&scene.evidence()).unwrap();
        Appraiser { releases, policy, basis }.appraise(&evidence, &scene.session)
    };
    let all = [other.clone(), ours.clone(), same];
    let verdict = judge(&all, "");
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    assert!(verdict.summary().ends_with("cpu-sandbox 0.1.0"), "{verdict}");
    // Where two have the digest, the one that the policy names.
    let verdict = judge(&all, "[[release]]\nname = \"cpu-sandbox\"\nversion = \"0.2.0\"");
    assert!(verdict.summary().ends_with("cpu-sandbox 0.2.0"), "{verdict}");
    assert_eq!(verdict.exit_code(), 0, "{verdict}");
    let verdict = judge(&[other.clone(), other], "");
    assert_eq!(failed(&verdict), [CheckName::ReleasePlatform, CheckName::Measurement], "{verdict}");
    let found = &verdict.check(CheckName::Measurement).unwrap().found;
    assert!(found.ends_with("no launch of any of cpu-sandbox 0.1.0, cpu-sandbox 0.1.0"), "{found}");
    let verdict = judge(&[], "");
    assert_eq!((verdict.exit_code(), failed(&verdict)[0]), (3, CheckName::Release), "{verdict}");
}

/// Each field from its strictest to its loosest.
const LEVELS: [&[&str]; 13] = [
    &["expires = \"2026-05-01\"", "expires = \"2026-06-02\"", "expires = \"never\""],
    &["vmpl = []", "vmpl = 0", "vmpl = [0, 1]", "vmpl = \"any\""],
    &["answer_seconds = 1", "answer_seconds = 2", "answer_seconds = \"any\""],
    &[
        "guest_policy = []",
        "guest_policy = \"0x30000\"",
        "guest_policy = [\"0x30000\", \"0x20000\"]",
        "guest_policy = \"any\"",
    ],
    &["revocation_list = \"required\"", "revocation_list = \"when-given\""],
    &[
        "ssh_keys = []",
        "ssh_keys = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKMoZLYIM1iILDmcGCET4hmst6xlvqn760ZMvCs7UG/\"",
        "ssh_keys = \"any\"",
    ],
    &["[machine]\nsmt = false", "[machine]\nsmt = [false, true]", "[machine]\nsmt = \"any\""],
    &["[shapes]\nvcpus = 1", "[shapes]\nvcpus = [1, \"2..=4\"]", "[shapes]\nvcpus = \"any\""],
    &["shapes.unlisted = \"refuse\"", "shapes.unlisted = \"accept-by-law\""],
    &[
        "[tcb_floor.Genoa]\nbootloader=10\ntee=0\nsnp=28\nmicrocode=86",
        "[tcb_floor.Genoa]\nbootloader=10\ntee=0\nsnp=27\nmicrocode=86",
        "[tcb_floor.Genoa]\nbootloader=10\ntee=0\nsnp=26\nmicrocode=86",
    ],
    &[DENIED, "[chips]\nallow = \"any\""],
    &[
        "[[release]]\nname = \"cpu-sandbox\"\nminimum = \"0.2.0\"",
        "[[release]]\nname = \"cpu-sandbox\"\nversion = \"0.1.0\"",
        "[[release]]\nname = \"cpu-sandbox\"\nminimum = \"0.0.1\"",
        "",
    ],
    &[
        "[[revoked]]\nname = \"cpu-sandbox\"\nbelow = \"0.1.1\"",
        "[[revoked]]\nname = \"cpu-sandbox\"\nbelow = \"0.0.1\"",
        "",
    ],
];

/// The chip of the scene: 64 bytes of 0xc1.
const DENIED: &str = concat!(
    "[chips]\ndeny = [\"",
    "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",
    "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",
    "\"]"
);

/// A policy with each field at its level.
fn at(levels: &[usize]) -> Policy {
    let mut parts: Vec<&str> = LEVELS.iter().zip(levels).map(|(all, at)| all[*at]).collect();
    // A dotted key stands before the first table, and a table is opened once.
    let unlisted = parts.remove(8).replace("shapes.", "");
    let shapes = format!("{}\n{unlisted}", parts[7]);
    parts[7] = &shapes;
    let text = format!("schema = 1\nplatform = \"simulated\"\n{}", parts.join("\n"));
    let mut policy = PolicyFile::parse(&text).unwrap();
    for allowance in [Allowance::TsmeOff, Allowance::RaplOn, Allowance::CiphertextVisible] {
        policy.allow(allowance, Origin::Option);
    }
    policy
}

/// For each field a level and a looser one, the loosest more often than not.
fn levels() -> impl Strategy<Value = Vec<(usize, usize)>> {
    let pair = |most: usize| {
        let level = || prop_oneof![4 => Just(most), 1 => 0..=most];
        (level(), level()).prop_map(|(a, b)| (a.min(b), a.max(b)))
    };
    LEVELS.iter().map(|all| pair(all.len() - 1)).collect::<Vec<_>>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_looser_policy_refuses_more(
        levels in levels(),
        vmpl in prop_oneof![3 => Just(0_u32), 1 => Just(1)],
        raw_policy in prop_oneof![3 => Just(0x3_0000_u64), 1 => Just(0x2_0000)],
        smt in any::<bool>(),
        shape in prop_oneof![2 => Just(("EPYC-v4", 4)), 1 => Just(("EPYC-Milan", 3))],
    ) {
        let mut scene = scene();
        scene.fields.vmpl = vmpl;
        scene.fields.policy = GuestPolicy::new(raw_policy).unwrap();
        if !smt {
            scene.fields.platform_info &= !platform_info::SMT;
        }
        scene.fields.measurement = scene.manifest.law.digest(&release::shape(shape.0, shape.1));
        let evidence = scene.evidence();
        let (tight, loose): (Vec<usize>, Vec<usize>) = levels.into_iter().unzip();
        scene.policy = at(&tight);
        let strict = scene.judge(&evidence);
        scene.policy = at(&loose);
        let loose = scene.judge(&evidence);
        prop_assert!(!strict.is_accepted() || loose.is_accepted(), "{strict}\n{loose}");
        for name in failed(&loose) {
            let reached = strict.check(name).is_some_and(|check| {
                check.outcome != Outcome::Passed
            });
            prop_assert!(reached, "{name:?} fails where it passed: {strict}\n{loose}");
        }
    }
}

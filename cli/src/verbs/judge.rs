//! `verify` and `ssh`: ask a VM for evidence or read a report, judge it, and connect to what was
//! attested.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use casemate_builder::fetch::Cache;
use casemate_measurements::appraisal::{
    Allowance, Basis, Check, CheckName, Expect, GpuAppraiser, Origin, Outcome as CheckOutcome,
    Policy, ReportAppraiser, SshKey, Statement, Verdict, read_foreign,
};
use casemate_measurements::platform::Platform;
use casemate_measurements::report::Report;
use casemate_measurements::roots::Roots;
use casemate_measurements::silicon;
use casemate_validator::certificates::{Certificates, CertificatesError, Settings, WantList};
use casemate_validator::fetch::Limits;
use casemate_validator::own_keys::OwnKeys;
use casemate_validator::ssh::Session;
use casemate_validator::target::Target;
use casemate_validator::verify::{Verified, Verifier, VerifyError, now};
use casemate_validator::{files, policy, release, ssh as pinned, trust};

use crate::args::{
    CertificateArgs, Format, GpuArgs, JudgeArgs, OutputArgs, ServiceArgs, SignVerdictArgs, SshArgs,
    VerifyArgs, VerifyGpuArgs, VerifyReportArgs, VerifyVerb,
};
use crate::outcome::{HintExt as _, Hinted, Outcome};
use crate::printer::{self, Tone};
use crate::verbs::release as signed;
use crate::verbs::release::channel::Following;
use crate::verbs::release::store::locate;
use crate::verbs::run::public_keys;
use crate::verbs::{verdict, watch};

/// What `ssh` ends with when not the remote command but `ssh` failed.
const SSH_FAILED: u8 = 255;

/// Verifies what was named and prints every check.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    match &args.other {
        Some(VerifyVerb::Report(args)) => report(args),
        Some(VerifyVerb::Gpu(args)) => gpu(args),
        Some(VerifyVerb::Watch(args)) => watch::watch(args),
        None => vm(&args.judge, &args.sign, args.output),
    }
}

fn report(args: &VerifyReportArgs) -> anyhow::Result<Outcome> {
    let roots = trust::roots(args.trust_simulated.as_deref())?;
    let now = now()?;
    let bytes = files::report(&args.report)?;
    let mut table = files::certificates(&bytes, args.vek.as_deref(), args.ask.as_deref())?;
    let mut lists = files::revocation_lists(&args.certificates.crl)?;
    let simulated = args.trust_simulated.is_some();
    let platform = if simulated { Platform::Simulated } else { Platform::Snp };
    let wants = table.ask.is_none() || (table.vcek.is_none() && table.vlek.is_none());
    if let Ok(report) = Report::parse(&bytes)
        && wants
        && !simulated
    {
        let want_list = if lists.is_empty() { WantList::Ask } else { WantList::No };
        let CertificateArgs { services, kds, .. } = &args.certificates;
        let certificates = source(services, Some(kds), None)?;
        let found = certificates.collect(&report, &table, platform, want_list, &roots, now);
        lists.extend(found.revocation_lists);
        table = table.or(found.certificates);
        if let Some(error) = found.missing {
            if !error.is_about_the_report() {
                let hint = "give the certificates with --vek and --ask, or a cache that has them";
                return Err(error).hint(hint);
            }
            note(&error);
        }
        found.no_list.iter().for_each(note);
    }
    let appraiser = ReportAppraiser {
        basis: Basis::new(&roots, now).with_revocation_lists(&lists),
        platform,
        report_data: args.report_data.map_or(Expect::Any, Expect::Exactly),
        measurement: args.measurement.map_or(Expect::Any, Expect::Exactly),
    };
    let verdict = appraiser.appraise(&bytes, &table);
    match args.output.format {
        Format::Json => printer::json(&verdict)?,
        Format::Table => {
            let (checks, code) = (verdict.checks(), verdict.exit_code());
            printer::line(&text(checks, code, simulated, verdict.summary()))?;
        }
    }
    let product = verdict.statement().map(Statement::product);
    if let Some(why) = product.and_then(silicon::by_id_alone) {
        printer::warn(&format!("believe it only of a chip whose custody you know: {why}"));
    }
    Ok(outcome(verdict.exit_code()))
}

fn gpu(args: &VerifyGpuArgs) -> anyhow::Result<Outcome> {
    let roots = trust::roots_with(None, args.gpus.gpu_manifests.as_deref())?;
    let policy = match &args.policy {
        Some(path) => policy::read(path, &roots)?,
        None => trust::policy(&roots),
    };
    let path = args.evidence.display();
    let evidence = files::gpu_evidence(&args.evidence)?;
    let evidence = read_foreign(&evidence).with_context(|| format!("{path} is refused"))?;
    let platform = Platform::Snp;
    let now = now()?;
    let certificates = source(&args.services, None, Some(&args.gpus))?;
    let (found, missing) = certificates.gpu_manifests(&evidence, platform, &roots, now);
    missing.iter().for_each(note);
    let roots = trust::with_manifests(&roots, &found);
    let appraiser = GpuAppraiser { policy: &policy.gpu, roots: &roots, platform, now };
    let opinion = args.opinion.verifier().map(|other| other.ask(&evidence, &args.nonce));
    let verdict = appraiser.appraise_with(&evidence, &args.nonce, opinion.as_ref());
    match args.output.format {
        Format::Json => printer::json(&verdict)?,
        Format::Table => {
            printer::line(&text(verdict.checks(), verdict.exit_code(), false, verdict.summary()))?;
        }
    }
    Ok(outcome(verdict.exit_code()))
}

fn vm(args: &JudgeArgs, sign: &SignVerdictArgs, output: OutputArgs) -> anyhow::Result<Outcome> {
    let Some((_, verified)) = judge(args, KeyRule::AsStated)? else {
        return Ok(Outcome::Refused(signed::NOT_TRUSTED));
    };
    match output.format {
        Format::Json => printer::json(&verified.verdict)?,
        Format::Table => printer::line(&text_of(&verified.verdict))?,
    }
    verdict::sign(sign, args, &verified)?;
    hint(&verified.verdict, &args.release);
    Ok(outcome(verified.verdict.exit_code()))
}

/// Verifies a VM with a fresh nonce, then opens a session that only the attested key can answer.
pub(crate) fn ssh(args: &SshArgs) -> anyhow::Result<Outcome> {
    let own = OwnKeys::from_environment(args.identity.clone()).find();
    let rule = if args.any_key { KeyRule::Any } else { KeyRule::Own(&own) };
    let Some((target, verified)) = judge(&args.judge, rule)? else {
        return Ok(Outcome::Refused(signed::NOT_TRUSTED));
    };
    let Some(key) = verified.host_key()? else {
        printer::say(&text_of(&verified.verdict));
        hint(&verified.verdict, &args.judge.release);
        strangers(&verified.verdict, &own);
        return Ok(outcome(verified.verdict.exit_code()));
    };
    printer::say(verified.verdict.summary());
    let session = Session {
        identity: args.identity.clone(),
        command: args.command.clone(),
        ..Session::new(target.host().clone(), args.ssh_port)
    };
    let code = pinned::run(&session, &key)?;
    if code == SSH_FAILED {
        printer::warn(
            "ssh itself failed. If it refused the host key, then whoever answers on that port is \
             not the VM whose evidence was verified: do not remove or accept any key",
        );
    }
    Ok(Outcome::Passed(code))
}

/// Whose keys may log in to a VM.
#[derive(Debug, Clone, Copy)]
enum KeyRule<'a> {
    /// Those that `--only-key` or the policy name, else anybody's.
    AsStated,
    /// Those that `--only-key` or the policy name, else these.
    Own(&'a [SshKey]),
    /// Anybody's.
    Any,
}

/// What to do about a VM that others may log in to.
fn strangers(verdict: &Verdict, own: &[SshKey]) {
    let keys = verdict.check(CheckName::SshKeys);
    if keys.is_some_and(|check| check.outcome == CheckOutcome::Failed) {
        printer::say(&format!(
            "hint: whoever has such a key can join the session. {} of your own keys were found \
             (--identity, the SSH agent, ~/.ssh/NAME.pub with its private key). If others are \
             meant to log in, name every key with --only-key, or accept any with --any-key; else \
             have the VM started with your key alone",
            own.len()
        ));
    }
}

/// Asks a VM and judges its answer; `None` where a release is not signed by enough or no
/// index lets it be used, which was said.
fn judge(args: &JudgeArgs, keys: KeyRule<'_>) -> anyhow::Result<Option<(Target, Verified)>> {
    // Required where no word of its own stands in its place.
    let Some(address) = &args.address else {
        anyhow::bail!("nothing to verify: expected HOST:PORT and --release DIR");
    };
    let target: Target = address.parse()?;
    let simulated = args.trust_simulated.is_some();
    let following = Following {
        signers: args.signers.as_deref(),
        platform: if simulated { Platform::Simulated } else { Platform::Snp },
        memory: &args.memory,
    };
    let dirs: anyhow::Result<Option<Vec<PathBuf>>> =
        args.release.iter().map(|named| locate(named, &args.fetch, following)).collect();
    let Some(dirs) = dirs? else { return Ok(None) };
    let releases: Result<Vec<_>, _> = dirs.iter().map(|dir| release::read(dir)).collect();
    let releases = releases?;
    if let Some(signers) = &args.signers {
        let signers = signed::policy(signers)?;
        for (dir, release) in dirs.iter().zip(&releases) {
            if !signed::is_signed(dir, release.sha256(), &signers)? {
                return Ok(None);
            }
        }
    }
    let manifests = args.gpus.gpu_manifests.as_deref();
    let roots = trust::roots_with(args.trust_simulated.as_deref(), manifests)?;
    let policy = policy(args, &roots, keys)?;
    let total = Duration::from_secs(args.timeout);
    let limits = Limits { total, ..Limits::default() };
    let lists = files::revocation_lists(&args.certificates.crl)?;
    let CertificateArgs { services, kds, .. } = &args.certificates;
    let certificates = source(services, Some(kds), Some(&args.gpus))?;
    let nvattest = args.opinion.verifier();
    let asking = Verifier {
        releases: &releases,
        policy: &policy,
        roots: &roots,
        certificates: &certificates,
        revocation_lists: &lists,
        nvattest: nvattest.as_ref(),
        limits,
        now: now()?,
    };
    let verified = asking.verify(&target).map_err(|error| {
        let hint = match &error {
            VerifyError::Certificates(_) => {
                "nothing was judged; the VM's host may hand certificates to it, or use \
                 --cert-cache with a directory that has them"
            }
            _ => "nothing was judged; is the VM up, and is this its evidence port?",
        };
        Hinted::new(error, hint)
    })?;
    verified.notes.iter().for_each(note);
    Ok(Some((target, verified)))
}

/// The cache and the services that were named.
pub(crate) fn source(
    services: &ServiceArgs,
    kds: Option<&str>,
    gpus: Option<&GpuArgs>,
) -> anyhow::Result<Certificates> {
    let cache = match &services.cert_cache {
        Some(dir) => Some(dir.clone()),
        None => Cache::default_root(|name| std::env::var_os(name))
            .ok()
            .map(|root| root.join("certificates")),
    };
    let named = |url: Option<&str>| url.filter(|_| !services.offline).map(str::to_owned);
    let service = named(kds);
    let gpu_manifests = named(gpus.map(|gpus| gpus.gpu_manifest_service.as_str()));
    Ok(Certificates::open(&Settings { cache, service, gpu_manifests, ..Settings::default() })?)
}

/// What could not be had, with its causes.
fn note(error: &CertificatesError) {
    let chain: Vec<String> =
        anyhow::Error::new(error.clone()).chain().map(ToString::to_string).collect();
    printer::warn(&chain.join(": "));
}

/// What is accepted: the policy file, else the strict policy, with what was typed beside it.
fn policy(args: &JudgeArgs, roots: &Roots, keys: KeyRule<'_>) -> anyhow::Result<Policy> {
    let mut policy = match &args.policy {
        Some(path) => policy::read(path, roots)?,
        None => trust::policy(roots),
    };
    for allowance in &args.allow {
        policy.allow(*allowance, Origin::Option);
    }
    let mut option = |keys| {
        policy.ssh_keys = keys;
        policy.state("ssh_keys", Origin::Option);
    };
    match keys {
        _ if !args.only_key.is_empty() => {
            let keys: Result<Vec<SshKey>, _> =
                public_keys(&args.only_key)?.iter().map(|line| line.parse()).collect();
            option(Expect::OneOf(keys?));
        }
        KeyRule::Any => option(Expect::Any),
        KeyRule::Own(own) if policy.ssh_keys == Expect::Any => {
            policy.ssh_keys = Expect::OneOf(own.to_vec());
            policy.state("ssh_keys", Origin::OwnKeys);
        }
        KeyRule::AsStated | KeyRule::Own(_) => {}
    }
    Ok(policy)
}

/// What to do about a verdict that refuses: what would accept a host that differs from the policy
/// in nothing but what has a name, and what tells why a launch digest is no release's.
fn hint(verdict: &Verdict, releases: &[PathBuf]) {
    let failed: Vec<CheckName> = verdict
        .checks()
        .iter()
        .filter(|check| check.outcome == CheckOutcome::Failed)
        .map(|check| check.name)
        .collect();
    let named: Option<Vec<&str>> =
        failed.iter().map(|name| Allowance::for_check(*name).map(Allowance::name)).collect();
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let named = named.join(",");
        printer::say(&format!("hint: to accept these differences: --allow {named}"));
    }
    if let (Some(measurement), true, Some(release)) =
        (verdict.measurement(), failed.contains(&CheckName::Measurement), releases.first())
    {
        let release = release.display();
        printer::say(&format!(
            "hint: `casemate explain --measurement {measurement} --near {release}` says what \
             differs; name more releases to search around"
        ));
    }
}

fn outcome(exit_code: u8) -> Outcome {
    match exit_code {
        0 => Outcome::Done,
        code => Outcome::Refused(code),
    }
}

pub(crate) fn text_of(verdict: &Verdict) -> String {
    let (code, simulated) = (verdict.exit_code(), verdict.is_simulated());
    text(verdict.checks(), code, simulated, verdict.summary())
}

/// A verdict for a person: a line per check, what failed in full, then the summary.
fn text(checks: &[Check], exit_code: u8, simulated: bool, summary: &str) -> String {
    let rows = checks.iter().map(|check| {
        let mark = match check.outcome {
            CheckOutcome::Passed => "ok",
            CheckOutcome::Failed => "FAILED",
            CheckOutcome::Skipped => "-",
        };
        let (expected, found) = (short(&check.expected), short(&check.found));
        vec![mark.into(), check.name.text().into(), expected, found, check.source.clone()]
    });
    let table = printer::table(&["", "CHECK", "EXPECTED", "FOUND", "FROM"], rows);
    let mut lines: Vec<String> = table
        .lines()
        .map(|line| match line.split_once("  ") {
            Some(("ok", rest)) => format!("{}  {rest}", printer::toned(Tone::Good, "ok")),
            Some(("FAILED", rest)) => format!("{}  {rest}", printer::toned(Tone::Bad, "FAILED")),
            _ => line.to_owned(),
        })
        .collect();
    lines.extend(checks.iter().filter_map(failure));
    let tone = match exit_code {
        0 if simulated => Tone::Warn,
        0 => Tone::Good,
        _ => Tone::Bad,
    };
    lines.push(String::new());
    lines.push(printer::toned(tone, summary));
    lines.join("\n")
}

/// A failed check whose values the table had to shorten, in full.
fn failure(check: &Check) -> Option<String> {
    let shortened = short(&check.expected) != check.expected || short(&check.found) != check.found;
    (check.outcome == CheckOutcome::Failed && shortened).then(|| {
        let (name, expected, found) = (check.name.text(), &check.expected, &check.found);
        format!("\n{name}:\n  expected {expected}\n  found    {found}")
    })
}

/// At most 44 characters, the middle left out: hashes are told apart by their ends.
fn short(text: &str) -> String {
    const MOST: usize = 44;
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= MOST {
        return text.to_owned();
    }
    let (head, tail) = (&characters[..28], &characters[characters.len() - 13..]);
    head.iter().chain(&['.', '.', '.']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_keep_both_ends() {
        let hash = "0123456789".repeat(9);
        assert_eq!(short(&hash).chars().count(), 44);
        assert!(short(&hash).starts_with("0123") && short(&hash).ends_with("6789"));
        assert_eq!(short("é".repeat(44).as_str()), "é".repeat(44));
    }
}

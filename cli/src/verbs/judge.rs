//! `verify` and `ssh`: ask a VM for evidence, judge it, and connect to what was attested.

use std::path::PathBuf;
use std::time::Duration;

use casemate_measurements::appraisal::{Check, Outcome as CheckOutcome, Verdict};
use casemate_measurements::evidence::Evidence;
use casemate_measurements::launch_config::LaunchConfig;
use casemate_validator::fetch::Limits;
use casemate_validator::ssh::Session;
use casemate_validator::target::Target;
use casemate_validator::verify::{Verified, Verifier, now};
use casemate_validator::{release, ssh as pinned, trust};

use crate::args::{Format, JudgeArgs, SshArgs, VerifyArgs};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer::{self, Tone};
use crate::verbs::run::public_keys;

/// Exit code of a VM that is genuine and not what was asked for.
const NOT_ACCEPTABLE: u8 = 3;

/// What `ssh` ends with when not the remote command but `ssh` failed.
const SSH_FAILED: u8 = 255;

/// Verifies a VM and prints every check.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<Outcome> {
    let (_, verified) = judge(&args.judge)?;
    match args.output.format {
        Format::Json => printer::json(&verified.verdict)?,
        Format::Table => printer::line(&text(&verified.verdict)),
    }
    if admits_others(&verified, &args.judge.only_key)? {
        return Ok(Outcome::Refused(NOT_ACCEPTABLE));
    }
    Ok(outcome(&verified.verdict))
}

/// Verifies a VM with a fresh nonce, then opens a session that only the attested key can answer.
pub(crate) fn ssh(args: &SshArgs) -> anyhow::Result<Outcome> {
    let (target, verified) = judge(&args.judge)?;
    let Some(key) = verified.host_key()? else {
        printer::say(&text(&verified.verdict));
        return Ok(outcome(&verified.verdict));
    };
    printer::say(verified.verdict.summary());
    if admits_others(&verified, &args.judge.only_key)? {
        return Ok(Outcome::Refused(NOT_ACCEPTABLE));
    }
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

fn judge(args: &JudgeArgs) -> anyhow::Result<(Target, Verified)> {
    let target: Target = args.address.parse()?;
    let manifest = release::read_manifest(&args.release)?;
    let roots = trust::roots(args.trust_simulated.as_deref())?;
    let policy = trust::policy(&manifest, &roots);
    let total = Duration::from_secs(args.timeout);
    let limits = Limits { total, ..Limits::default() };
    let asking =
        Verifier { manifest: &manifest, policy: &policy, roots: &roots, limits, now: now()? };
    let verified = asking
        .verify(&target)
        .hint("nothing was judged; is the VM up, and is this its evidence port?")?;
    Ok((target, verified))
}

/// Whether an accepted VM lets in a key that is in none of `files`; says which. The launch config
/// that names the keys was verified with the rest of the evidence.
fn admits_others(verified: &Verified, files: &[PathBuf]) -> anyhow::Result<bool> {
    if files.is_empty() || !verified.verdict.is_accepted() {
        return Ok(false);
    }
    let evidence: Evidence = serde_json::from_slice(&verified.evidence)?;
    let config = LaunchConfig::from_bytes(evidence.launch_config.as_bytes())?;
    let wanted = public_keys(files)?;
    let others = config
        .ssh_authorized_keys
        .iter()
        .filter(|key| !wanted.iter().any(|line| key_of(line) == key_of(key)));
    let mut admits = false;
    for key in others {
        admits = true;
        printer::warn(&format!("not acceptable: this key may log in too: {key}"));
    }
    Ok(admits)
}

/// Type and key of a line, without its comment.
fn key_of(line: &str) -> Vec<&str> {
    line.split_whitespace().take(2).collect()
}

fn outcome(verdict: &Verdict) -> Outcome {
    match verdict.exit_code() {
        0 => Outcome::Done,
        code => Outcome::Refused(code),
    }
}

/// The verdict for a person: a line per check, what failed in full, then the summary.
fn text(verdict: &Verdict) -> String {
    let rows = verdict.checks().iter().map(|check| {
        let mark = match check.outcome {
            CheckOutcome::Passed => "ok",
            CheckOutcome::Failed => "FAILED",
            CheckOutcome::Skipped => "-",
        };
        vec![mark.into(), check.name.text().into(), short(&check.expected), short(&check.found)]
    });
    let table = printer::table(&["", "CHECK", "EXPECTED", "FOUND"], rows);
    let mut lines: Vec<String> = table
        .lines()
        .map(|line| match line.split_once("  ") {
            Some(("ok", rest)) => format!("{}  {rest}", printer::toned(Tone::Good, "ok")),
            Some(("FAILED", rest)) => format!("{}  {rest}", printer::toned(Tone::Bad, "FAILED")),
            _ => line.to_owned(),
        })
        .collect();
    lines.extend(verdict.checks().iter().filter_map(failure));
    let tone = match verdict.exit_code() {
        0 if verdict.is_simulated() => Tone::Warn,
        0 => Tone::Good,
        _ => Tone::Bad,
    };
    lines.push(String::new());
    lines.push(printer::toned(tone, verdict.summary()));
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

//! `verdict verify`, and signing what `verify` found.

use std::fs::{self, File};
use std::io::Read as _;

use anyhow::Context as _;
use casemate_validator::signed::{self, About, SignedError, Statement};
use casemate_validator::verify::{Verified, now};

use super::judge;
use crate::args::{Format, JudgeArgs, SignVerdictArgs, VerdictVerifyArgs};
use crate::outcome::Outcome;
use crate::printer;

/// Exit code of what nobody can be shown to have said.
const FORGED: u8 = 2;

/// Signs a verdict and writes the envelope, where that was asked for.
pub(crate) fn sign(
    args: &SignVerdictArgs,
    judged: &JudgeArgs,
    verified: &Verified,
) -> anyhow::Result<()> {
    let Some(key) = &args.sign_verdict else { return Ok(()) };
    let policy = judged.policy.as_ref().map(fs::read).transpose()?;
    let about = About {
        target: judged.address.as_deref().unwrap_or_default(),
        evidence: &verified.evidence,
        policy: policy.as_deref(),
        at: now()?,
    };
    let text = signed::sign(&verified.verdict, &about, args.verifier_id.as_deref(), key)?;
    let path = &args.signed_verdict;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    printer::say(&format!("signed verdict in {}", path.display()));
    Ok(())
}

/// Verifies a signed verdict and prints it; the exit code is what it says.
pub(crate) fn verify(args: &VerdictVerifyArgs) -> anyhow::Result<Outcome> {
    let mut bytes = Vec::new();
    File::open(&args.file)
        .and_then(|file| file.take(signed::MAX_LEN as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let statement: Statement = match signed::verify(&bytes, &args.key) {
        Ok(statement) => statement,
        // The key is this side's; everything else is what was handed over.
        Err(error @ (SignedError::Pem { .. } | SignedError::Kind { .. })) => {
            return Err(error.into());
        }
        Err(error) => {
            printer::error(&error.into(), None);
            return Ok(Outcome::Refused(FORGED));
        }
    };
    let verdict = statement.verdict();
    match args.output.format {
        Format::Json => printer::json(&statement)?,
        Format::Table => {
            let (target, evidence) = statement.subject().map_or_else(
                || (String::new(), String::new()),
                |(name, hash)| (name.escape_debug().to_string(), hash.to_string()),
            );
            printer::line(&judge::text_of(verdict))?;
            printer::line(&format!("target    {target}"))?;
            printer::line(&format!("evidence  {evidence}"))?;
            printer::line(&format!("verifier  {}", statement.verifier().escape_debug()))?;
            printer::line(&format!("judged    {}", statement.time().escape_debug()))?;
        }
    }
    Ok(match verdict.exit_code() {
        0 => Outcome::Done,
        code => Outcome::Refused(code),
    })
}

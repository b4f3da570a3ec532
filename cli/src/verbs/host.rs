//! `host`: look at this machine, say what is wrong and how to mend it.

use std::path::Path;

use anyhow::Context as _;
use casemate_launcher::doctor::{self, Diagnosis, Finding, Level};
use casemate_launcher::inventory::{self, Inventory};
use casemate_launcher::profile::Profiles;

use crate::args::{DoctorArgs, Format, InventoryArgs};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer::{self, Tone};

/// Exit code of a host that no confidential VM starts on.
const NOT_FIT: u8 = 3;

/// Judges a host and prints what was found.
pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let host = match &args.inventory {
        Some(path) => read(path)?,
        None => probe(args.qemu.as_deref()),
    };
    let diagnosis = doctor::examine(&host, &Profiles::shipped()?);
    match args.output.format {
        Format::Json => printer::json(&diagnosis)?,
        Format::Table => printer::line(&text(&diagnosis, args.all))?,
    }
    Ok(if diagnosis.is_fit() { Outcome::Done } else { Outcome::Refused(NOT_FIT) })
}

/// Prints what the doctor looks at.
pub(crate) fn inventory(args: &InventoryArgs) -> anyhow::Result<Outcome> {
    printer::json(&probe(args.qemu.as_deref()))?;
    Ok(Outcome::Done)
}

fn probe(qemu: Option<&Path>) -> Inventory {
    Inventory::probe(Path::new("/"), inventory::cpuid, qemu)
}

fn read(path: &Path) -> anyhow::Result<Inventory> {
    let hint = "expected what `casemate host inventory` prints";
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let host: Inventory = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no inventory of a host", path.display()))
        .hint(hint)?;
    if host.schema == Inventory::SCHEMA {
        return Ok(host);
    }
    let (found, expected) = (host.schema, Inventory::SCHEMA);
    Err(anyhow::anyhow!("{} has schema {found}, expected {expected}", path.display())).hint(hint)
}

/// A table of what was found, worst first, then what to do about it.
fn text(diagnosis: &Diagnosis, all: bool) -> String {
    let mut shown: Vec<&Finding> =
        diagnosis.findings().iter().filter(|f| all || f.level != Level::Ok).collect();
    shown.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let mut parts = Vec::new();
    for finding in &shown {
        let (tone, word) = match finding.level {
            Level::Ok => (Tone::Good, "ok"),
            Level::Unknown => (Tone::Warn, "unknown"),
            Level::Warning => (Tone::Warn, "warning"),
            Level::Problem => (Tone::Bad, "PROBLEM"),
        };
        let device = finding.device.as_ref().map(|device| format!(" {device}"));
        let device = device.unwrap_or_default();
        let word = printer::toned(tone, &format!("{word:<8}"));
        parts.push(format!("{word} {}{device}: {}", finding.check, finding.found));
        if let Some(mend) = &finding.mend {
            parts.push(format!("         why   {}", finding.why));
            parts.push(format!("         mend  {mend}"));
        }
    }
    let count = |level| diagnosis.count(level);
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    let (unknown, ok) = (count(Level::Unknown), count(Level::Ok));
    let counts = format!("{problems} problems, {warnings} warnings, {unknown} unknown, {ok} ok");
    let (tone, word) =
        if diagnosis.is_fit() { (Tone::Good, "fit") } else { (Tone::Bad, "not fit") };
    if !parts.is_empty() {
        parts.push(String::new());
    }
    parts.push(printer::toned(tone, &format!("{word} for confidential VMs: {counts}")));
    parts.join("\n")
}

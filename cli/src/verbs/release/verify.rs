//! `release verify`, and the same for whoever is about to use a release.

use std::path::Path;

use anyhow::Context as _;
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::release::{Depth, Release, Verified};
use casemate_registry::verify::{BundleSummary, Identity, Judgement, Policy};
use serde::Serialize;

use super::channel::Following;
use super::index;
use super::store::locate;
use crate::args::{Format, ReleaseVerifyArgs};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};

/// Exit code of what too few signed.
pub(crate) const NOT_TRUSTED: u8 = 2;

/// Verifies a release.
pub(crate) fn verify(args: &ReleaseVerifyArgs) -> anyhow::Result<Outcome> {
    let depth = if args.manifest_only { Depth::Manifest } else { Depth::Files };
    let following = Following::current(Some(&args.signers), &args.current);
    let Some(dir) = locate(&args.release, &args.fetch, following)? else {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    };
    let (release, verified) = judge(&dir, &policy(&args.signers)?, depth)?;
    let shown = Shown::new(&release, &verified);
    match args.output.format {
        Format::Json => printer::json(&shown)?,
        Format::Table => printer::line(&shown.text())?,
    }
    if !verified.is_trusted() {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    }
    if let Some(index) = &args.index
        && let Some(why) = index::objection(index, &args.signers, &args.current.memory, &release)?
    {
        let refused = format!("{} is refused by the index: {why}", shown.release);
        printer::say(&printer::toned(Tone::Bad, &refused));
        return Ok(Outcome::Refused(NOT_TRUSTED));
    }
    Ok(Outcome::Done)
}

/// Whether enough signed the manifest of the release in `dir`, which was read from there before;
/// says who did, or why it is not enough. Its other files are for whoever uses them to check.
pub(crate) fn is_signed(
    dir: &Path,
    manifest_sha256: &Sha256Hash,
    policy: &Policy,
) -> anyhow::Result<bool> {
    let (release, verified) = judge(dir, policy, Depth::Manifest)?;
    anyhow::ensure!(
        verified.manifest_sha256 == *manifest_sha256,
        "the manifest in {} changed while it was read",
        dir.display()
    );
    let shown = Shown::new(&release, &verified);
    if verified.is_trusted() {
        printer::say(&shown.sentence);
    } else {
        printer::say(&shown.text());
    }
    Ok(verified.is_trusted())
}

/// Reads whom to believe.
pub(crate) fn policy(path: &Path) -> anyhow::Result<Policy> {
    Policy::read(path).with_context(|| format!("cannot use {}", path.display()))
}

fn judge(dir: &Path, policy: &Policy, depth: Depth) -> anyhow::Result<(Release, Verified)> {
    let release = Release::open(dir)?;
    let verified = release.verify(policy, depth)?;
    Ok((release, verified))
}

fn row(bundle: &BundleSummary) -> Vec<String> {
    let signer = bundle.signer.clone().unwrap_or_else(|| "-".to_owned());
    let identity = bundle.identity.as_ref().map_or_else(|| "-".to_owned(), short);
    let time = bundle.signed_by.clone().unwrap_or_else(|| "not known".to_owned());
    vec![bundle.result.to_owned(), signer, identity, time, bundle.file.clone()]
}

/// Bundles for a person: a line each, then why those that prove nothing do not.
pub(super) fn bundles(judgement: &Judgement) -> (Vec<BundleSummary>, String) {
    let shown: Vec<BundleSummary> = judgement.bundles.iter().map(BundleSummary::new).collect();
    let headings = ["", "SIGNER", "WHO", "SIGNED BY", "FILE"];
    let mut lines = vec![printer::table(&headings, shown.iter().map(row))];
    lines.extend(shown.iter().filter_map(|bundle| {
        let problem = bundle.problem.as_ref()?;
        Some(format!("{}: {problem}", bundle.file))
    }));
    (shown, lines.join("\n"))
}

/// An identity in a column.
fn short(identity: &Identity) -> String {
    match identity {
        Identity::Key(sha256) => {
            format!("key {}…", sha256.to_string().chars().take(12).collect::<String>())
        }
        Identity::Certificate { subject, .. } => subject.clone(),
    }
}

/// A judgement, as this program prints it.
#[derive(Debug, Serialize)]
struct Shown {
    release: String,
    manifest_sha256: Sha256Hash,
    trusted: bool,
    threshold: usize,
    of: usize,
    signers: Vec<String>,
    sentence: String,
    manifest: Vec<BundleSummary>,
    provenance: Option<Vec<BundleSummary>>,
    #[serde(skip)]
    tables: Vec<(&'static str, String)>,
}

impl Shown {
    fn new(release: &Release, verified: &Verified) -> Self {
        let named = &release.manifest().release;
        let name = format!("{} {}", named.name, named.version);
        let judgement = &verified.manifest;
        let (manifest, text) = bundles(judgement);
        let mut tables = vec![("the manifest", text)];
        let provenance = verified.provenance.as_ref().map(|judgement| {
            let (shown, text) = bundles(judgement);
            tables.push(("provenance", text));
            shown
        });
        Self {
            sentence: sentence(&name, judgement),
            release: name,
            manifest_sha256: verified.manifest_sha256,
            trusted: verified.is_trusted(),
            threshold: judgement.threshold,
            of: judgement.of,
            signers: judgement.signers.clone(),
            manifest,
            provenance,
            tables,
        }
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("release   {}", self.release),
            format!("manifest  {}", self.manifest_sha256),
        ];
        for (what, table) in &self.tables {
            lines.push(format!("\nsignatures of {what}\n{table}"));
        }
        let tone = if self.trusted { Tone::Good } else { Tone::Bad };
        lines.push(format!("\n{}", printer::toned(tone, &self.sentence)));
        lines.join("\n")
    }
}

/// What was found, in one sentence.
pub(super) fn sentence(name: &str, judgement: &Judgement) -> String {
    let Judgement { signers, threshold, of, .. } = judgement;
    let who = match &signers[..] {
        [] => "nobody".to_owned(),
        signers => signers.join(", "),
    };
    if judgement.is_trusted() {
        format!("{name} is signed by {who}: {} of {of} signers, {threshold} needed", signers.len())
    } else {
        format!(
            "{name} is NOT trusted: signed by {who}, {} of the {threshold} signers needed",
            signers.len()
        )
    }
}

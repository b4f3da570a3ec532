//! `release index`, `list`, `revoke`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use casemate_builder::progress::{Progress as _, Total};
use casemate_measurements::causes;
use casemate_measurements::hash::Sha256Hash;
use casemate_registry::artifact::publish::digest;
use casemate_registry::artifact::source::Source;
use casemate_registry::index::{
    Change, Clock, Entry, Index, IndexFile, Memory, MemoryError, Revocation, Time, TrustError,
    advance,
};
use casemate_registry::release::Release;
use casemate_validator::verify::now;
use serde::Serialize;

use super::signer;
use super::verify::{NOT_TRUSTED, bundles, policy, sentence};
use crate::args::Format;
use crate::args::{
    MemoryArgs, OutputArgs, ReleaseIndexArgs, ReleaseListArgs, ReleaseRevokeArgs, SignerArgs,
};
use crate::outcome::{HintExt as _, Outcome};
use crate::printer::{self, Tone};
use crate::progress::Bars;

const DAY: u64 = 24 * 60 * 60;

/// Makes an index, its next version, or signs the one that is there.
pub(crate) fn index(args: &ReleaseIndexArgs) -> anyhow::Result<Outcome> {
    if args.countersign {
        return countersign(args);
    }
    let base = match (&args.new, &args.signers) {
        (Some(name), _) => {
            anyhow::ensure!(
                !args.index.exists(),
                "{} is there already: without --new its next version is made",
                args.index.display()
            );
            Index::empty(name)
        }
        (None, Some(signers)) => match trusted(&args.index, signers, &args.memory)? {
            Some(file) => file.index().clone(),
            None => return Ok(Outcome::Refused(NOT_TRUSTED)),
        },
        (None, None) => anyhow::bail!("expected --new, --signers or --countersign"),
    };
    let mut changes = Vec::new();
    for dir in &args.add {
        let release = Release::open(dir)?;
        release.check_files()?;
        let named = &release.manifest().release;
        changes.push(Change::Add(Entry {
            name: named.name.clone(),
            version: named.version.clone(),
            platform: named.platform,
            manifest_sha256: release.manifest_sha256(),
            artifact_sha256: Some(artifact(dir)?),
            channels: args.channel.iter().cloned().collect(),
        }));
    }
    let minimum = args.minimum.iter().cloned();
    changes.extend(minimum.map(|(name, version)| Change::Minimum { name, version }));
    write(&args.index, &base, changes, args.days, &args.signer, args.output)
}

/// The digest that stores have the release in `dir` by.
fn artifact(dir: &Path) -> anyhow::Result<Sha256Hash> {
    let source = Source::of_release(dir)?;
    let total = source.files.values().filter_map(|file| file.file.metadata().ok());
    let phase = Bars::new().phase("digest", Total::Bytes(total.map(|meta| meta.len()).sum()));
    let digest = digest(&source, &|bytes| phase.advance(bytes))?;
    phase.finish(&format!("sha256:{digest}"));
    Ok(digest)
}

/// Revokes a release.
pub(crate) fn revoke(args: &ReleaseRevokeArgs) -> anyhow::Result<Outcome> {
    let manifest_sha256 = match (&args.manifest, &args.release) {
        (Some(hash), _) => *hash,
        (None, Some(dir)) => Release::open(dir)?.manifest_sha256(),
        (None, None) => anyhow::bail!("expected --release or --manifest"),
    };
    let Some(file) = trusted(&args.index, &args.signers, &args.memory)? else {
        return Ok(Outcome::Refused(NOT_TRUSTED));
    };
    let since = clock()?.0;
    let change = Change::Revoke(Revocation { manifest_sha256, reason: args.reason.clone(), since });
    write(&args.index, file.index(), vec![change], args.days, &args.signer, args.output)
}

/// Signs and writes the next version.
fn write(
    path: &Path,
    base: &Index,
    changes: Vec<Change>,
    days: u64,
    who: &SignerArgs,
    output: OutputArgs,
) -> anyhow::Result<Outcome> {
    let Clock(now) = clock()?;
    let index = base.next(changes, now, days * DAY)?;
    if base.version > 0 {
        // What readers would refuse is not signed.
        advance(Some(base), &index, Clock(now))?;
    }
    let mut file = IndexFile::new(index)?;
    let who = file.sign(&signer::open(who)?)?;
    file.write(path)?;
    printer::say(&format!("{} is signed by {who}", path.display()));
    print(&file, output)
}

/// Adds a signature, if readers who saw what this machine saw will take the index.
fn countersign(args: &ReleaseIndexArgs) -> anyhow::Result<Outcome> {
    let mut file = read(&args.index)?;
    let memory = memory(&args.memory)?;
    let seen = memory.seen(&file.index().name)?;
    advance(seen.as_ref(), file.index(), clock()?)?;
    let who = file.sign(&signer::open(&args.signer)?)?;
    file.write(&args.index)?;
    printer::say(&format!("{} is signed by {who} too", args.index.display()));
    print(&file, args.output)
}

/// Lists the releases of an index.
pub(crate) fn list(args: &ReleaseListArgs) -> anyhow::Result<Outcome> {
    match trusted(&args.index, &args.signers, &args.memory)? {
        Some(file) => print(&file, args.output),
        None => Ok(Outcome::Refused(NOT_TRUSTED)),
    }
}

/// Why the index does not let a release be used, if it does not. `None` within: it is not trusted.
pub(super) fn objection(
    path: &Path,
    signers: &Path,
    args: &MemoryArgs,
    release: &Release,
) -> anyhow::Result<Option<String>> {
    let Some(file) = trusted(path, signers, args)? else {
        return Ok(Some("the index is not trusted".to_owned()));
    };
    let named = &release.manifest().release;
    let manifest = release.manifest_sha256();
    Ok(file.index().objection(&named.name, &named.version, &manifest))
}

/// Reads an index that enough signed and that is no older than what was seen. Says why it is not,
/// if it is not.
pub(super) fn trusted(
    path: &Path,
    signers: &Path,
    args: &MemoryArgs,
) -> anyhow::Result<Option<IndexFile>> {
    let file = read(path)?;
    Ok(is_trusted(&file, &path.display().to_string(), signers, args)?.then_some(file))
}

/// Whether enough signed an index and it is no older than what was seen; says why not. `what` is
/// what it is called.
pub(super) fn is_trusted(
    file: &IndexFile,
    what: &str,
    signers: &Path,
    args: &MemoryArgs,
) -> anyhow::Result<bool> {
    let Index { name, version, .. } = file.index();
    let name = format!("index {name} version {version}");
    let why = match file.trust(&policy(signers)?, &memory(args)?, clock()?) {
        Ok(judgement) => {
            printer::say(&sentence(&name, &judgement));
            return Ok(true);
        }
        Err(TrustError::Unnamed) => {
            return Err(anyhow::anyhow!("{} names no index", signers.display())).hint(
                "write `index = \"NAME\"` into it: another index of the same signers is another",
            );
        }
        Err(TrustError::Name { found, expected }) => {
            format!("{what} is the index {found:?}, not {expected:?}")
        }
        Err(TrustError::Signatures(judgement)) => {
            let (_, table) = bundles(&judgement);
            let sentence = printer::toned(Tone::Bad, &sentence(&name, &judgement));
            format!("{table}\n\n{sentence}")
        }
        Err(TrustError::Memory(MemoryError::State(error))) => {
            printer::toned(Tone::Bad, &causes::in_one_line(&error))
        }
        Err(TrustError::Memory(error)) => return Err(error.into()),
    };
    printer::say(&why);
    Ok(false)
}

pub(super) fn read(path: &Path) -> anyhow::Result<IndexFile> {
    IndexFile::read(path).with_context(|| format!("cannot use the index {}", path.display()))
}

pub(super) fn clock() -> anyhow::Result<Clock> {
    Ok(Clock(Time(now()?.0)))
}

fn memory(args: &MemoryArgs) -> anyhow::Result<Memory> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state =
        || set("XDG_STATE_HOME").or_else(|| set("HOME").map(|dir| dir.join(".local/state")));
    let dir = match &args.state {
        Some(dir) => dir.clone(),
        None => state()
            .context("neither XDG_STATE_HOME nor HOME is set")
            .hint("name a directory with --state")?
            .join("casemate/indexes"),
    };
    Ok(Memory::new(&dir))
}

/// An index, as this program prints it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    sha256: Sha256Hash,
    index: &'a Index,
}

fn print(file: &IndexFile, output: OutputArgs) -> anyhow::Result<Outcome> {
    let index = file.index();
    match output.format {
        Format::Json => printer::json(&Shown { sha256: file.sha256(), index })?,
        Format::Table => printer::line(&text(index))?,
    }
    Ok(Outcome::Done)
}

fn text(index: &Index) -> String {
    let rows = index.releases.iter().map(|entry| {
        let objection = index.objection(&entry.name, &entry.version, &entry.manifest_sha256);
        let channels: Vec<&str> = entry.channels.iter().map(String::as_str).collect();
        vec![
            entry.name.clone(),
            entry.version.clone(),
            entry.platform.to_string(),
            if channels.is_empty() { "-".to_owned() } else { channels.join(", ") },
            entry.manifest_sha256.to_string().chars().take(16).collect(),
            objection.unwrap_or_else(|| "may be used".to_owned()),
        ]
    });
    let headings = ["NAME", "VERSION", "PLATFORM", "CURRENT IN", "MANIFEST", "STATE"];
    let table = printer::table(&headings, rows);
    let Index { name, version, issued, expires, .. } = index;
    format!("index {name}, version {version} of {issued}, valid until {expires}\n\n{table}")
}

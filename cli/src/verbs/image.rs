//! `image lock`, `image build`, `image diff`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use casemate_builder::archive::{MirrorSettings, Mirrors, VARIABLE};
use casemate_builder::build::{self, BuildOptions, BuildReport};
use casemate_builder::diff;
use casemate_builder::fetch::{Cache, FetchOptions};
use casemate_builder::lock::{self, LockOptions};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::platform::Platform;
use serde::Serialize;

use crate::args::{BuildArgs, DiffArgs, Format, LockArgs, SourceArgs};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};
use crate::progress::Bars;
use crate::verbs::inputs;

/// Resolves the recipe's packages and writes the lock.
pub(crate) fn lock(args: &LockArgs) -> anyhow::Result<Outcome> {
    let update = args.update.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>()?;
    let options = LockOptions {
        cache: cache(&args.sources)?,
        mirrors: mirrors(&args.sources)?,
        keyrings: args.keyring.clone(),
        update: (!update.is_empty()).then_some(update),
        newest: args.newest,
        fetch: fetch(&args.sources, false),
        now: SystemTime::now(),
    };
    let summary = lock::lock(&args.dir, &options, &Bars::new())?;
    match args.output.format {
        Format::Json => printer::json(&summary)?,
        Format::Table => printer::line(summary.to_string().trim_end())?,
    }
    Ok(Outcome::Done)
}

/// Builds a release, or prints how it would be built.
pub(crate) fn build(args: &BuildArgs) -> anyhow::Result<Outcome> {
    if args.plan {
        let plan = build::plan(&args.dir, args.platform)?;
        match args.format {
            Format::Json => printer::json(&plan)?,
            Format::Table => printer::line(plan.to_string().trim_end())?,
        }
        return Ok(Outcome::Done);
    }
    let out = match &args.output {
        Some(out) => out.clone(),
        None => default_output(&args.dir)?,
    };
    let fetch = fetch(&args.sources, args.offline);
    let options = BuildOptions {
        out,
        cache: cache(&args.sources)?,
        mirrors: mirrors(&args.sources)?,
        fetch,
        cargo_home: cargo_home(),
        run_cargo: !args.offline,
        jobs: jobs(&args.sources),
        platform: args.platform,
        order_seed: args.unpack_order.unwrap_or(0),
    };
    let bars = Bars::new();
    if let Some(bundle) = &args.inputs {
        inputs::take(&args.dir, bundle, &options.cache, &args.store, &bars)?;
    }
    let report = build::build(&args.dir, &options, &bars)?;
    match args.format {
        Format::Json => printer::json(&Built::new(&report))?,
        Format::Table => printer::line(&table(&report))?,
    }
    if args.platform == Platform::Simulated {
        printer::warn("this release is for the SIMULATED platform: its VMs prove nothing");
    }
    Ok(Outcome::Done)
}

/// Compares two releases: exit 0 when they are the same, 3 when not.
pub(crate) fn diff(args: &DiffArgs) -> anyhow::Result<Outcome> {
    let report = diff::diff(&args.a, &args.b)?;
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(report.to_string().trim_end())?,
    }
    Ok(if report.identical() { Outcome::Done } else { Outcome::Refused(3) })
}

pub(super) fn cache(args: &SourceArgs) -> anyhow::Result<Cache> {
    let root = match &args.cache {
        Some(root) => root.clone(),
        None => Cache::default_root(|name| std::env::var_os(name))?,
    };
    Ok(Cache::open(&root)?)
}

pub(super) fn mirrors(args: &SourceArgs) -> anyhow::Result<Mirrors> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let settings = MirrorSettings {
        flags: args.mirror.clone(),
        variable: std::env::var(VARIABLE).ok(),
        config: config.map(|dir| dir.join("casemate/config.toml")),
        apt_dir: Some("/etc/apt".into()),
    };
    Ok(Mirrors::discover(&settings)?)
}

pub(super) fn fetch(args: &SourceArgs, offline: bool) -> FetchOptions {
    // Downloads wait for the network, not for a processor.
    let jobs = args.jobs.map_or(FetchOptions::default().jobs, std::num::NonZero::get);
    FetchOptions { offline, jobs, ..FetchOptions::default() }
}

pub(super) fn jobs(args: &SourceArgs) -> std::num::NonZeroUsize {
    args.jobs
        .or_else(|| std::thread::available_parallelism().ok())
        .unwrap_or(std::num::NonZeroUsize::MIN)
}

/// `$CARGO_HOME`, else `$HOME/.cargo`.
pub(super) fn cargo_home() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo")))
}

fn default_output(dir: &Path) -> anyhow::Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| format!("cannot read {}", dir.display()))?;
    let name = dir.file_name().with_context(|| format!("{} has no name", dir.display()))?;
    Ok(Path::new("out").join(name))
}

/// An artifact, as this program prints it.
#[derive(Debug, Serialize)]
struct BuiltArtifact<'a> {
    name: &'a str,
    size: u64,
    sha256: Sha256Hash,
    seconds: f64,
}

/// A build, as this program prints it.
#[derive(Debug, Serialize)]
struct Built<'a> {
    release: String,
    artifacts: Vec<BuiltArtifact<'a>>,
    phases: Vec<(&'static str, f64)>,
}

impl<'a> Built<'a> {
    fn new(report: &'a BuildReport) -> Self {
        let artifacts = report.artifacts.iter().map(|artifact| BuiltArtifact {
            name: &artifact.name,
            size: artifact.size,
            sha256: artifact.sha256,
            seconds: artifact.seconds,
        });
        Self {
            release: report.out.display().to_string(),
            artifacts: artifacts.collect(),
            phases: report.phases.clone(),
        }
    }
}

fn table(report: &BuildReport) -> String {
    let rows = report.artifacts.iter().map(|artifact| {
        vec![
            artifact.name.clone(),
            printer::size(artifact.size),
            artifact.sha256.to_string(),
            format!("{:.2}", artifact.seconds),
        ]
    });
    let table = printer::table(&["ARTIFACT", "SIZE>", "SHA-256", "SECONDS>"], rows);
    let seconds: f64 = report.phases.iter().map(|(_, seconds)| seconds).sum();
    let done = format!("{} in {seconds:.2} s", report.out.display());
    format!("{table}\n\n{}", printer::toned(Tone::Good, &done))
}

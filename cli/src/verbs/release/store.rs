//! What was typed about stores, and releases that are named by a reference.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use casemate_builder::fetch::Cache;
use casemate_builder::progress::{Phase, Progress as _, Total};
use casemate_registry::artifact::pull::{PullOptions, Pulled, Resolved};
use casemate_registry::cache::{FetchOptions, ReleaseCache};
use casemate_registry::reference::{self, Reference, Selector};
use casemate_registry::store::{Credentials, Expected, ObjectSettings, Options};

use crate::args::{FetchArgs, StoreArgs};
use crate::outcome::HintExt as _;
use crate::printer;
use crate::progress::Bars;

/// How stores are talked to.
pub(crate) fn options(args: &StoreArgs) -> Options {
    Options {
        patience: Duration::from_secs(args.store_timeout),
        insecure_http: args.insecure_http,
        credentials: Credentials::from_environment(|name| std::env::var_os(name)),
        objects: ObjectSettings::from_environment(std::env::vars_os()),
    }
}

/// How releases are fetched.
pub(crate) fn fetching(args: &FetchArgs) -> FetchOptions {
    FetchOptions {
        store: options(&args.store),
        pull: PullOptions { jobs: args.store.transfers.get(), max_size: args.max_size },
        allow_rollback: args.allow_rollback,
    }
}

/// Where pulled releases are kept.
pub(crate) fn cache(args: &FetchArgs) -> anyhow::Result<ReleaseCache> {
    let root = match &args.release_cache {
        Some(root) => root.clone(),
        None => Cache::default_root(|name| std::env::var_os(name))?,
    };
    let root = std::path::absolute(&root)
        .with_context(|| format!("cannot tell where {} is", root.display()))?;
    Ok(ReleaseCache::new(&root))
}

/// What the tag of a place to publish to must point to before it is moved.
pub(crate) fn expected(to: &Reference, new_tag: bool) -> anyhow::Result<Expected> {
    match (&to.selector, new_tag) {
        (Selector::Digest(_), _) => anyhow::bail!(
            "{to} names no tag: what is published gets its digest from its content, and a tag to \
             be found by"
        ),
        (Selector::Both(..), true) => {
            anyhow::bail!("{to} says what the tag points to, --new-tag that it points to nothing")
        }
        (Selector::Both(_, digest), false) => Ok(Expected::Manifest(*digest)),
        (Selector::Tag(_), true) => Ok(Expected::Absent),
        (Selector::Tag(_), false) => Ok(Expected::Any),
    }
}

/// The release directory that was named: itself, or what a reference leads to, fetched unless it
/// is here.
pub(crate) fn locate(named: &Path, args: &FetchArgs) -> anyhow::Result<PathBuf> {
    let Some(text) = named.to_str().filter(|text| reference::is_reference(text)) else {
        return Ok(named.to_owned());
    };
    let reference: Reference = text.parse()?;
    let bars = Bars::new();
    let phase = Fetching::default();
    let fetched = cache(args)?
        .fetch(
            &reference,
            &fetching(args),
            &|found| phase.begin(&bars, found),
            &|bytes| phase.advance(bytes),
        )
        .hint("a release that was pulled once is taken without asking anybody when it is named by its digest: …@sha256:…")?;
    if let Some(pulled) = &fetched.pulled {
        phase.finish(pulled);
    }
    printer::say(&format!("{} is {}", reference, pinned(&reference, &fetched.manifest)));
    Ok(fetched.path)
}

fn pinned(reference: &Reference, digest: &casemate_measurements::hash::Sha256Hash) -> String {
    reference.pinned(*digest).to_string()
}

/// A pull that is drawn once its length is known.
#[derive(Debug, Default)]
pub(crate) struct Fetching {
    phase: std::sync::OnceLock<Box<dyn Phase>>,
}

impl Fetching {
    /// The release was found.
    pub(crate) fn begin(&self, bars: &Bars, found: &Resolved) {
        let size = found.descriptor.size();
        self.phase.get_or_init(|| bars.phase("pull", Total::Bytes(size)));
    }

    /// So many more bytes are dealt with.
    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(phase) = self.phase.get() {
            phase.advance(bytes);
        }
    }

    /// It is here.
    pub(crate) fn finish(&self, pulled: &Pulled) {
        if let Some(phase) = self.phase.get() {
            let (fetched, reused) = (printer::size(pulled.fetched), printer::size(pulled.reused));
            phase.finish(&format!("{fetched} fetched, {reused} were here"));
        }
    }
}

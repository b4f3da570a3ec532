//! What was typed about stores, and releases that are named by a reference.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use casemate_builder::fetch::Cache;
use casemate_builder::progress::{Phase, Progress as _, Total};
use casemate_registry::artifact::pull::{PullOptions, Pulled, Resolved};
use casemate_registry::cache::{FetchOptions, ReleaseCache};
use casemate_registry::reference::{self, Named, Reference, Selector};
use casemate_registry::store::{Credentials, Expected, ObjectSettings, Options, open};

use super::channel::{self, Following};
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
/// is here. `None` where a channel leads to nothing that may be used, which was said.
pub(crate) fn locate(
    named: &Path,
    args: &FetchArgs,
    following: Following<'_>,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(text) = named.to_str().filter(|text| reference::is_reference(text)) else {
        return Ok(Some(named.to_owned()));
    };
    let named: Named = text.parse()?;
    let (cache, options) = (cache(args)?, fetching(args));
    let (bars, phase) = (Bars::new(), Fetching::default());
    let begin = |found: &Resolved| phase.begin(&bars, found);
    let advance = |bytes| phase.advance(bytes);
    let fetched = match &named {
        Named::Release(reference) => {
            let fetched = cache.fetch(reference, &options, &begin, &advance).hint(
                "a release that was pulled once is taken without asking anybody when it is named \
                 by its digest: …@sha256:…",
            )?;
            printer::say(&format!("{reference} is {}", reference.pinned(fetched.manifest)));
            fetched
        }
        Named::Channel(channel) => {
            let store = open(&channel.place, &options.store)?;
            let Some(found) =
                channel::find(&named, store.as_ref(), &cache, options.allow_rollback, following)?
            else {
                return Ok(None);
            };
            let fetched =
                cache.keep(store.as_ref(), &found.resolved, &options, &begin, &advance)?;
            if !found.is_in(&fetched.path)? {
                return Ok(None);
            }
            fetched
        }
    };
    if let Some(pulled) = &fetched.pulled {
        phase.finish(pulled);
    }
    Ok(Some(fetched.path))
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

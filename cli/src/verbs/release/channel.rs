//! What was named in a store: a release by tag or digest, or by a channel of a signed index.

use std::path::Path;

use anyhow::Context as _;
use casemate_measurements::causes;
use casemate_measurements::platform::Platform;
use casemate_registry::artifact::index::fetch;
use casemate_registry::artifact::pull::Resolved;
use casemate_registry::cache::ReleaseCache;
use casemate_registry::channel::{self, ChannelError};
use casemate_registry::index::{Entry, IndexFile};
use casemate_registry::reference::{Channel, Named, Reference, Selector};
use casemate_registry::release::Release;
use casemate_registry::store::Store;

use super::index;
use super::verify::{is_signed, policy};
use crate::args::{ChannelArgs, CurrentArgs, MemoryArgs};
use crate::outcome::HintExt as _;
use crate::printer::{self, Tone};

/// Whom to believe of a channel, and what is meant by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Following<'a> {
    /// The file with the signers of index and releases.
    pub(crate) signers: Option<&'a Path>,
    /// The platform whose release is meant.
    pub(crate) platform: Platform,
    /// Where it is remembered which index was seen.
    pub(crate) memory: &'a MemoryArgs,
}

impl<'a> From<&'a ChannelArgs> for Following<'a> {
    fn from(args: &'a ChannelArgs) -> Self {
        Self::current(args.signers.as_deref(), &args.current)
    }
}

impl<'a> Following<'a> {
    /// Follows what the command line means, believing `signers`.
    pub(super) fn current(signers: Option<&'a Path>, args: &'a CurrentArgs) -> Self {
        let CurrentArgs { platform, memory } = args;
        Self { signers, platform: *platform, memory }
    }
}

/// A release that was found in a store.
pub(super) struct Found {
    /// What the store has.
    pub(super) resolved: Resolved,
    /// The reference that pins it.
    pub(super) pinned: Reference,
    /// What led to it, where that was a channel.
    lead: Option<Lead>,
}

/// The trusted index of a channel, and what it says of the release that is current there.
struct Lead {
    index: IndexFile,
    entry: Entry,
}

/// Finds what was named. `None` where it is refused, which was said.
pub(super) fn find(
    named: &Named,
    store: &dyn Store,
    cache: &ReleaseCache,
    allow_rollback: bool,
    following: Following<'_>,
) -> anyhow::Result<Option<Found>> {
    match named {
        Named::Release(reference) => {
            let resolved = cache.look_up(store, reference, allow_rollback)?;
            let pinned = reference.pinned(*resolved.manifest.sha256());
            Ok(Some(Found { resolved, pinned, lead: None }))
        }
        Named::Channel(channel) => follow(channel, store, following),
    }
}

fn follow(
    channel: &Channel,
    store: &dyn Store,
    Following { signers, platform, memory }: Following<'_>,
) -> anyhow::Result<Option<Found>> {
    let signers = signers
        .with_context(|| {
            format!("{channel} is a channel of a signed index, and nobody is named whom to believe")
        })
        .hint("name them with --signers FILE, and in that file the index: index = \"NAME\"")?;
    let file = fetch(store, &channel.index)
        .hint("without its store a channel cannot be followed; a release that was pulled once is taken without asking anybody when it is named by its digest: …@sha256:…")?;
    let what = format!("what {} has under {}", channel.place, channel.index);
    if !index::is_trusted(&file, &what, signers, memory)? {
        return Ok(None);
    }
    let Some((entry, resolved)) =
        unless_refused(channel::follow(store, file.index(), channel, platform))?
    else {
        return Ok(None);
    };
    let selector = Selector::Digest(*resolved.manifest.sha256());
    let pinned = Reference { place: channel.place.clone(), selector };
    printer::say(&format!("{channel} is {} {}, {pinned}", entry.name, entry.version));
    let lead = Some(Lead { index: file, entry });
    Ok(Some(Found { resolved, pinned, lead }))
}

/// Says a refusal; other errors are the caller's.
fn unless_refused<T>(result: Result<T, ChannelError>) -> anyhow::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_refusal() => {
            printer::say(&printer::toned(Tone::Bad, &causes::in_one_line(&error)));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

impl Found {
    /// The trusted index that led to it.
    pub(super) fn index(&self) -> Option<&IndexFile> {
        self.lead.as_ref().map(|lead| &lead.index)
    }

    /// Whether the release in `dir`, which was pulled, is the one that the index says; says it
    /// where it is not.
    pub(super) fn is_in(&self, dir: &Path) -> anyhow::Result<bool> {
        let Some(Lead { entry, .. }) = &self.lead else { return Ok(true) };
        let digest = *self.resolved.manifest.sha256();
        Ok(unless_refused(entry.check(digest, &Release::open(dir)?))?.is_some())
    }

    /// Whether enough signed it, where it was said who must; its manifest and signatures are
    /// fetched for that and nothing else. Says who did.
    pub(super) fn is_signed(
        &self,
        store: &dyn Store,
        signers: Option<&Path>,
    ) -> anyhow::Result<bool> {
        let Some(signers) = signers else { return Ok(true) };
        let signers = policy(signers)?;
        let dir = channel::preview(store, &self.resolved)?;
        let manifest = Release::open(dir.path())?.manifest_sha256();
        Ok(self.is_in(dir.path())? && is_signed(dir.path(), &manifest, &signers)?)
    }
}

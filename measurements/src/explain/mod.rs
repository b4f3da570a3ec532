//! Why a launch digest is not the one that was expected: searches what a host may have done
//! otherwise, over known releases, and names the difference.
//!
//! A digest does not say what it is of. What can be said is which of many launches has it, or
//! that none of so many has. Kinds are searched in the order of [`Kind`], so the first answer is
//! the simplest. One thing differs in each, beside the shape: two at once are not searched.

mod candidate;
mod cmdline;
mod plan;
mod words;

use std::num::NonZeroUsize;

use serde::Serialize;

use crate::hash::LaunchDigest;
use crate::launch::Shape;
use crate::manifest::Manifest;

use plan::{Difference, Plan};

/// A release that may be the one that was launched, or a part of it.
#[derive(Debug, Clone)]
pub struct Known {
    /// What the caller calls it.
    pub label: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What is searched, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A row of a release's table.
    Listed,
    /// A release in another shape: vCPU count, CPU, guest features, VMM.
    Shape,
    /// A firmware whose page of kernel hashes was left empty: no kernel was measured.
    KernelHashesOff,
    /// A release with another command line.
    Cmdline,
    /// A release with the firmware, kernel, initrd or command line of another.
    Mixed,
    /// A release on a host whose VMM and kernel are older, or newer, than the calculation's.
    FormerReset,
    /// A release as a calculator with a known fault would measure it.
    Calculator,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Listed,
        Self::Shape,
        Self::KernelHashesOff,
        Self::Cmdline,
        Self::Mixed,
        Self::FormerReset,
        Self::Calculator,
    ];

    /// What it is, for a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Listed => "rows of the releases' tables",
            Self::Shape => "other vCPU counts, CPUs, guest features and VMMs",
            Self::KernelHashesOff => "kernel hashes off, or no kernel",
            Self::Cmdline => "other command lines",
            Self::Mixed => "firmware, kernel, initrd or command line of another release",
            Self::FormerReset => "register values of former hosts",
            Self::Calculator => "known faults of calculators",
        }
    }
}

/// The launch that a measurement is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// How it was found.
    pub kind: Kind,
    /// The release, by the caller's label.
    pub release: String,
    /// Another release that a part is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_release: Option<String>,
    /// The shape that was launched.
    pub shape: Shape,
    /// What differs, in a few words each; nothing for a listed row.
    pub differences: Vec<String>,
}

/// Launches that were compared and are not it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Excluded {
    /// Of which kind.
    pub kind: Kind,
    /// How many.
    pub launches: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    schema: u32,
    /// What was asked about.
    pub measurement: LaunchDigest,
    /// One sentence.
    pub sentence: String,
    /// The launch, where one was found.
    pub found: Option<Found>,
    /// What was compared before, kind by kind.
    pub excluded: Vec<Excluded>,
}

impl Explanation {
    /// The version of the format that this code writes.
    pub const SCHEMA: u32 = 1;
}

/// Explains `measurement` by the known releases, with so many threads.
#[must_use]
pub fn explain(measurement: &LaunchDigest, releases: &[Known], jobs: NonZeroUsize) -> Explanation {
    let mut excluded = Vec::new();
    let mut found = None;
    for kind in Kind::ALL {
        let (hit, launches) = match kind {
            Kind::Listed => listed(measurement, releases),
            _ => searched(measurement, releases, kind, jobs),
        };
        if hit.is_some() {
            found = hit;
            break;
        }
        excluded.push(Excluded { kind, launches });
    }
    let sentence = words::sentence(found.as_ref(), &excluded, releases.len());
    let (schema, measurement) = (Explanation::SCHEMA, *measurement);
    Explanation { schema, measurement, sentence, found, excluded }
}

fn listed(measurement: &LaunchDigest, releases: &[Known]) -> (Option<Found>, u64) {
    let row = releases.iter().find_map(|known| {
        let row = known.manifest.find_measurement(measurement)?;
        Some(Found {
            kind: Kind::Listed,
            release: known.label.clone(),
            other_release: None,
            shape: row.shape(),
            differences: Vec::new(),
        })
    });
    let rows = releases.iter().map(|known| known.manifest.reference_values.len() as u64).sum();
    (row, rows)
}

fn searched(
    measurement: &LaunchDigest,
    releases: &[Known],
    kind: Kind,
    jobs: NonZeroUsize,
) -> (Option<Found>, u64) {
    let candidates = Plan::new(releases).candidates(kind);
    let launches = candidate::count(&candidates);
    let hit = candidate::search(&candidates, measurement, jobs);
    let found = hit.map(|hit| {
        let Difference { release, what } = &candidates[hit.candidate].difference;
        let known = &releases[*release];
        Found {
            kind,
            release: known.label.clone(),
            other_release: what.other().map(|other| releases[other].label.clone()),
            shape: hit.shape,
            differences: words::differences(&known.manifest, what, &hit.shape, releases),
        }
    });
    (found, launches)
}

//! Which launches are searched for each kind of difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::firmware::{Firmware, SectionKind};
use crate::hash::Sha256Hash;
use crate::kernel_hashes::KernelHashes;
use crate::launch::{CpuModel, GuestFeatures, VcpuCount, Vmm};
use crate::manifest::Manifest;
use crate::vmsa::Reset;

use super::candidate::{Candidate, Ground, Series};
use super::cmdline::{self, Change};
use super::{Kind, Known};

/// Masks of guest features that hosts are known to set, or may before long, beside SNP alone.
const FEATURES: [u64; 14] = [
    0x21, 0x201, 0x221, 0x9, 0x11, 0x41, 0x81, 0x101, 0x4001, 0x8001, 0x1_0001, 0x20_0001, 0x5, 0x3,
];

/// A part of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Firmware,
    Kernel,
    Initrd,
    Cmdline,
}

/// A fault of a program that calculates digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    NoNul,
    NoInitrd,
    NoSvsmCaa,
    HashesLast,
    HashesFirst,
}

/// What differs beside the shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Nothing,
    NoHashes,
    Cmdline(Change),
    Part { part: Part, other: usize },
    Former,
    Fault(Fault),
}

impl What {
    pub(super) const fn other(&self) -> Option<usize> {
        match self {
            Self::Part { other, .. } => Some(*other),
            _ => None,
        }
    }
}

/// Which release, and what of it differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) release: usize,
    pub(super) what: What,
}

type Candidates = Vec<Candidate<Difference>>;

/// The four measured parts of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Parts {
    ground: usize,
    kernel: Sha256Hash,
    initrd: Sha256Hash,
    cmdline: Sha256Hash,
}

impl Parts {
    const fn hashes(&self) -> KernelHashes {
        KernelHashes { cmdline: self.cmdline, initrd: self.initrd, kernel: self.kernel }
    }
}

/// What all kinds of candidates are made of.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    releases: &'a [Known],
    grounds: Vec<Arc<Ground>>,
    parts: Vec<Parts>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(releases: &'a [Known]) -> Self {
        let mut grounds: Vec<Arc<Ground>> = Vec::new();
        let mut parts = Vec::with_capacity(releases.len());
        for known in releases {
            let law = &known.manifest.law;
            let same = |ground: &Arc<Ground>| ground.firmware == *law.firmware();
            let ground = grounds.iter().position(same).unwrap_or_else(|| {
                grounds.push(Arc::new(Ground::new(law.firmware().clone())));
                grounds.len() - 1
            });
            let KernelHashes { cmdline, initrd, kernel } = *law.hashes();
            parts.push(Parts { ground, kernel, initrd, cmdline });
        }
        Self { releases, grounds, parts }
    }

    pub(super) fn candidates(&self, kind: Kind) -> Candidates {
        match kind {
            Kind::Listed => Vec::new(),
            Kind::Shape => self.shapes(),
            Kind::KernelHashesOff => self.without_hashes(),
            Kind::Cmdline => self.cmdlines(),
            Kind::Mixed => self.mixed(),
            Kind::FormerReset => self.former(),
            Kind::Calculator => self.faults(),
        }
    }

    fn ground(&self, release: usize) -> Arc<Ground> {
        Arc::clone(&self.grounds[self.parts[release].ground])
    }

    /// The release as it is, but for `series`.
    fn whole(&self, release: usize, what: What, series: Arc<[Series]>) -> Candidate<Difference> {
        Candidate {
            difference: Difference { release, what },
            ground: self.ground(release),
            hashes: Some(self.parts[release].hashes()),
            series,
        }
    }

    fn shapes(&self) -> Candidates {
        let all = |release| self.whole(release, What::Nothing, all_series(self.manifest(release)));
        (0..self.releases.len()).map(all).collect()
    }

    fn manifest(&self, release: usize) -> &Manifest {
        &self.releases[release].manifest
    }

    /// Once for each firmware: no release's kernel is in these digests.
    fn without_hashes(&self) -> Candidates {
        let first = |ground| self.parts.iter().position(|parts| parts.ground == ground);
        let releases = (0..self.grounds.len()).filter_map(first);
        releases
            .map(|release| Candidate {
                hashes: None,
                ..self.whole(release, What::NoHashes, all_series(self.manifest(release)))
            })
            .collect()
    }

    fn cmdlines(&self) -> Candidates {
        let mut candidates = Vec::new();
        for release in 0..self.releases.len() {
            let (manifest, parts) = (self.manifest(release), self.parts[release]);
            let series = listed_series(manifest, Reset::Current);
            for (change, line) in cmdline::variants(&manifest.boot.cmdline) {
                let hashes =
                    KernelHashes::from_digests(parts.kernel, parts.initrd, line.as_bytes());
                candidates.push(Candidate {
                    hashes: Some(hashes),
                    ..self.whole(release, What::Cmdline(change), Arc::clone(&series))
                });
            }
        }
        candidates
    }

    /// Each release with each part that another has otherwise. What is the same files as another
    /// mixture, or as a release, is compared once.
    fn mixed(&self) -> Candidates {
        let mut seen: BTreeSet<Parts> = self.parts.iter().copied().collect();
        let mut candidates = Vec::new();
        for release in 0..self.releases.len() {
            let own = self.parts[release];
            let series = listed_series(self.manifest(release), Reset::Current);
            for (other, theirs) in self.parts.iter().enumerate() {
                for (part, mixture) in [
                    (Part::Firmware, Parts { ground: theirs.ground, ..own }),
                    (Part::Kernel, Parts { kernel: theirs.kernel, ..own }),
                    (Part::Initrd, Parts { initrd: theirs.initrd, ..own }),
                    (Part::Cmdline, Parts { cmdline: theirs.cmdline, ..own }),
                ] {
                    if !seen.insert(mixture) {
                        continue;
                    }
                    candidates.push(Candidate {
                        difference: Difference { release, what: What::Part { part, other } },
                        ground: Arc::clone(&self.grounds[mixture.ground]),
                        hashes: Some(mixture.hashes()),
                        series: Arc::clone(&series),
                    });
                }
            }
        }
        candidates
    }

    fn former(&self) -> Candidates {
        let former = |release| {
            let series = listed_series(self.manifest(release), Reset::Former);
            let mut all: BTreeSet<Series> = series.iter().copied().collect();
            for features in [GuestFeatures::SNP_ACTIVE, GuestFeatures::DEBUG_SWAP] {
                all.extend(series.iter().map(|series| Series { features, ..*series }));
                all.extend(series.iter().map(|series| Series {
                    features,
                    vmm: Vmm::Ec2,
                    ..*series
                }));
            }
            self.whole(release, What::Former, all.into_iter().collect())
        };
        (0..self.releases.len()).map(former).collect()
    }

    fn faults(&self) -> Candidates {
        let mut candidates = Vec::new();
        // The firmwares that are searched beside the known ones: not more than a few for each.
        let mut others = BTreeMap::new();
        for release in 0..self.releases.len() {
            let (manifest, parts) = (self.manifest(release), self.parts[release]);
            let series = listed_series(manifest, Reset::Current);
            let own = parts.hashes();
            let bare = Sha256Hash::of(manifest.boot.cmdline.as_bytes());
            for (fault, hashes) in [
                (Fault::NoNul, KernelHashes { cmdline: bare, ..own }),
                (Fault::NoInitrd, KernelHashes { initrd: Sha256Hash::of(b""), ..own }),
            ] {
                candidates.push(Candidate {
                    hashes: Some(hashes),
                    ..self.whole(release, What::Fault(fault), Arc::clone(&series))
                });
            }
            let grounds = others.entry(parts.ground).or_insert_with(|| {
                let firmware = &self.grounds[parts.ground].firmware;
                let made = |(fault, firmware)| (fault, Arc::new(Ground::new(firmware)));
                layouts(firmware).into_iter().map(made).collect::<Vec<_>>()
            });
            for (fault, ground) in grounds {
                candidates.push(Candidate {
                    ground: Arc::clone(ground),
                    ..self.whole(release, What::Fault(*fault), Arc::clone(&series))
                });
            }
        }
        candidates
    }
}

/// The firmware with its sections in the order, or of the number, of calculators of former days.
fn layouts(firmware: &Firmware) -> Vec<(Fault, Firmware)> {
    let sections = &firmware.layout.sections;
    let (hashes, others): (Vec<_>, Vec<_>) =
        sections.iter().copied().partition(|s| s.kind == SectionKind::KernelHashes);
    let without: Vec<_> =
        sections.iter().copied().filter(|s| s.kind != SectionKind::SvsmCaa).collect();
    let last = [others.clone(), hashes.clone()].concat();
    let first = [hashes, others].concat();
    [(Fault::NoSvsmCaa, without), (Fault::HashesLast, last), (Fault::HashesFirst, first)]
        .into_iter()
        .filter(|(_, changed)| changed != sections)
        .map(|(fault, sections)| {
            let mut firmware = firmware.clone();
            firmware.layout.sections = sections;
            (fault, firmware)
        })
        .collect()
}

/// The launches that a table lists, with every number of vCPUs up to its greatest.
fn listed_series(manifest: &Manifest, reset: Reset) -> Arc<[Series]> {
    let mut series: BTreeMap<_, Series> = BTreeMap::new();
    for row in &manifest.reference_values {
        let (vmm, cpu, features) = (row.vmm, row.cpu_model, row.guest_features);
        series
            .entry((vmm, cpu.signature(), features))
            .and_modify(|known| known.most = known.most.max(row.vcpus))
            .or_insert(Series { vmm, cpu, features, reset, most: row.vcpus });
    }
    series.into_values().collect()
}

/// Every launch of the same files that is plausible: all counts on all CPUs and VMMs with the
/// features that are common, and what the table lists with the features that are not.
fn all_series(manifest: &Manifest) -> Arc<[Series]> {
    let reset = Reset::Current;
    let listed = listed_series(manifest, reset);
    let mut common: BTreeSet<GuestFeatures> = listed.iter().map(|s| s.features).collect();
    common.extend([GuestFeatures::SNP_ACTIVE, GuestFeatures::DEBUG_SWAP]);
    // By the name that the table uses, where it has the signature.
    let mut cpus: BTreeMap<u32, CpuModel> = BTreeMap::new();
    let known = listed.iter().map(|s| s.cpu).chain(CpuModel::distinct()).chain(CpuModel::SILICON);
    for cpu in known {
        cpus.entry(cpu.signature()).or_insert(cpu);
    }
    let most = VcpuCount::GREATEST;
    let mut all = Vec::new();
    for vmm in Vmm::ALL {
        // Only QEMU's digests know the CPU.
        let of_vmm = if vmm == Vmm::Qemu { cpus.len() } else { 1 };
        for cpu in cpus.values().take(of_vmm) {
            all.extend(common.iter().map(|f| Series { vmm, cpu: *cpu, features: *f, reset, most }));
        }
    }
    let rare = FEATURES.iter().filter_map(|raw| GuestFeatures::new(*raw).ok());
    for features in rare.filter(|features| !common.contains(features)) {
        all.extend(listed.iter().map(|series| Series { features, ..*series }));
    }
    all.into()
}

//! What is compared with a measurement: launches by the thousand, each group of which shares all
//! that can be shared.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use crate::digest::{Prefix, Stem, Vcpus};
use crate::firmware::Firmware;
use crate::hash::LaunchDigest;
use crate::kernel_hashes::KernelHashes;
use crate::lanes::{self, Start};
use crate::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use crate::vmsa::Reset;

/// A firmware with its launches up to the page of kernel hashes.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) firmware: Firmware,
    stems: [(Vmm, Stem); Vmm::ALL.len()],
}

impl Ground {
    pub(super) fn new(firmware: Firmware) -> Self {
        let stem = |vmm| (vmm, Stem::new(&firmware.pages, &firmware.layout, vmm));
        let stems = Vmm::ALL.map(stem);
        Self { firmware, stems }
    }

    /// `None` where the kernel's hashes have no place.
    fn prefix(&self, vmm: Vmm, hashes: Option<&KernelHashes>) -> Option<Prefix> {
        let page = match hashes {
            Some(hashes) => Some(hashes.page_for(&self.firmware.layout).ok()?),
            None => None,
        };
        let (_, stem) = self.stems.iter().find(|(known, _)| *known == vmm)?;
        Some(stem.prefix(page.as_deref()))
    }
}

/// Launches that differ in the number of vCPUs only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    pub(super) vmm: Vmm,
    pub(super) cpu: CpuModel,
    pub(super) features: GuestFeatures,
    pub(super) reset: Reset,
    /// From one vCPU to so many.
    pub(super) most: VcpuCount,
}

/// One set of measured files with the launches of it that are compared.
#[derive(Debug)]
pub(super) struct Candidate<D> {
    /// What it is, for whoever finds it.
    pub(super) difference: D,
    pub(super) ground: Arc<Ground>,
    pub(super) hashes: Option<KernelHashes>,
    pub(super) series: Arc<[Series]>,
}

/// What was found: which candidate, and which launch of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub(super) candidate: usize,
    pub(super) shape: Shape,
}

/// Candidates that a worker takes together: their launches fill its lanes.
const AT_ONCE: usize = 8;

type Key = (u32, Vmm, u32, GuestFeatures, Reset);

fn key(eip: u32, series: &Series) -> Key {
    // Only QEMU's digests know the CPU.
    let signature = if series.vmm == Vmm::Qemu { series.cpu.signature() } else { 0 };
    (eip, series.vmm, signature, series.features, series.reset)
}

impl<D> Candidate<D> {
    /// Its launches with one vCPU, and what each further vCPU adds.
    fn starts(&self, vcpus: &BTreeMap<Key, Vcpus>, to: &mut Vec<Start>) {
        let eip = self.ground.firmware.layout.reset_eip;
        let mut made: Option<(Vmm, Option<Prefix>)> = None;
        for series in self.series.iter() {
            let prefix = match made {
                Some((vmm, prefix)) if vmm == series.vmm => prefix,
                _ => self.ground.prefix(series.vmm, self.hashes.as_ref()),
            };
            made = Some((series.vmm, prefix));
            let pages = vcpus.get(&key(eip, series));
            to.push(match (prefix, pages) {
                (Some(prefix), Some(pages)) => Start {
                    first: prefix.first(pages),
                    other: pages.other,
                    most: series.most.get(),
                },
                // No such launch: a kernel without a page for its hashes.
                _ => Start { first: [0; 48], other: [0; 48], most: 0 },
            });
        }
    }
}

/// The first launch of `candidates` that measures so.
fn hit<D>(
    candidates: &[Candidate<D>],
    measurement: &LaunchDigest,
    vcpus: &BTreeMap<Key, Vcpus>,
) -> Option<Hit> {
    let mut starts = Vec::new();
    for candidate in candidates {
        candidate.starts(vcpus, &mut starts);
    }
    let (mut index, count) = lanes::find(&starts, measurement)?;
    for (candidate, known) in candidates.iter().enumerate() {
        match known.series.get(index) {
            None => index -= known.series.len(),
            Some(Series { vmm, cpu, features, .. }) => {
                let (vmm, cpu_model, guest_features) = (*vmm, *cpu, *features);
                let vcpus = VcpuCount::new(count.into()).ok()?;
                let shape = Shape { vmm, cpu_model, guest_features, vcpus };
                return Some(Hit { candidate, shape });
            }
        }
    }
    None
}

/// How many launches the candidates are.
pub(super) fn count<D>(candidates: &[Candidate<D>]) -> u64 {
    let of = |series: &Series| u64::from(series.most.get());
    candidates.iter().map(|c| c.series.iter().map(of).sum::<u64>()).sum()
}

/// The first candidate, in their order, with a launch that measures so.
pub(super) fn search<D: Sync>(
    candidates: &[Candidate<D>],
    measurement: &LaunchDigest,
    jobs: NonZeroUsize,
) -> Option<Hit> {
    let mut vcpus = BTreeMap::new();
    for candidate in candidates {
        let eip = candidate.ground.firmware.layout.reset_eip;
        for series in candidate.series.iter() {
            let Series { vmm, cpu, features, reset, .. } = *series;
            vcpus
                .entry(key(eip, series))
                .or_insert_with(|| Vcpus::new(eip, cpu, features, vmm, reset));
        }
    }
    let (next, best) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let work = || {
        loop {
            let from = next.fetch_add(AT_ONCE, Ordering::Relaxed);
            // Taken in order: once one is found, none behind it can be the first.
            if from >= candidates.len() || from > best.load(Ordering::Relaxed) {
                return None;
            }
            let some = &candidates[from..candidates.len().min(from + AT_ONCE)];
            if let Some(Hit { candidate, shape }) = hit(some, measurement, &vcpus) {
                let candidate = from + candidate;
                best.fetch_min(candidate, Ordering::Relaxed);
                return Some(Hit { candidate, shape });
            }
        }
    };
    // Where there is one job nothing is spawned: not every target has threads.
    if jobs.get() == 1 || candidates.len() <= AT_ONCE {
        return work();
    }
    let hits = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..jobs.get().min(64)).map(|_| scope.spawn(work)).collect();
        let mut hits = vec![work()];
        let join = |worker: ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        hits.extend(workers.into_iter().map(join));
        hits
    });
    hits.into_iter().flatten().min_by_key(|hit| hit.candidate)
}

//! Which devices a VM gets: by family, mode, fabric and node of memory.

use std::collections::BTreeMap;

use crate::inventory::{Address, Device, GpuMode};
use crate::profile::{Family, Profiles, Shape};

use super::refusal::{GpuRefusal, Unfit};
use super::{GpuChoice, GpuHost, GpuRequest};

/// What was chosen.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    pub(super) family: &'a Family,
    pub(super) shape: &'a Shape,
    pub(super) gpus: Vec<&'a Device>,
    pub(super) switches: Vec<&'a Device>,
}

pub(super) fn choose<'a>(
    request: &GpuRequest,
    host: &'a GpuHost,
    profiles: &'a Profiles,
) -> Result<Chosen<'a>, GpuRefusal> {
    let (family, named) = match &request.choice {
        GpuChoice::Any { family, .. } => (which_family(family.as_deref(), host, profiles)?, None),
        GpuChoice::These(addresses) => {
            let (family, devices) = these(addresses, host, profiles)?;
            (family, Some(devices))
        }
    };
    let count = match &request.choice {
        GpuChoice::Any { count, .. } => usize::from(*count),
        GpuChoice::These(addresses) => addresses.len(),
    };
    let shape = family.shape_of(count).ok_or_else(|| GpuRefusal::Count {
        count,
        family: family.name.clone(),
        allowed: family.counts(),
    })?;
    one_mode(host)?;
    fabric(family, host)?;
    let all: Vec<&Device> = gpus(host).filter(|gpu| family.ids.contains(&gpu.device)).collect();
    let gpus = if let Some(devices) = named {
        all_fit(&devices, shape, host)?;
        if family.partitions {
            is_partition(&devices, &all)?;
        }
        devices
    } else {
        pick(count, family, shape, &all, host)?
    };
    let switches = switches(shape, &gpus, &all, host)?;
    Ok(Chosen { family, shape, gpus, switches })
}

fn gpus(host: &GpuHost) -> impl Iterator<Item = &Device> {
    host.inventory.devices.iter().filter(|device| device.is_gpu())
}

/// The family that is asked for, or the only one there is.
fn which_family<'a>(
    name: Option<&str>,
    host: &GpuHost,
    profiles: &'a Profiles,
) -> Result<&'a Family, GpuRefusal> {
    let known = || {
        let names: Vec<&str> = profiles.families().iter().map(|f| f.name.as_str()).collect();
        names.join(", ")
    };
    if let Some(name) = name {
        return profiles
            .named(name)
            .ok_or_else(|| GpuRefusal::Family { name: name.to_owned(), known: known() });
    }
    let mut found: BTreeMap<&str, &Family> = BTreeMap::new();
    found.extend(gpus(host).filter_map(|gpu| profiles.of(gpu)).map(|f| (f.name.as_str(), f)));
    if found.len() > 1 {
        let found = found.into_keys().collect::<Vec<_>>().join(", ");
        return Err(GpuRefusal::Families { found });
    }
    found.into_values().next().ok_or_else(|| GpuRefusal::NoGpus { known: known() })
}

/// The GPUs of these addresses and their family.
fn these<'a>(
    addresses: &[Address],
    host: &'a GpuHost,
    profiles: &'a Profiles,
) -> Result<(&'a Family, Vec<&'a Device>), GpuRefusal> {
    let mut found: Vec<(&Family, &Device)> = Vec::new();
    for address in addresses {
        let device = gpus(host).find(|gpu| gpu.address == *address);
        let known = device.and_then(|device| Some((profiles.of(device)?, device)));
        let (family, device) = known.ok_or(GpuRefusal::NotAGpu { address: *address })?;
        if found.iter().any(|(_, other)| other.address == *address) {
            return Err(GpuRefusal::Twice { address: *address });
        }
        if let Some((first_family, first)) = found.first()
            && first_family.name != family.name
        {
            let family = first_family.name.clone();
            return Err(GpuRefusal::Mixed { first: first.address, family, other: *address });
        }
        found.push((family, device));
    }
    let Some((family, _)) = found.first() else {
        let (count, family, allowed) = (0, "any".into(), "1 at least".into());
        return Err(GpuRefusal::Count { count, family, allowed });
    };
    Ok((family, found.iter().map(|(_, device)| *device).collect()))
}

/// NVIDIA supports a host whose GPUs are all in one mode.
fn one_mode(host: &GpuHost) -> Result<(), GpuRefusal> {
    let mut modes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for gpu in gpus(host) {
        if let Some(Ok(mode)) = &gpu.mode {
            modes.entry(mode.to_string()).or_default().push(gpu.address.to_string());
        }
    }
    if modes.len() <= 1 {
        return Ok(());
    }
    let text = modes.iter().map(|(mode, who)| format!("{mode} ({})", who.join(" ")));
    Err(GpuRefusal::Modes { found: text.collect::<Vec<_>>().join(", ") })
}

/// What the fabric of a board needs on the host.
fn fabric(family: &Family, host: &GpuHost) -> Result<(), GpuRefusal> {
    if family.host_services.is_empty() {
        return Ok(());
    }
    let runs = |name: &String| host.inventory.services.get(name).copied().unwrap_or(false);
    if let Some(name) = family.host_services.iter().find(|name| !runs(name)) {
        let (name, product) = (name.clone(), family.product.clone());
        return Err(GpuRefusal::Service { name, product });
    }
    let given = host
        .inventory
        .devices
        .iter()
        .find(|device| device.manages_fabric && device.driver.as_deref() == Some("vfio-pci"));
    given.map_or(Ok(()), |device| Err(GpuRefusal::Bridge { address: device.address }))
}

/// Why a device cannot be given to a VM of this shape.
fn unfit(device: &Device, shape: &Shape, host: &GpuHost) -> Option<Unfit> {
    if let Some(reason) = host.taken.get(&device.address) {
        return Some(Unfit::Taken(reason.clone()));
    }
    if let Some(driver) = device.driver.as_deref().filter(|driver| *driver != "vfio-pci") {
        return Some(Unfit::Driver(driver.to_owned()));
    }
    if device.iommu_group.is_none() {
        return Some(Unfit::NoGroup);
    }
    if !device.group_mates.is_empty() {
        let mates: Vec<String> = device.group_mates.iter().map(ToString::to_string).collect();
        return Some(Unfit::Group(mates.join(" ")));
    }
    if !device.can_be_reset() {
        let found = device.reset_methods.join(" ");
        return Some(if found.is_empty() { Unfit::NoReset } else { Unfit::NoFlr(found) });
    }
    if device.is_gpu() && device.bar(2) == 0 {
        return Some(Unfit::NoWindow);
    }
    match &device.mode {
        None => Some(Unfit::ModeUnknown("it has none".to_owned())),
        Some(Err(reason)) => Some(Unfit::ModeUnknown(reason.clone())),
        Some(Ok(found)) if *found != shape.mode => {
            Some(Unfit::Mode { found: *found, expected: shape.mode })
        }
        Some(Ok(_)) => None,
    }
}

fn all_fit(devices: &[&Device], shape: &Shape, host: &GpuHost) -> Result<(), GpuRefusal> {
    let reason = |device: &&Device| Some((device.address, unfit(device, shape, host)?));
    match devices.iter().find_map(reason) {
        None => Ok(()),
        Some((address, reason)) => Err(GpuRefusal::Unfit { address, reason }),
    }
}

/// Chooses `count` of `all`.
fn pick<'a>(
    count: usize,
    family: &Family,
    shape: &Shape,
    all: &[&'a Device],
    host: &GpuHost,
) -> Result<Vec<&'a Device>, GpuRefusal> {
    let is_usable = |gpu: &&&Device| unfit(gpu, shape, host).is_none();
    let usable: Vec<&Device> = all.iter().filter(is_usable).copied().collect();
    let reasons = || {
        let reason = |gpu: &&Device| Some((gpu.address, unfit(gpu, shape, host)?));
        all.iter().filter_map(reason).collect()
    };
    if usable.len() < count {
        return Err(GpuRefusal::TooFew {
            count,
            family: family.name.clone(),
            usable: usable.len(),
            reasons: reasons(),
        });
    }
    if family.partitions {
        return partition(count, all, &usable)
            .ok_or_else(|| GpuRefusal::NoPartition { count, reasons: reasons() });
    }
    Ok(near_each_other(count, usable))
}

/// Of one node of memory where one has enough, the fullest that still fits being left for who
/// needs more; else of as few nodes as possible.
fn near_each_other(count: usize, usable: Vec<&Device>) -> Vec<&Device> {
    let mut nodes: BTreeMap<Option<u32>, Vec<&Device>> = BTreeMap::new();
    for gpu in usable {
        nodes.entry(gpu.numa_node).or_default().push(gpu);
    }
    let enough = nodes.values().filter(|gpus| gpus.len() >= count).min_by_key(|gpus| gpus.len());
    let mut chosen: Vec<&Device> = if let Some(gpus) = enough {
        gpus.clone()
    } else {
        let mut nodes: Vec<Vec<&Device>> = nodes.into_values().collect();
        nodes.sort_by_key(|gpus| std::cmp::Reverse(gpus.len()));
        nodes.concat()
    };
    chosen.truncate(count);
    chosen.sort_by_key(|gpu| gpu.address);
    chosen
}

/// The blocks of `count` GPUs of a board, in the order of their addresses.
fn blocks<'a>(count: usize, all: &[&'a Device]) -> Vec<Vec<&'a Device>> {
    all.chunks(count).filter(|block| block.len() == count).map(<[_]>::to_vec).collect()
}

/// A free block, in the fullest surroundings: what is left stays in large blocks.
fn partition<'a>(count: usize, all: &[&'a Device], usable: &[&Device]) -> Option<Vec<&'a Device>> {
    let is_free = |gpu: &&Device| usable.iter().any(|other| other.address == gpu.address);
    let free_around = |index: usize| {
        let sizes = std::iter::successors(Some(2 * count), |size| Some(size * 2));
        let sizes = sizes.take_while(|size| *size <= all.len());
        let around = |size: usize| {
            let start = index * count / size * size;
            all[start..(start + size).min(all.len())].iter().filter(|gpu| is_free(gpu)).count()
        };
        sizes.map(around).collect::<Vec<_>>()
    };
    blocks(count, all)
        .into_iter()
        .enumerate()
        .filter(|(_, block)| block.iter().all(&is_free))
        .min_by_key(|(index, _)| (free_around(*index), *index))
        .map(|(_, block)| block)
}

fn is_partition(devices: &[&Device], all: &[&Device]) -> Result<(), GpuRefusal> {
    let names = |devices: &[&Device]| {
        let mut names: Vec<Address> = devices.iter().map(|device| device.address).collect();
        names.sort();
        names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let (found, blocks) = (names(devices), blocks(devices.len(), all));
    let expected: Vec<String> = blocks.iter().map(|block| names(block)).collect();
    if expected.contains(&found) {
        return Ok(());
    }
    Err(GpuRefusal::Partition { found, expected: expected.join("; ") })
}

/// The switches that go with the GPUs.
fn switches<'a>(
    shape: &Shape,
    chosen: &[&Device],
    all: &[&Device],
    host: &'a GpuHost,
) -> Result<Vec<&'a Device>, GpuRefusal> {
    if shape.switches == 0 {
        return Ok(Vec::new());
    }
    let found: Vec<&Device> =
        host.inventory.devices.iter().filter(|device| device.is_switch()).collect();
    let (gpus, switches) = (chosen.len(), usize::from(shape.switches));
    if all.len() != gpus || found.len() != switches {
        let (found_gpus, found_switches) = (all.len(), found.len());
        return Err(GpuRefusal::Board { gpus, switches, found_gpus, found_switches });
    }
    debug_assert_eq!(shape.mode, GpuMode::Ppcie, "a shape with switches is in this mode");
    all_fit(&found, shape, host)?;
    Ok(found)
}

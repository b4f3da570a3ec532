//! The GPU half of a verdict. Genuine: did devices that NVIDIA vouches for say this, now, to this
//! very VM? Acceptable: are they the devices that were promised, in a state that is wanted?

use crate::causes;
use crate::chain::UnixTime;
use crate::gpu::device::{Device, DeviceError, DeviceKey};
use crate::gpu::rim::{self, Comparison, RimId};
use crate::gpu::topology;
use crate::gpu::version::Version;
use crate::gpu_evidence::{DeviceEvidence, GpuEvidence, GpuSet, MAX_DEVICES};
use crate::hash::Nonce;
use crate::platform::Platform;
use crate::roots::Roots;

use super::expect::Expect;
use super::policy::GpuPolicy;
use super::verdict::{CheckName, Recorder};

const ABSENT: &str = "not judged: no evidence of GPUs";

/// Whom to believe of GPUs, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Believed<'a> {
    pub(super) roots: &'a Roots,
    pub(super) platform: Platform,
    pub(super) now: UnixTime,
    pub(super) opinion: Option<&'a SecondOpinion>,
}

/// What another verifier, on the machine of whoever judges, says of the same GPU evidence. It is
/// asked beside this one and never instead: it can refuse, and cannot make anything pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondOpinion {
    /// Who says it.
    pub by: String,
    /// Whether it accepts the evidence; one that could not be asked does not.
    pub accepts: bool,
    /// What it says, in a few words.
    pub says: String,
}

/// Why GPU evidence is not genuine.
#[derive(Debug, thiserror::Error)]
pub(super) enum GpuError {
    #[error("not the expected JSON")]
    Json(#[source] serde_json::Error),
    #[error("schema {found}, expected {}", GpuEvidence::SCHEMA)]
    Schema { found: u32 },
    #[error("{0} devices, expected 1 to {MAX_DEVICES}")]
    Devices(usize),
    #[error("device {index}")]
    Device { index: usize, source: DeviceError },
}

pub(super) fn parse(text: &str) -> Result<GpuEvidence, GpuError> {
    let evidence: GpuEvidence = serde_json::from_str(text).map_err(GpuError::Json)?;
    if evidence.schema != GpuEvidence::SCHEMA {
        return Err(GpuError::Schema { found: evidence.schema });
    }
    match evidence.devices.len() {
        1..=MAX_DEVICES => Ok(evidence),
        found => Err(GpuError::Devices(found)),
    }
}

/// The reference integrity manifests that the devices in `evidence` are held to and that `roots`
/// lack. Only devices that NVIDIA vouches for count, so that nobody can make a verifier ask for
/// whatever he likes; of evidence that is refused there are none.
#[must_use]
pub fn missing_gpu_manifests(
    evidence: &str,
    roots: &Roots,
    platform: Platform,
    now: UnixTime,
) -> Vec<RimId> {
    let Ok(evidence) = parse(evidence) else { return Vec::new() };
    let trusted = roots.gpu().of_devices(platform);
    let verify = |device: DeviceEvidence| {
        DeviceKey::verify(&device, &trusted, now)?.verify_report(&device.report.0)
    };
    let devices: Result<Vec<Device>, _> = evidence.devices.into_iter().map(verify).collect();
    devices.map_or_else(|_| Vec::new(), |devices| rim::missing(&devices, roots.gpu_manifests()))
}

/// Judges whether the devices are genuine and were asked with `nonce`; the verified devices.
pub(super) fn genuine(
    believed: Believed<'_>,
    evidence: Option<&str>,
    nonce: &Nonce,
    recorder: &mut Recorder<'_>,
) -> Vec<Device> {
    let names = [CheckName::GpuCertificates, CheckName::GpuReports, CheckName::GpuNonce];
    let Some(text) = evidence else {
        for name in names {
            recorder.skip(name, &name.text(), ABSENT);
        }
        return Vec::new();
    };
    genuine_of(believed, text, nonce, recorder).unwrap_or_default()
}

fn genuine_of(
    believed: Believed<'_>,
    text: &str,
    nonce: &Nonce,
    recorder: &mut Recorder<'_>,
) -> Option<Vec<Device>> {
    let roots = believed.roots.gpu().of_devices(believed.platform);
    let keys = parse(text).and_then(|evidence| {
        let devices = evidence.devices.into_iter().enumerate();
        devices
            .map(|(index, device)| match DeviceKey::verify(&device, &roots, believed.now) {
                Ok(key) => Ok((key, device.report.0)),
                Err(source) => Err(GpuError::Device { index, source }),
            })
            .collect::<Result<Vec<_>, _>>()
    });
    let expected = "each device's chain to NVIDIA's root";
    let keys = recorder.step(CheckName::GpuCertificates, expected, keys, |keys| {
        let names: Vec<&str> = keys.iter().map(|(key, _)| key.identity()).collect();
        names.join(", ")
    })?;
    let devices = keys.into_iter().enumerate().map(|(index, (key, report))| {
        key.verify_report(&report).map_err(|source| GpuError::Device { index, source })
    });
    let devices: Result<Vec<_>, _> = devices.collect();
    let expected = "each report signed by its device";
    let devices = recorder.step(CheckName::GpuReports, expected, devices, |devices| {
        format!("{} reports, valid over the bytes received", devices.len())
    })?;
    let other = devices.iter().find(|device| device.nonce() != nonce);
    let found = other.map_or(nonce, Device::nonce);
    recorder.equal(CheckName::GpuNonce, nonce, found);
    Some(devices)
}

/// Judges whether the devices are the promised ones, in a state that is wanted.
pub(super) fn acceptable(
    believed: Believed<'_>,
    policy: &GpuPolicy,
    promised: Option<&GpuSet>,
    devices: &[Device],
    recorder: &mut Recorder<'_>,
) {
    judge_set(policy, promised, devices, recorder);
    state(believed, policy, devices, recorder);
}

/// Judges the state that devices are in, whoever promised them.
pub(super) fn state(
    believed: Believed<'_>,
    policy: &GpuPolicy,
    devices: &[Device],
    recorder: &mut Recorder<'_>,
) {
    if devices.is_empty() {
        for name in [CheckName::GpuFabric, CheckName::GpuVersions, CheckName::GpuMeasurements] {
            recorder.skip(name, &name.text(), ABSENT);
        }
    } else {
        match topology::check(devices) {
            Ok(found) => recorder.record(CheckName::GpuFabric, true, &FABRIC, &found),
            Err(found) => recorder.record(CheckName::GpuFabric, false, &FABRIC, &found),
        };
        judge_versions(policy, devices, recorder);
        judge_measurements(believed, policy, devices, recorder);
    }
    let why = "not judged: NVIDIA's OCSP service is not asked";
    recorder.skip(CheckName::GpuRevocation, &"no certificate revoked", why);
    let name = CheckName::GpuSecondOpinion;
    match believed.opinion {
        Some(SecondOpinion { by, accepts, says }) => {
            recorder.record(name, *accepts, &format!("accepted by {by}"), says);
        }
        None => recorder.skip(name, &"any", "not judged: no other verifier was asked"),
    }
}

const FABRIC: &str =
    "GPUs and switches that are linked to each other alone, several Blackwell GPUs in mode MPT";

fn judge_set(
    policy: &GpuPolicy,
    promised: Option<&GpuSet>,
    devices: &[Device],
    recorder: &mut Recorder<'_>,
) {
    let name = CheckName::GpuSet;
    let found = match found_set(devices) {
        Ok(found) => found,
        Err(fault) => {
            recorder.record(name, false, &ALIKE, &fault);
            return;
        }
    };
    let text = |set: Option<&GpuSet>| set.map_or("no GPU".to_owned(), GpuSet::to_string);
    let matches = match (promised, &found) {
        (None, None) => true,
        (Some(promised), Some(found)) => promised.is_met_by(found),
        _ => false,
    };
    let wanted = found
        .as_ref()
        .map_or(policy.set == Expect::Any, |found| is_wanted(&policy.set, found).unwrap_or(true));
    let promise = text(promised);
    let expected = match &policy.set {
        Expect::Any => format!("promised: {promise}"),
        set => format!("promised: {promise}; by the policy: {set}"),
    };
    recorder.record(name, matches && wanted, &expected, &text(found.as_ref()));
}

/// Whether the policy wants what was found; `None` where it wants anything.
fn is_wanted(wanted: &Expect<GpuSet>, found: &GpuSet) -> Option<bool> {
    match wanted {
        Expect::Exactly(set) => Some(set.is_met_by(found)),
        Expect::OneOf(sets) => Some(sets.iter().any(|set| set.is_met_by(found))),
        Expect::Any => None,
    }
}

/// Judges devices that nobody promised by the policy alone.
pub(super) fn unpromised(policy: &GpuPolicy, devices: &[Device], recorder: &mut Recorder<'_>) {
    let name = CheckName::GpuSet;
    match found_set(devices) {
        Ok(Some(found)) => match is_wanted(&policy.set, &found) {
            Some(passed) => _ = recorder.record(name, passed, &policy.set, &found),
            None => recorder.skip(name, &"any", &format!("not judged: nothing promised: {found}")),
        },
        Ok(None) => _ = recorder.record(name, false, &ALIKE, &"none"),
        Err(fault) => _ = recorder.record(name, false, &ALIKE, &fault),
    }
}

const ALIKE: &str = "one kind of GPU, each device once";

/// The set that devices make up, if they are alike and each is there once.
fn found_set(devices: &[Device]) -> Result<Option<GpuSet>, String> {
    let mut identities: Vec<&str> = devices.iter().map(Device::identity).collect();
    identities.sort_unstable();
    if let Some([twice, _]) = identities.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("{twice} is there twice"));
    }
    let gpus: Vec<_> = devices.iter().filter_map(|device| Some((device, device.gpu()?))).collect();
    let Some((first, gpu)) = gpus.first() else {
        return if devices.is_empty() {
            Ok(None)
        } else {
            Err("switches without a GPU".to_owned())
        };
    };
    if let Some((other, _)) = gpus
        .iter()
        .find(|(device, other)| device.chip() != first.chip() || other.board != gpu.board)
    {
        return Err(format!("{} is of another kind than {}", other.identity(), first.identity()));
    }
    let count = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Ok(Some(GpuSet {
        chip: first.chip().to_owned(),
        count: count(gpus.len()),
        board: Some(gpu.board.clone()),
        nvswitches: count(devices.len() - gpus.len()),
    }))
}

fn judge_versions(policy: &GpuPolicy, devices: &[Device], recorder: &mut Recorder<'_>) {
    let name = CheckName::GpuVersions;
    let mut found = Vec::new();
    for device in devices {
        let (id, architecture, vbios) = (device.identity(), device.architecture(), device.vbios());
        let refuse = |recorder: &mut Recorder<'_>, expected: String, found: &str| {
            recorder.record(name, false, &expected, &format!("{id}: {found}"));
        };
        if let Some(gpu) = device.gpu() {
            if policy.architecture.accepts(&architecture) == Some(false) {
                let expected = format!("architecture {}", policy.architecture);
                return refuse(recorder, expected, &architecture.to_string());
            }
            let Some(floor) = policy.driver_floor.get(&architecture) else {
                let expected = "an architecture that the policy has a floor for".to_owned();
                return refuse(recorder, expected, &architecture.to_string());
            };
            let driver = gpu.driver.parse::<Version>().ok();
            if driver.is_none_or(|driver| driver < *floor) {
                return refuse(recorder, format!("driver at least {floor}"), &gpu.driver);
            }
        }
        let versions = match device.gpu() {
            Some(gpu) => format!("{architecture} driver {} VBIOS {vbios}", gpu.driver),
            None => format!("{architecture} VBIOS {vbios}"),
        };
        if policy.vbios.accepts(&vbios.to_owned()) == Some(false) {
            return refuse(recorder, format!("VBIOS {}", policy.vbios), vbios);
        }
        if !found.contains(&versions) {
            found.push(versions);
        }
    }
    let expected = format!("drivers that are new enough, VBIOS {}", policy.vbios);
    recorder.record(name, true, &expected, &found.join(", "));
}

fn judge_measurements(
    believed: Believed<'_>,
    policy: &GpuPolicy,
    devices: &[Device],
    recorder: &mut Recorder<'_>,
) {
    let name = CheckName::GpuMeasurements;
    let (equal, found) = compare(believed, devices);
    if let Some(passed) = policy.measurements_match.accepts(&equal) {
        recorder.record(name, passed, &"equal to signed manifests", &found);
    } else {
        let why = format!("not judged: the policy accepts any: {found}");
        recorder.skip(name, &"any", &why);
    }
}

/// Whether every device's measurements equal its manifests, in words too.
fn compare(believed: Believed<'_>, devices: &[Device]) -> (bool, String) {
    let roots = believed.roots.gpu().of_manifests(believed.platform);
    let store = believed.roots.gpu_manifests();
    let mut all = 0;
    for device in devices {
        let id = device.identity();
        match rim::compare(device, store, &roots, believed.now) {
            Ok(Comparison::Equal(count)) => all += count,
            Ok(Comparison::Different(indices)) => {
                let indices: Vec<String> = indices.iter().map(usize::to_string).collect();
                return (false, format!("{id}: other measurements at {}", indices.join(" ")));
            }
            Ok(Comparison::NoManifest(which)) => {
                let why = "unverified: no reference integrity manifest for";
                return (false, format!("{why} {which} ({id})"));
            }
            Err(error) => {
                return (false, format!("unverified: {id}: {}", causes::in_one_line(&error)));
            }
        }
    }
    (true, format!("{all} measurements of {} devices equal signed manifests", devices.len()))
}

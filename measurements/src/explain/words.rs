//! What was found, in words.

use std::collections::BTreeSet;

use crate::launch::{Shape, Vmm, ranges};
use crate::manifest::{Manifest, ReferenceValue};

use super::plan::{Fault, Part, What};
use super::{Excluded, Found, Kind, Known};

/// What differs between what a release lists and what was launched, a few words each.
pub(super) fn differences(
    manifest: &Manifest,
    what: &What,
    shape: &Shape,
    releases: &[Known],
) -> Vec<String> {
    let mut all: Vec<String> = match what {
        What::Nothing => None,
        What::NoHashes => Some(
            "without kernel hashes: no kernel, initrd or command line is measured, so it is the \
             same for every release with this firmware"
                .into(),
        ),
        What::Cmdline(change) => Some(change.to_string()),
        What::Part { part, other } => {
            let other = &releases[*other];
            Some(format!("with {} of {}", part_text(*part, &other.manifest), other.label))
        }
        What::Former => Some(match shape.vmm {
            Vmm::Ec2 => "with RDX zero, as EC2 had it before 2023".into(),
            _ => "with MXCSR and the x87 control word zero: KVM before Linux 6.11 or QEMU before \
                  9.1"
            .into(),
        }),
        What::Fault(fault) => Some(fault_text(*fault).into()),
    }
    .into_iter()
    .collect();
    all.extend(shape_differences(manifest, shape));
    all
}

fn part_text(part: Part, of: &Manifest) -> String {
    let hashes = of.law.hashes();
    let short = |hash: &dyn std::fmt::Display| {
        let hash = hash.to_string();
        hash.get(..12).map(|start| format!("{start}…")).unwrap_or(hash)
    };
    match part {
        Part::Firmware => format!("the firmware ({})", short(of.law.firmware_sha256())),
        Part::Kernel => format!("the kernel ({})", short(&hashes.kernel)),
        Part::Initrd => format!("the initrd ({})", short(&hashes.initrd)),
        Part::Cmdline => "the command line".into(),
    }
}

const fn fault_text(fault: Fault) -> &'static str {
    match fault {
        Fault::NoNul => "calculated with the command line hashed without its NUL",
        Fault::NoInitrd => "without an initrd",
        Fault::NoSvsmCaa => "calculated without the firmware's section SVSM_CAA",
        Fault::HashesLast => "calculated with the page of kernel hashes after all other sections",
        Fault::HashesFirst => "calculated with the page of kernel hashes before all other sections",
    }
}

/// What of a shape a release does not list; that it does not list the combination, where each
/// value alone is listed.
fn shape_differences(manifest: &Manifest, shape: &Shape) -> Vec<String> {
    let rows = &manifest.reference_values;
    if rows.iter().any(|row| same_launch(&row.shape(), shape)) {
        return Vec::new();
    }
    let listed = |text: &dyn Fn(&ReferenceValue) -> String| {
        rows.iter().map(text).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
    };
    let mut all = Vec::new();
    if rows.iter().all(|row| row.vmm != shape.vmm) {
        all.push(format!("VMM {}, listed {}", shape.vmm, listed(&|row| row.vmm.to_string())));
    }
    let signature = shape.cpu_model.signature();
    let cpu_is_known = shape.vmm != Vmm::Qemu;
    if !cpu_is_known && rows.iter().all(|row| row.cpu_model.signature() != signature) {
        let (family, model, stepping) = shape.cpu_model.family();
        let found = format!("{} ({family}/{model}/{stepping})", shape.cpu_model);
        let listed = listed(&|row| row.cpu_model.to_string());
        all.push(format!("CPU {found}, listed {listed}"));
    }
    if rows.iter().all(|row| row.guest_features != shape.guest_features) {
        let names = shape.guest_features.names().join("+");
        let listed = listed(&|row| row.guest_features.to_string());
        all.push(format!("guest features {} ({names}), listed {listed}", shape.guest_features));
    }
    if rows.iter().all(|row| row.vcpus != shape.vcpus) {
        let counts: BTreeSet<u16> = rows.iter().map(|row| row.vcpus.get()).collect();
        all.push(format!("{} vCPUs, listed {}", shape.vcpus, ranges(&counts)));
    }
    if all.is_empty() {
        all.push(format!("{shape}, a combination that is not listed"));
    }
    all
}

fn same_launch(a: &Shape, b: &Shape) -> bool {
    let key = |s: &Shape| {
        let cpu = if s.vmm == Vmm::Qemu { s.cpu_model.signature() } else { 0 };
        (s.vmm, cpu, s.guest_features, s.vcpus)
    };
    key(a) == key(b)
}

/// The answer.
pub(super) fn sentence(found: Option<&Found>, excluded: &[Excluded], releases: usize) -> String {
    match found {
        Some(Found { kind: Kind::Listed, release, shape, .. }) => {
            format!("It is {release} as listed: {shape}.")
        }
        Some(Found { release, shape, differences, .. }) => {
            format!("It is {release}, but {}: {shape}.", differences.join("; "))
        }
        None => {
            let launches: u64 = excluded.iter().map(|excluded| excluded.launches).sum();
            let releases = match releases {
                1 => "the release".to_owned(),
                n => format!("the {n} releases"),
            };
            format!(
                "It is none of {launches} launches of {releases}: something else was measured, \
                 or more than one thing differs."
            )
        }
    }
}

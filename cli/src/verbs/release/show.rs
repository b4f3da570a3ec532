//! `release show`: a release, for a person.

use std::collections::{BTreeMap, BTreeSet};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Artifact, Inputs, Manifest, Release};
use casemate_validator::release;
use serde::Serialize;

use crate::args::{Format, ReleaseShowArgs};
use crate::outcome::Outcome;
use crate::printer;

/// Shows a release.
pub(crate) fn show(args: &ReleaseShowArgs) -> anyhow::Result<Outcome> {
    let manifest = release::read_manifest(&args.release)?;
    let shown = Shown::new(&manifest)?;
    match args.output.format {
        Format::Json => printer::json(&shown)?,
        Format::Table => printer::line(&shown.text()),
    }
    Ok(Outcome::Done)
}

/// Launches that differ in their vCPUs alone.
#[derive(Debug, Serialize)]
struct Shapes {
    cpu_model: String,
    guest_features: String,
    vmm: String,
    vcpus: String,
}

/// A release, as this program prints it.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    release: &'a Release,
    manifest_sha256: Sha256Hash,
    artifacts: &'a BTreeMap<String, Artifact>,
    inputs: &'a Inputs,
    launches: usize,
    shapes: Vec<Shapes>,
}

impl<'a> Shown<'a> {
    fn new(manifest: &'a Manifest) -> anyhow::Result<Self> {
        Ok(Self {
            release: &manifest.release,
            // It is canonical, so written again it is the same.
            manifest_sha256: Sha256Hash::of(&manifest.to_bytes()?),
            artifacts: &manifest.artifacts,
            inputs: &manifest.inputs,
            launches: manifest.reference_values.len(),
            shapes: shapes(manifest),
        })
    }

    fn text(&self) -> String {
        let Release { name, version, platform } = self.release;
        let mut lines = vec![
            format!("release   {name} {version}, for {}", platform.name()),
            format!("manifest  {}", self.manifest_sha256),
            format!("recipe    {}", self.inputs.recipe_sha256),
            format!("lock      {}", self.inputs.lock_sha256),
            String::new(),
        ];
        let files = self.artifacts.iter().map(|(name, file)| {
            vec![name.clone(), printer::size(file.size), file.sha256.to_string()]
        });
        lines.push(printer::table(&["ARTIFACT", "SIZE>", "SHA-256"], files));
        lines.push(String::new());
        let shapes = self.shapes.iter().map(|shape| {
            let Shapes { cpu_model, guest_features, vmm, vcpus } = shape;
            vec![cpu_model.clone(), vcpus.clone(), guest_features.clone(), vmm.clone()]
        });
        lines.push(printer::table(&["CPU MODEL", "VCPUS", "FEATURES", "VMM"], shapes));
        lines.join("\n")
    }
}

/// The table of launches, a line per combination.
fn shapes(manifest: &Manifest) -> Vec<Shapes> {
    let mut chains: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
    for row in &manifest.reference_values {
        let chain = (row.vmm, row.cpu_model, row.guest_features);
        chains.entry(chain).or_default().insert(row.vcpus.get());
    }
    let chains = chains.into_iter().map(|((vmm, model, features), vcpus)| Shapes {
        cpu_model: model.to_string(),
        guest_features: features.to_string(),
        vmm: vmm.to_string(),
        vcpus: ranges(&vcpus),
    });
    chains.collect()
}

/// `1-4, 8` for 1, 2, 3, 4 and 8.
fn ranges(numbers: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for number in numbers.iter().copied() {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_numbers_are_shortened() {
        for (numbers, expected) in [
            (vec![], ""),
            (vec![3], "3"),
            (vec![1, 2, 3, 4, 8], "1-4, 8"),
            (vec![1, 3, u16::MAX - 1, u16::MAX], "1, 3, 65534-65535"),
        ] {
            assert_eq!(ranges(&numbers.into_iter().collect()), expected);
        }
    }
}

//! `release show`: a release, for a person.

use std::collections::{BTreeMap, BTreeSet};

use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::manifest::{Artifact, Inputs, Manifest, Release as Named};
use casemate_registry::release::{Depth, Release};
use serde::Serialize;

use super::channel::Following;
use super::packages::{self, Changed};
use super::store::locate;
use super::verify;

use crate::args::{Format, ReleaseShowArgs};
use crate::outcome::Outcome;
use crate::printer;

/// Shows a release.
pub(crate) fn show(args: &ReleaseShowArgs) -> anyhow::Result<Outcome> {
    let following = Following::current(args.signers.as_deref(), &args.current);
    let Some(dir) = locate(&args.release, &args.fetch, following)? else {
        return Ok(Outcome::Refused(verify::NOT_TRUSTED));
    };
    let release = Release::open(&dir)?;
    let mut shown = Shown::new(&release);
    if let Some(since) = &args.since {
        let old = Release::open(since)?;
        let changes = packages::changes(&packages::read(&old)?, &packages::read(&release)?);
        let named = &old.manifest().release;
        shown.since = Some((format!("{} {}", named.name, named.version), changes));
    }
    if let Some(signers) = &args.signers {
        let verified = release.verify(&verify::policy(signers)?, Depth::Manifest)?;
        let named = &release.manifest().release;
        let name = format!("{} {}", named.name, named.version);
        shown.signed = Some(verify::sentence(&name, &verified.manifest));
    }
    match args.output.format {
        Format::Json => printer::json(&shown)?,
        Format::Table => printer::line(&shown.text())?,
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
    release: &'a Named,
    manifest_sha256: Sha256Hash,
    artifacts: &'a BTreeMap<String, Artifact>,
    inputs: &'a Inputs,
    launches: usize,
    shapes: Vec<Shapes>,
    /// Who signed; `null` where nobody was named who could have.
    signed: Option<String>,
    /// The release compared with, and what is not the same.
    since: Option<(String, Vec<Changed>)>,
}

impl<'a> Shown<'a> {
    fn new(release: &'a Release) -> Self {
        let manifest = release.manifest();
        Self {
            release: &manifest.release,
            manifest_sha256: release.manifest_sha256(),
            artifacts: &manifest.artifacts,
            inputs: &manifest.inputs,
            launches: manifest.reference_values.len(),
            shapes: shapes(manifest),
            signed: None,
            since: None,
        }
    }

    fn text(&self) -> String {
        let Named { name, version, platform } = self.release;
        let mut lines = vec![
            format!("release   {name} {version}, for {}", platform.name()),
            format!("manifest  {}", self.manifest_sha256),
            format!("recipe    {}", self.inputs.recipe_sha256),
            format!("lock      {}", self.inputs.lock_sha256),
            format!(
                "signed    {}",
                self.signed.as_deref().unwrap_or("not judged: no --signers given")
            ),
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
        if let Some((old, changes)) = &self.since {
            lines.push(format!("\nsince {old}: {} packages differ", changes.len()));
            let absent = || "-".to_owned();
            let rows = changes.iter().map(|Changed { kind, name, before, now }| {
                let before = before.clone().unwrap_or_else(absent);
                vec![kind.clone(), name.clone(), before, now.clone().unwrap_or_else(absent)]
            });
            lines.push(printer::table(&["", "PACKAGE", "BEFORE", "NOW"], rows));
        }
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

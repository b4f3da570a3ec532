//! `measure verify`: holds a manifest to its law, and both to the artifacts that are there.

use std::path::Path;

use anyhow::Context as _;
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::Shape;
use casemate_measurements::law::Law;
use casemate_measurements::manifest::{self, Manifest, ManifestError, ReferenceValue, artifact};
use casemate_measurements::{canonical, causes};
use casemate_validator::release;
use serde::Serialize;

use super::inputs;
use crate::args::{Format, VerifyManifestArgs};
use crate::outcome::Outcome;
use crate::printer::{self, Tone};

/// Exit code of a manifest that contradicts its law or its artifacts.
const DISAGREES: u8 = 3;

/// Two places that should agree and do not.
#[derive(Debug, Serialize)]
struct Disagreement {
    /// The place in the manifest.
    what: String,
    expected: String,
    found: String,
}

/// What was checked, as this program prints it.
#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    release: String,
    agrees: bool,
    /// Rows of the table.
    rows: usize,
    /// Artifacts that were read.
    present: Vec<String>,
    /// Artifacts that were not there, and so are not verified.
    absent: Vec<String>,
    /// Whether the law was recomputed from firmware, kernel, initrd and command line, and the
    /// table from that law.
    from_artifacts: bool,
    disagreements: Vec<Disagreement>,
}

/// Verifies a manifest.
pub(crate) fn verify(args: &VerifyManifestArgs) -> anyhow::Result<Outcome> {
    let (path, bytes) = release::manifest_bytes(&args.release)?;
    if bytes.len() > manifest::MAX_LEN {
        return Err(ManifestError::TooLong { len: bytes.len() }.into());
    }
    // Not `Manifest::from_bytes`: it stops at the first contradiction, and here all are told.
    let manifest: Manifest = canonical::from_slice(&bytes)
        .with_context(|| format!("{} is no manifest", path.display()))?;
    let report = report(&manifest, path.parent().unwrap_or(Path::new(".")))?;
    match args.output.format {
        Format::Json => printer::json(&report)?,
        Format::Table => printer::line(&report.text())?,
    }
    Ok(if report.agrees { Outcome::Done } else { Outcome::Refused(DISAGREES) })
}

fn report(manifest: &Manifest, folder: &Path) -> anyhow::Result<Report> {
    let mut found = Vec::new();
    match manifest.check() {
        // Every such row is told below.
        Ok(()) | Err(ManifestError::Row { .. }) => {}
        Err(error) => found.push(Disagreement {
            what: "manifest".into(),
            expected: "places that agree".into(),
            found: causes::in_one_line(&error),
        }),
    }
    rows(&manifest.reference_values, &manifest.law, "by the law", &mut found);
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for name in manifest.artifacts.keys().filter(|name| artifact::ALL.contains(&name.as_str())) {
        let list = if folder.join(name).exists() { &mut present } else { &mut absent };
        list.push(name.clone());
    }
    let recomputed = artifacts(manifest, folder, &present, &mut found)?;
    if let Some(law) = &recomputed {
        rows(&manifest.reference_values, law, "by the artifacts", &mut found);
    }
    Ok(Report {
        schema: 1,
        release: format!("{} {}", manifest.release.name, manifest.release.version),
        agrees: found.is_empty(),
        rows: manifest.reference_values.len(),
        present,
        absent,
        from_artifacts: recomputed.is_some(),
        disagreements: found,
    })
}

/// Holds every row to a law.
fn rows(table: &[ReferenceValue], law: &Law, by: &str, found: &mut Vec<Disagreement>) {
    let shapes: Vec<Shape> = table.iter().map(ReferenceValue::shape).collect();
    let digests = law.matrix(&shapes);
    for (index, (row, expected)) in table.iter().zip(digests).enumerate() {
        let what = || format!("reference_values[{index}].measurement, {}, {by}", row.shape());
        compare(found, what, &expected, &row.measurement);
    }
}

/// Holds hashes, lengths and the law to the files; gives the law that the files make, where all
/// of it are there.
fn artifacts(
    manifest: &Manifest,
    folder: &Path,
    present: &[String],
    found: &mut Vec<Disagreement>,
) -> anyhow::Result<Option<Law>> {
    let mut hashes = std::collections::BTreeMap::new();
    for name in present {
        let (sha256, size) = inputs::hash_file(&folder.join(name))?;
        let claimed = &manifest.artifacts[name];
        compare(found, || format!("artifacts[{name:?}].sha256"), &sha256, &claimed.sha256);
        compare(found, || format!("artifacts[{name:?}].size"), &size, &claimed.size);
        hashes.insert(name.as_str(), sha256);
    }
    let law = &manifest.law;
    let here = |name: &str| hashes.get(name).copied();
    let firmware = match here(artifact::FIRMWARE) {
        Some(_) => Some(inputs::read_firmware(&folder.join(artifact::FIRMWARE))?),
        None => None,
    };
    if let Some(firmware) = &firmware {
        compare_firmware(law.firmware(), firmware, found);
    }
    let cmdline = match here(artifact::CMDLINE) {
        Some(_) => {
            let path = folder.join(artifact::CMDLINE);
            let bytes = std::fs::read(&path);
            Some(bytes.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => None,
    };
    let of = |cmdline: &[u8]| {
        KernelHashes::from_digests(Sha256Hash::of(b""), Sha256Hash::of(b""), cmdline).cmdline
    };
    let claimed = law.hashes();
    for (name, claimed, actual) in [
        ("kernel", claimed.kernel, here(artifact::KERNEL)),
        ("initrd", claimed.initrd, here(artifact::INITRD)),
        ("cmdline", claimed.cmdline, cmdline.as_deref().map(of)),
    ] {
        if let Some(actual) = actual {
            compare(found, || format!("law.kernel_hashes.{name}"), &actual, &claimed);
        }
    }
    let parts = (firmware, here(artifact::KERNEL), here(artifact::INITRD), cmdline);
    let (Some(firmware), Some(kernel), Some(initrd), Some(cmdline)) = parts else {
        return Ok(None);
    };
    let hashes = KernelHashes::from_digests(kernel, initrd, &cmdline);
    Ok(Some(Law::new(&firmware, &hashes)?))
}

fn compare_firmware(claimed: &Firmware, actual: &Firmware, found: &mut Vec<Disagreement>) {
    let sections =
        |firmware: &Firmware| serde_json::to_string(&firmware.layout.sections).unwrap_or_default();
    let address = |address: u32| format!("{address:#x}");
    for (name, expected, claimed) in [
        ("firmware_sha256", actual.sha256.to_string(), claimed.sha256.to_string()),
        ("firmware_pages", actual.pages.to_string(), claimed.pages.to_string()),
        ("sections", sections(actual), sections(claimed)),
        ("reset_eip", address(actual.layout.reset_eip), address(claimed.layout.reset_eip)),
        (
            "hashes_table_gpa",
            address(actual.layout.hashes_table_gpa),
            address(claimed.layout.hashes_table_gpa),
        ),
    ] {
        compare(found, || format!("law.{name}"), &expected, &claimed);
    }
}

fn compare<T: PartialEq + ToString>(
    disagreements: &mut Vec<Disagreement>,
    what: impl FnOnce() -> String,
    expected: &T,
    found: &T,
) {
    if expected != found {
        let (expected, found) = (expected.to_string(), found.to_string());
        disagreements.push(Disagreement { what: what(), expected, found });
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines = vec![format!("{}: {} launch digests", self.release, self.rows)];
        for Disagreement { what, expected, found } in &self.disagreements {
            lines.push(printer::toned(Tone::Bad, &format!("{what} differs")));
            lines.push(format!("  expected {expected}\n  found    {found}"));
        }
        let list = |names: &[String]| {
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        lines.push(format!("artifacts read      {}", list(&self.present)));
        lines.push(format!("artifacts absent    {}", list(&self.absent)));
        let tone = if self.agrees { Tone::Good } else { Tone::Bad };
        lines.push(printer::toned(tone, &self.summary()));
        lines.join("\n")
    }

    fn summary(&self) -> String {
        match (self.agrees, self.from_artifacts) {
            (true, true) => "agree: the artifacts make the law, and the law makes the table".into(),
            (true, false) => "agree: the law makes the table; not all of the measured artifacts \
                              are there to make the law from"
                .into(),
            (false, _) => format!("{} disagreements", self.disagreements.len()),
        }
    }
}

//! `measure digest`, `measure matrix`, `measure law`, `measure verify`.

mod inputs;
mod verify;

use std::io::IsTerminal as _;

use anyhow::bail;
use casemate_measurements::export::{self, Subject};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::Shape;
use casemate_measurements::law::{self, OpenLaw};
use casemate_measurements::manifest::{self, ReferenceValue};
use casemate_validator::release;
use serde::Serialize;

use crate::args::{DigestArgs, LawArgs, MatrixArgs, MeasureFormat};
use crate::outcome::Outcome;
use crate::printer;

use inputs::Measured;
pub(crate) use verify::verify;

/// Digests, as this program prints them.
#[derive(Debug, Serialize)]
struct Digests<'a> {
    schema: u32,
    /// Name and version of the release.
    #[serde(skip_serializing_if = "Option::is_none")]
    release: Option<String>,
    firmware_sha256: String,
    /// `null` where the firmware alone is measured.
    kernel_hashes: Option<KernelHashes>,
    reference_values: &'a [ReferenceValue],
}

/// Prints the digest of one shape.
pub(crate) fn digest(args: &DigestArgs) -> anyhow::Result<Outcome> {
    let measured = Measured::read(&args.launch)?;
    let shape = Shape {
        vmm: args.vmm,
        cpu_model: args.cpu,
        guest_features: args.guest_features,
        vcpus: args.vcpus,
    };
    let rows = rows(&measured, &[shape])?;
    if args.format == MeasureFormat::Table {
        for row in &rows {
            printer::line(&row.measurement.to_string())?;
        }
        return Ok(Outcome::Done);
    }
    print(&measured, &rows, args.format)
}

/// Prints the digests of many shapes.
pub(crate) fn matrix(args: &MatrixArgs) -> anyhow::Result<Outcome> {
    let measured = Measured::read(&args.launch)?;
    let Some(counts) = &args.vcpus else {
        let Some(manifest) = &measured.manifest else {
            bail!("which shapes? name --vcpus and --cpu, or a release for those that it lists");
        };
        let shapes: Vec<Shape> =
            manifest.reference_values.iter().map(ReferenceValue::shape).collect();
        return print(&measured, &rows(&measured, &shapes)?, args.format);
    };
    let mut shapes = Vec::new();
    for vmm in args.vmm.iter().copied() {
        for cpu_model in args.cpu.iter().copied() {
            for guest_features in args.guest_features.iter().copied() {
                let shape = |vcpus| Shape { vmm, cpu_model, guest_features, vcpus };
                shapes.extend(counts.0.iter().copied().map(shape));
            }
        }
    }
    shapes.sort_unstable();
    shapes.dedup();
    if shapes.len() > manifest::MAX_REFERENCE_VALUES {
        bail!(
            "{} shapes, expected at most {}: ask for fewer at once",
            shapes.len(),
            manifest::MAX_REFERENCE_VALUES
        );
    }
    print(&measured, &rows(&measured, &shapes)?, args.format)
}

/// Prints a law.
pub(crate) fn law(args: &LawArgs) -> anyhow::Result<Outcome> {
    let law: OpenLaw = match (&args.release, &args.firmware) {
        (Some(path), _) => release::open_manifest(path)?.law.into(),
        (None, Some(path)) => inputs::read_firmware(path)?.into(),
        (None, None) => bail!("whose law? name a release or --firmware FILE"),
    };
    printer::json(&law)?;
    Ok(Outcome::Done)
}

fn rows(measured: &Measured, shapes: &[Shape]) -> anyhow::Result<Vec<ReferenceValue>> {
    let digests = law::matrix(shapes, |vmm| measured.prefix(vmm))?;
    let row = |(shape, measurement): (&Shape, _)| ReferenceValue::new(*shape, measurement);
    Ok(shapes.iter().zip(digests).map(row).collect())
}

fn print(
    measured: &Measured,
    rows: &[ReferenceValue],
    format: MeasureFormat,
) -> anyhow::Result<Outcome> {
    let release = measured.manifest.as_ref().map(|manifest| &manifest.release);
    let subject = release.map_or(Subject { name: "launch", version: "0" }, |release| Subject {
        name: &release.name,
        version: &release.version,
    });
    match format {
        MeasureFormat::Table => printer::line(&table(rows))?,
        MeasureFormat::Json => printer::json(&Digests {
            schema: 1,
            release: release.map(|release| format!("{} {}", release.name, release.version)),
            firmware_sha256: measured.law.firmware.sha256.to_string(),
            kernel_hashes: measured.law.kernel_hashes,
            reference_values: rows,
        })?,
        MeasureFormat::Sek8sYaml => printer::line(export::sek8s_yaml(subject, rows)?.trim_end())?,
        MeasureFormat::Rvps => printer::line(&export::rvps(subject, rows)?)?,
        MeasureFormat::Corim => {
            if std::io::stdout().is_terminal() {
                bail!("CoRIM is binary: send standard output to a file");
            }
            printer::raw(&export::corim(subject, rows)?)?;
        }
    }
    Ok(Outcome::Done)
}

fn table(rows: &[ReferenceValue]) -> String {
    let cells = rows.iter().map(|row| {
        vec![
            row.vcpus.to_string(),
            row.cpu_model.to_string(),
            format!("{} {}", row.guest_features, row.guest_features.names().join("+")),
            row.vmm.to_string(),
            row.measurement.to_string(),
        ]
    });
    printer::table(&["VCPUS>", "CPU", "GUEST FEATURES", "VMM", "LAUNCH DIGEST"], cells)
}

//! Measures a release: the manifest that says what its files are and which launch digests they
//! lead to.

use std::collections::BTreeMap;

use casemate_measurements::cmdline::{BootParams, CmdlineError, check_bytes};
use casemate_measurements::firmware::{Firmware, FirmwareError};
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError, require_bzimage};
use casemate_measurements::launch::{CpuModel, GuestFeatures, Shape, ShapeError, VcpuCount, Vmm};
use casemate_measurements::law::{Law, LawError};
use casemate_measurements::manifest::{
    Artifact, Boot, Inputs, Manifest, ManifestError, Release, artifact,
};
use casemate_measurements::platform::Platform;
use casemate_measurements::verity::Verity;

use crate::recipe::{IdBlock, Measure, Recipe};

/// Why a release cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The firmware is not one that can be measured.
    #[error("the firmware of the recipe cannot be measured")]
    Firmware(#[from] FirmwareError),
    /// The kernel is not one that can be measured.
    #[error("the kernel of the recipe cannot be measured")]
    Kernel(#[from] KernelHashesError),
    /// The command line is refused.
    #[error("the command line is refused")]
    Cmdline(#[from] CmdlineError),
    /// The firmware cannot hold the kernel's hashes.
    #[error("firmware, kernel, initrd and command line cannot be measured together")]
    Law(#[from] LawError),
    /// A shape of `[measure]` is unknown.
    #[error("[measure] of the recipe asks for what cannot be measured")]
    Shape(#[from] ShapeError),
    /// The VMM of `[measure]` is unknown.
    #[error("vmm {found:?} of the recipe is unknown: expected qemu, ec2 or gce")]
    Vmm {
        /// The text found.
        found: String,
    },
    /// The manifest contradicts itself.
    #[error("the manifest would be refused")]
    Manifest(#[from] ManifestError),
}

/// The bytes that are measured, and what is known of the root image.
#[derive(Debug)]
pub struct Measured<'a> {
    /// The platform that the release is for.
    pub platform: Platform,
    /// The firmware.
    pub firmware: &'a [u8],
    /// The kernel.
    pub kernel: &'a [u8],
    /// The initrd.
    pub initrd: &'a [u8],
    /// How dm-verity reads the root image.
    pub verity: &'a Verity,
}

/// The command line of a release.
///
/// # Errors
/// When the recipe's part and the parameters make a line that is too long.
pub fn cmdline(
    recipe: &Recipe,
    platform: Platform,
    verity: &Verity,
) -> Result<String, MeasureError> {
    let params = BootParams { platform, verity: verity.clone() };
    let line = params.append_to(recipe.kernel.cmdline.as_str());
    check_bytes(&line)?;
    Ok(line)
}

/// Measures a release and writes its manifest. `artifacts` are its six files, `inputs` what it
/// was built from.
///
/// # Errors
/// When something cannot be measured, or the recipe asks for unknown shapes.
pub fn manifest(
    recipe: &Recipe,
    measured: &Measured<'_>,
    artifacts: BTreeMap<String, Artifact>,
    inputs: Inputs,
) -> Result<Manifest, MeasureError> {
    require_bzimage(measured.kernel)?;
    let line = cmdline(recipe, measured.platform, measured.verity)?;
    let firmware = Firmware::parse(measured.firmware)?;
    let digest = |name: &str, bytes: &[u8]| {
        artifacts.get(name).map_or_else(|| Sha256Hash::of(bytes), |known| known.sha256)
    };
    let hashes = KernelHashes::from_digests(
        digest(artifact::KERNEL, measured.kernel),
        digest(artifact::INITRD, measured.initrd),
        line.as_bytes(),
    );
    let law = Law::new(&firmware, &hashes)?;
    let reference_values = Manifest::table(&law, &shapes(&recipe.measure)?);
    let manifest = Manifest {
        schema: Manifest::SCHEMA,
        release: Release {
            name: recipe.name.to_string(),
            version: recipe.version.to_string(),
            platform: measured.platform,
        },
        artifacts,
        boot: Boot { cmdline: line, verity: measured.verity.clone() },
        inputs,
        firmware_address_bits: recipe.firmware.address_bits,
        guest_policy: recipe.measure.guest_policy.get(),
        id_block: recipe.id_block.as_ref().map(IdBlock::identity),
        law,
        reference_values,
    };
    manifest.check()?;
    Ok(manifest)
}

/// The shapes that a recipe lists: the product of its counts, models and features.
///
/// # Errors
/// When one is unknown.
pub fn shapes(measure: &Measure) -> Result<Vec<Shape>, MeasureError> {
    let vmm = Vmm::from_name(&measure.vmm);
    let vmm = vmm.ok_or_else(|| MeasureError::Vmm { found: measure.vmm.clone() })?;
    let mut shapes = Vec::new();
    for model in &measure.cpu_models {
        let cpu_model: CpuModel = model.parse()?;
        for features in &measure.guest_features {
            let guest_features = GuestFeatures::new(features.get())?;
            for count in measure.vcpus.as_slice() {
                let vcpus = VcpuCount::new(u64::from(*count))?;
                shapes.push(Shape { vmm, cpu_model, guest_features, vcpus });
            }
        }
    }
    Ok(shapes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(change: &str) -> Measure {
        let text = "vcpus = \"1..=3\"\ncpu_models = [\"EPYC-v4\", \"EPYC-Milan\"]\n\
                    guest_features = [\"0x1\", \"0x21\"]\nvmm = \"qemu\"\nguest_policy = \"0x30000\"";
        let text = match change.split_once("=>") {
            Some((from, to)) => text.replacen(from, to, 1),
            None => text.to_owned(),
        };
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn shapes_are_the_product() {
        let shapes = shapes(&measure("")).unwrap();
        assert_eq!(shapes.len(), 12);
        assert_eq!(shapes[0].to_string(), "1 x EPYC-v4, features 0x1, qemu");
        assert_eq!(shapes[11].to_string(), "3 x EPYC-Milan, features 0x21, qemu");
    }

    #[test]
    fn unknown_shapes_are_refused() {
        let numbers = shapes(&measure("EPYC-v4=>25/17/1")).unwrap();
        assert_eq!(numbers[0].to_string(), "1 x 0xa10f11, features 0x1, qemu");
        for change in ["EPYC-v4=>EPYC-v99", "0x21=>0x20", "qemu=>qemuu"] {
            assert!(shapes(&measure(change)).is_err(), "{change}");
        }
    }
}

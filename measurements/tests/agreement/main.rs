//! Launch digests against those of two other programs, the `sev` crate and sev-snp-measure: over
//! the whole matrix that each knows and over random firmware files, kernels and command lines.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod image;
#[path = "../ovmf/mod.rs"]
mod ovmf;

use std::process::{Command, Stdio};

use casemate_measurements::hash::LaunchDigest;
use casemate_measurements::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use image::{Files, Image};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde::{Deserialize, Serialize};
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures as SevFeatures, VMMType};

const FEATURES: [u64; 4] = [0x1, 0x21, 0x201, 0xffff_ffff_ffff_ffff];

fn shape(cpu_model: CpuModel, features: u64, vmm: Vmm, vcpus: u16) -> Shape {
    let guest_features = GuestFeatures::new(features).unwrap();
    Shape { vmm, cpu_model, guest_features, vcpus: VcpuCount::new(vcpus.into()).unwrap() }
}

fn any_shape(vmm: impl Strategy<Value = Vmm>) -> impl Strategy<Value = Shape> {
    let models = prop::sample::select(CpuModel::ALL.to_vec());
    (models, any::<u64>(), vmm, 1..=9_u16)
        .prop_map(|(model, features, vmm, vcpus)| shape(model, features | 1, vmm, vcpus))
}

/// What the `sev` crate says; `None` for a model that it does not know.
fn sev(files: &Files, shape: &Shape) -> Option<LaunchDigest> {
    let vcpu_type = CpuType::try_from(shape.cpu_model.name()?).ok()?;
    let digest = snp_calc_launch_digest(SnpMeasurementArgs {
        vcpus: u32::from(shape.vcpus.get()),
        vcpu_type,
        ovmf_file: files.firmware.clone(),
        guest_features: SevFeatures(shape.guest_features.raw()),
        kernel_file: files.kernel.clone(),
        initrd_file: files.initrd.clone(),
        append: Some(&files.cmdline),
        ovmf_hash_str: None,
        vmm_type: Some(VMMType::QEMU),
    });
    let bytes: Vec<u8> = digest.unwrap().try_into().unwrap();
    Some(LaunchDigest::from_bytes(bytes.try_into().unwrap()))
}

/// Its own EC2 is left out: it puts zero where EC2 has 0x600 since 2023.
#[test]
fn the_sev_crate_agrees_over_its_whole_matrix() {
    let image = Image::example();
    let files = image.write();
    let mut compared = 0;
    for cpu_model in CpuModel::ALL {
        for features in FEATURES {
            let counts = (1..=8).chain([16, 31, 64, 128, 192, 512]);
            let shapes: Vec<Shape> =
                counts.map(|vcpus| shape(cpu_model, features, Vmm::Qemu, vcpus)).collect();
            for (shape, digest) in shapes.iter().zip(image.law().matrix(&shapes)) {
                let Some(theirs) = sev(&files, shape) else { continue };
                assert_eq!(digest, theirs, "{shape}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 18 * 4 * 14, "only {compared} shapes were compared");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// It trims the command line, which QEMU does not: then it is the digest of another one.
    #[test]
    fn the_sev_crate_agrees_on_random_launches(
        image in image::random(),
        shape in any_shape(Just(Vmm::Qemu)),
    ) {
        let Some(theirs) = sev(&image.write(), &shape) else { return Ok(()) };
        let trimmed = Image { cmdline: image.cmdline.trim().to_owned(), ..image.clone() };
        prop_assert_eq!(trimmed.digest(&shape), theirs);
        let is_trimmed = trimmed.cmdline == image.cmdline || image.kernel.is_none();
        prop_assert_eq!(image.digest(&shape) == theirs, is_trimmed);
    }
}

/// What is asked of sev-snp-measure.
#[derive(Serialize)]
struct Launch<'a> {
    #[serde(flatten)]
    files: &'a Files,
    cpu_model: CpuModel,
    guest_features: u64,
    vmm: Vmm,
    vcpus: VcpuCount,
}

#[derive(Deserialize)]
struct Answer {
    cpu_models: Vec<CpuModel>,
    vmms: Vec<Vmm>,
    digests: Vec<LaunchDigest>,
}

fn ask(launches: &[(&Files, Shape)]) -> Answer {
    let launches: Vec<Launch<'_>> = launches
        .iter()
        .map(|(files, Shape { vmm, cpu_model, guest_features, vcpus })| Launch {
            files,
            cpu_model: *cpu_model,
            guest_features: guest_features.raw(),
            vmm: *vmm,
            vcpus: *vcpus,
        })
        .collect();
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peers");
    let target = concat!(env!("CARGO_TARGET_TMPDIR"), "/..");
    let install = Command::new(format!("{peers}/sev-snp-measure.sh"))
        .env("CARGO_TARGET_DIR", target)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(install.status.success(), "sev-snp-measure cannot be installed");
    let venv = String::from_utf8(install.stdout).unwrap();
    let input = tempfile::NamedTempFile::new().unwrap();
    serde_json::to_writer(input.as_file(), &launches).unwrap();
    let output = Command::new(format!("{}/bin/python", venv.trim_end()))
        .arg(format!("{peers}/digests.py"))
        .stdin(std::fs::File::open(input.path()).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn sev_snp_measure_agrees_over_its_whole_matrix_and_on_random_launches() {
    let known = ask(&[]);
    assert!(known.cpu_models.len() >= 16, "{:?}", known.cpu_models);
    assert_eq!(known.vmms, [Vmm::Qemu, Vmm::Ec2, Vmm::Gce]);

    let example = Image::example();
    let files = example.write();
    let mut launches = Vec::new();
    for vmm in known.vmms.iter().copied() {
        for cpu_model in &known.cpu_models {
            for features in FEATURES {
                for vcpus in [1, 2, 5, 33] {
                    launches.push((&example, &files, shape(*cpu_model, features, vmm, vcpus)));
                }
            }
        }
    }
    let mut runner = TestRunner::deterministic();
    let vmms = prop::sample::select(known.vmms.clone());
    let random = (image::random(), any_shape(vmms));
    let random: Vec<_> = (0..256)
        .map(|_| random.new_tree(&mut runner).unwrap().current())
        .filter(|(_, shape)| known.cpu_models.contains(&shape.cpu_model))
        .map(|(image, shape)| (image.write(), image, shape))
        .collect();
    assert!(random.len() > 100, "{}", random.len());
    launches.extend(random.iter().map(|(files, image, shape)| (image, files, *shape)));

    let asked: Vec<_> = launches.iter().map(|(_, files, shape)| (*files, *shape)).collect();
    for ((image, _, shape), theirs) in launches.iter().zip(ask(&asked).digests) {
        assert_eq!(image.digest(shape), theirs, "{shape} {:?}", image.cmdline);
    }
}

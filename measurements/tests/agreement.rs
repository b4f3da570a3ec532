//! Launch digests against those of the `sev` crate, over whole files and many shapes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ovmf;

use std::path::{Path, PathBuf};

use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::law::Law;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures as SevFeatures, VMMType};

const KERNEL: &[u8] = b"a kernel";
const INITRD: &[u8] = b"an initrd";

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A firmware of 96 pages, some alike, with the tables of OVMF.
fn firmware() -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..94_u8).flat_map(|page| vec![page / 4; 4096]).collect();
    bytes.extend(ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS)));
    bytes
}

#[test]
fn digests_agree_with_the_sev_crate() {
    let folder = tempfile::tempdir().unwrap();
    let firmware = firmware();
    let ovmf_file = write(folder.path(), "firmware", &firmware);
    let kernel_file = write(folder.path(), "kernel", KERNEL);
    let initrd_file = write(folder.path(), "initrd", INITRD);
    let parsed = Firmware::parse(&firmware).unwrap();
    let mut compared = 0;
    for (initrd, append) in [(true, "console=ttynull quiet"), (false, "a"), (true, "")] {
        let bytes = if initrd { INITRD } else { b"" };
        let hashes = KernelHashes::of(KERNEL, bytes, append.as_bytes());
        let law = Law::new(&parsed, Sha256Hash::of(&firmware), &hashes).unwrap();
        for cpu_model in CpuModel::ALL {
            // Names that it lacks have a signature that others have too.
            let Ok(vcpu_type) = CpuType::try_from(cpu_model.name()) else { continue };
            for (vcpus, features) in [(1, 1), (2, 1), (5, 0x21), (67, 1)] {
                let theirs = snp_calc_launch_digest(SnpMeasurementArgs {
                    vcpus,
                    vcpu_type,
                    ovmf_file: ovmf_file.clone(),
                    guest_features: SevFeatures(features),
                    kernel_file: Some(kernel_file.clone()),
                    initrd_file: initrd.then(|| initrd_file.clone()),
                    append: Some(append),
                    ovmf_hash_str: None,
                    vmm_type: Some(VMMType::QEMU),
                });
                let theirs: Vec<u8> = theirs.unwrap().try_into().unwrap();
                let shape = Shape {
                    vmm: Vmm::Qemu,
                    cpu_model,
                    guest_features: GuestFeatures::new(features).unwrap(),
                    vcpus: VcpuCount::new(u64::from(vcpus)).unwrap(),
                };
                let theirs = LaunchDigest::from_bytes(theirs.try_into().unwrap());
                assert_eq!(law.digest(&shape), theirs, "{shape} {append:?}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 3 * 4 * 18, "only {compared} shapes were compared");
}

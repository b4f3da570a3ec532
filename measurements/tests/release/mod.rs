//! A small release whose manifest is consistent.

use std::collections::BTreeMap;

use casemate_measurements::cmdline::BootParams;
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::Sha256Hash;
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::law::Law;
use casemate_measurements::manifest::{Artifact, Boot, Inputs, Manifest, Release, artifact};
use casemate_measurements::platform::Platform;
use casemate_measurements::policy::GuestPolicy;
use casemate_measurements::verity::Verity;

use crate::ovmf;

/// A shape on QEMU with stock features.
pub(crate) fn shape(cpu_model: &str, vcpus: u64) -> Shape {
    Shape {
        vmm: Vmm::Qemu,
        cpu_model: cpu_model.parse().unwrap(),
        guest_features: GuestFeatures::default(),
        vcpus: VcpuCount::new(vcpus).unwrap(),
    }
}

fn file(bytes: &[u8]) -> Artifact {
    Artifact { sha256: Sha256Hash::of(bytes), size: bytes.len() as u64 }
}

/// The manifest for 1, 2 and 4 vCPUs of two models.
pub(crate) fn manifest(platform: Platform) -> Manifest {
    let root = vec![7; 3 * 4096];
    let verity = Verity {
        root_hash: Sha256Hash::of(b"root hash"),
        salt: "5a17".parse().unwrap(),
        data_blocks: 2,
        hash_block: 2,
    };
    let cmdline = BootParams { platform, verity: verity.clone() }.append_to("console=ttynull");
    let firmware = ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS));
    let hashes = KernelHashes::of(b"kernel", b"initrd", cmdline.as_bytes());
    let parsed = Firmware::parse(&firmware).unwrap();
    let law = Law::new(&parsed, &hashes).unwrap();
    let shapes: Vec<Shape> = ["EPYC-v4", "EPYC-Genoa"]
        .into_iter()
        .flat_map(|model| [4, 1, 2].map(|vcpus| shape(model, vcpus)))
        .collect();
    let files: [(&str, &[u8]); 6] = [
        (artifact::CMDLINE, cmdline.as_bytes()),
        (artifact::FIRMWARE, &firmware),
        (artifact::INITRD, b"initrd"),
        (artifact::ROOT, &root),
        (artifact::SBOM, b"{}"),
        (artifact::KERNEL, b"kernel"),
    ];
    let artifacts: BTreeMap<String, Artifact> =
        files.into_iter().map(|(name, bytes)| (name.to_owned(), file(bytes))).collect();
    let input = Sha256Hash::of(b"input");
    Manifest {
        schema: Manifest::SCHEMA,
        release: Release { name: "cpu-sandbox".into(), version: "0.1.0".into(), platform },
        artifacts,
        boot: Boot { cmdline, verity },
        inputs: Inputs {
            recipe_sha256: input,
            lock_sha256: input,
            overlay_sha256: input,
            guest_sha256: input,
        },
        firmware_address_bits: None,
        guest_policy: GuestPolicy::default(),
        id_block: None,
        reference_values: Manifest::table(&law, &shapes),
        law,
    }
}

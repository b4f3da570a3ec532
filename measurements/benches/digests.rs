//! One launch digest and a matrix of them, against the `sev` crate and against hashing alone.
//! Prints JSON; `tests/bench_measuring.py` asks it, the Python peer, and makes the tables.
//!
//! `digests rss whole|stream COUNT` instead computes a matrix of COUNT vCPU counts in one of two
//! ways and prints the process's peak of memory.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

mod clock;
#[path = "../tests/ovmf/mod.rs"]
mod ovmf;

use std::path::{Path, PathBuf};

use casemate_measurements::digest::Prefix;
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{CpuModel, GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::law::Law;
use clock::{each, least};
use serde_json::json;
use sev::measurement::snp::{SnpMeasurementArgs, snp_calc_launch_digest};
use sev::measurement::vcpu_types::CpuType;
use sev::measurement::vmsa::{GuestFeatures as SevFeatures, VMMType};
use sha2::{Digest as _, Sha256, Sha384};

const MODELS: [&str; 4] = ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"];
const COUNTS: u16 = 192;
const CMDLINE: &str = "console=ttyS0 root=/dev/vda1 ro";
/// A distribution's kernel, and its initrds: for text, for graphics, for disks, none.
const KERNEL_LEN: usize = 11_708_352;
const INITRD_LENS: [usize; 4] = [40_700_000, 83_000_000, 12_100_000, 0];
/// Of the 1,024 pages of a distribution's `AmdSev` firmware so many are alike.
const ALIKE_PAGES: usize = 843;

/// Bytes that nothing compresses or caches, the same in every run.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

struct Inputs {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrds: Vec<Vec<u8>>,
}

impl Inputs {
    fn new() -> Self {
        let mut firmware = vec![0xff; ALIKE_PAGES * 4096];
        firmware.extend(noise((1022 - ALIKE_PAGES) * 4096, 1));
        firmware.extend(ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS)));
        let initrds = INITRD_LENS.iter().zip(2..).map(|(len, seed)| noise(*len, seed)).collect();
        Self { firmware, kernel: noise(KERNEL_LEN, 9), initrds }
    }

    fn hashes(&self) -> Vec<KernelHashes> {
        let kernel = Sha256Hash::of(&self.kernel);
        let of = |initrd: &Vec<u8>| {
            KernelHashes::from_digests(kernel, Sha256Hash::of(initrd), CMDLINE.as_bytes())
        };
        self.initrds.iter().map(of).collect()
    }
}

fn shape(model: &str, vcpus: u16) -> Shape {
    Shape {
        vmm: Vmm::Qemu,
        cpu_model: model.parse().unwrap(),
        guest_features: GuestFeatures::default(),
        vcpus: VcpuCount::new(vcpus.into()).unwrap(),
    }
}

fn shapes(counts: u16) -> Vec<Shape> {
    MODELS.into_iter().flat_map(|model| (1..=counts).map(move |n| shape(model, n))).collect()
}

/// Every digest of every image, all kept.
fn whole(firmware: &Firmware, hashes: &[KernelHashes], counts: u16) -> Vec<LaunchDigest> {
    let shapes = shapes(counts);
    let of = |hashes| Law::new(firmware, hashes).unwrap().matrix(&shapes);
    hashes.iter().flat_map(of).collect()
}

/// The same, each used up as it comes.
fn stream(firmware: &Firmware, hashes: &[KernelHashes], counts: u16) -> [u8; 32] {
    let mut all = Sha256::new();
    for hashes in hashes {
        let (pages, layout) = (&firmware.pages, &firmware.layout);
        let prefix = Prefix::new(pages, layout, Some(hashes), Vmm::Qemu).unwrap();
        for model in MODELS {
            let model: CpuModel = model.parse().unwrap();
            for digest in prefix.digests(model, GuestFeatures::default()).take(counts.into()) {
                all.update(digest.as_bytes());
            }
        }
    }
    all.finalize().into()
}

struct Sev<'a> {
    folder: &'a Path,
}

impl Sev<'_> {
    fn digest(&self, image: usize, model: &str, vcpus: u16) -> LaunchDigest {
        let file = |name: String| -> PathBuf { self.folder.join(name) };
        let digest = snp_calc_launch_digest(SnpMeasurementArgs {
            vcpus: vcpus.into(),
            vcpu_type: CpuType::try_from(model).unwrap(),
            ovmf_file: file("firmware".into()),
            guest_features: SevFeatures(1),
            kernel_file: Some(file("kernel".into())),
            initrd_file: Some(file(format!("initrd{image}"))),
            append: Some(CMDLINE),
            ovmf_hash_str: None,
            vmm_type: Some(VMMType::QEMU),
        });
        let bytes: Vec<u8> = digest.unwrap().try_into().unwrap();
        LaunchDigest::from_bytes(bytes.try_into().unwrap())
    }
}

/// Seconds of the hash functions alone.
fn hashing(inputs: &Inputs) -> serde_json::Value {
    let (page, info) = (&inputs.kernel[..4096], &inputs.kernel[..112]);
    let file = &inputs.initrds[0];
    let ring = |algorithm, bytes: &[u8]| ring::digest::digest(algorithm, bytes);
    json!({
        "file_len": file.len(),
        "sha2": {
            "sha256_file": least(5, || Sha256::digest(file)),
            "sha384_page": each(3000, || Sha384::digest(page)),
            "sha384_112": each(30_000, || Sha384::digest(info)),
        },
        "ring": {
            "sha256_file": least(5, || ring(&ring::digest::SHA256, file)),
            "sha384_page": each(3000, || ring(&ring::digest::SHA384, page)),
            "sha384_112": each(30_000, || ring(&ring::digest::SHA384, info)),
        },
    })
}

fn measure(folder: &Path) {
    let inputs = Inputs::new();
    std::fs::write(folder.join("firmware"), &inputs.firmware).unwrap();
    std::fs::write(folder.join("kernel"), &inputs.kernel).unwrap();
    for (index, initrd) in inputs.initrds.iter().enumerate() {
        std::fs::write(folder.join(format!("initrd{index}")), initrd).unwrap();
    }
    let sev = Sev { folder };
    let parse = || Firmware::parse(&inputs.firmware).unwrap();
    let one = || {
        let hashes = KernelHashes::of(&inputs.kernel, &inputs.initrds[0], CMDLINE.as_bytes());
        Law::new(&parse(), &hashes).unwrap().digest(&shape(MODELS[0], 4))
    };
    assert_eq!(one(), sev.digest(0, MODELS[0], 4), "both must compute the same");
    let (firmware, hashes) = (parse(), inputs.hashes());

    // Cells of each image and model at five counts; each costs the peer the same but for vCPUs.
    let mut cells = 0;
    let sampled: f64 = (0..INITRD_LENS.len())
        .map(|image| {
            let count = [1, 48, 96, 144, 192];
            let sum: f64 = count
                .into_iter()
                .zip(MODELS.into_iter().cycle())
                .map(|(vcpus, model)| {
                    cells += 1;
                    let expected = Law::new(&firmware, &hashes[image]).unwrap();
                    let mut found = None;
                    let time = least(1, || found = Some(sev.digest(image, model, vcpus)));
                    assert_eq!(found.unwrap(), expected.digest(&shape(model, vcpus)));
                    time
                })
                .sum();
            sum / 5.0 * f64::from(COUNTS) * 4.0
        })
        .sum();
    let report = json!({
        "cells": 4 * 4 * u32::from(COUNTS),
        "hashing": hashing(&inputs),
        // What must be hashed at least.
        "file_bytes": KERNEL_LEN + INITRD_LENS.iter().sum::<usize>(),
        "pages": 1024 - ALIKE_PAGES + 1 + 4 + 8,
        "steps": 1024 + 4 * (9 + 3) + 16 * u32::from(COUNTS),
        "firmware_len": inputs.firmware.len(),
        "one": least(5, one),
        "one_known_files": least(20, || {
            Law::new(&parse(), &hashes[0]).unwrap().digest(&shape(MODELS[0], 4))
        }),
        "matrix": least(5, || whole(&parse(), &inputs.hashes(), COUNTS)),
        "matrix_known_files": least(20, || whole(&parse(), &hashes, COUNTS)),
        "matrix_known_files_and_firmware": least(20, || whole(&firmware, &hashes, COUNTS)),
        "stream_known_files_and_firmware": least(20, || stream(&firmware, &hashes, COUNTS)),
        "sev_one": least(3, || sev.digest(0, MODELS[0], 4)),
        "sev_matrix": sampled,
        "sev_cells": cells,
    });
    println!("{report}");
}

fn rss(kind: &str, counts: u16) {
    let mut bytes = noise(0, 1);
    bytes.extend(ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS)));
    let firmware = Firmware::parse(&bytes).unwrap();
    let hashes: Vec<_> =
        (0..64_u8).map(|n| KernelHashes::of(&[n], b"initrd", CMDLINE.as_bytes())).collect();
    if kind == "whole" {
        std::hint::black_box(whole(&firmware, &hashes, counts));
    } else {
        std::hint::black_box(stream(&firmware, &hashes, counts));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("{}", peak.trim().trim_end_matches(" kB"));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["rss", kind, counts] => rss(kind, counts.parse().unwrap()),
        [folder, ..] => measure(Path::new(folder)),
        [] => println!("usage: digests FOLDER | rss whole|stream COUNT"),
    }
}

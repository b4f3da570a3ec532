//! How long an explanation takes that finds nothing, over many releases of one image: 5 firmwares,
//! 20 kernels, an initrd and a command line of its own for each, 256 launch digests listed.
//!
//! `cargo run --release -p casemate-measurements --example explain -- [RELEASES] [JOBS]`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "not shipped")]

#[path = "../tests/ovmf/mod.rs"]
mod ovmf;
#[path = "../tests/release/mod.rs"]
mod release;

use std::num::NonZeroUsize;
use std::time::Instant;

use casemate_measurements::explain::{Known, explain};
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::Shape;
use casemate_measurements::law::Law;
use casemate_measurements::manifest::Manifest;
use casemate_measurements::platform::Platform;

fn known(number: u32) -> Known {
    let mut manifest = release::manifest(Platform::Snp);
    let mut bytes = ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS));
    bytes[0] = u8::try_from(number % 5).unwrap();
    let firmware = Firmware::parse(&bytes).unwrap();
    let root = Sha256Hash::of(b"root hash").to_string();
    let own = Sha256Hash::of(&number.to_le_bytes()).to_string();
    // As many tokens as images/cpu-sandbox has.
    let tokens: Vec<String> = (0..28).map(|n| format!("token{n}=1")).collect();
    let line = manifest.boot.cmdline.replace(&root, &own);
    manifest.boot.cmdline = format!("{} {line}", tokens.join(" "));
    let hashes = KernelHashes::of(
        &(number % 20).to_le_bytes(),
        &number.to_le_bytes(),
        manifest.boot.cmdline.as_bytes(),
    );
    manifest.law = Law::new(&firmware, &hashes).unwrap();
    let models = ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"];
    let shapes: Vec<Shape> = models
        .into_iter()
        .flat_map(|model| (1..=64).map(move |vcpus| release::shape(model, vcpus)))
        .collect();
    manifest.reference_values = Manifest::table(&manifest.law, &shapes);
    Known { label: format!("release {number}"), manifest }
}

fn main() {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<u32>().unwrap());
    let releases: Vec<Known> = (0..args.next().unwrap_or(100)).map(known).collect();
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let jobs = args.next().map_or(all, |n| NonZeroUsize::new(n as usize).unwrap());
    let start = Instant::now();
    let explained = explain(&LaunchDigest::from_bytes([0; 48]), &releases, jobs);
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(explained.found, None);
    for excluded in &explained.excluded {
        println!("{:>10} {}", excluded.launches, excluded.kind.text());
    }
    let launches: u64 = explained.excluded.iter().map(|excluded| excluded.launches).sum();
    let count = releases.len();
    println!("{launches} launches of {count} releases in {seconds:.3} s, {jobs} jobs");
}

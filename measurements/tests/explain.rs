//! Explanations: each kind of difference is found and named, and what is none of them is not.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod ovmf;
mod release;

use std::num::NonZeroUsize;

use casemate_measurements::cmdline::BootParams;
use casemate_measurements::digest::Prefix;
use casemate_measurements::explain::{Explanation, Kind, Known, explain};
use casemate_measurements::firmware::{Firmware, SectionKind};
use casemate_measurements::hash::{LaunchDigest, Sha256Hash};
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::{GuestFeatures, Shape, Vmm};
use casemate_measurements::law::Law;
use casemate_measurements::manifest::{Artifact, Manifest, ReferenceValue, artifact};
use casemate_measurements::platform::Platform;
use release::shape;

/// With a section for a service module, as edk2 has since 2024.
const SECTIONS: [(u32, u32, u32); 5] = [
    (0x80_0000, 0x9000, 1),
    (0x80_d000, 0x1000, 2),
    (0x80_e000, 0x1000, 3),
    (0x80_f000, 0x1000, 4),
    (0x81_0000, 0x1000, 0x10),
];

/// A release whose four measured parts are made of `parts`.
fn known(label: &str, parts: [u8; 4]) -> Known {
    let [firmware, kernel, initrd, cmdline] = parts;
    let mut bytes = ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&SECTIONS));
    bytes[0] = firmware;
    let firmware = Firmware::parse(&bytes).unwrap();
    let mut manifest = release::manifest(Platform::Snp);
    manifest.release.version = label.into();
    let BootParams { platform, mut verity } =
        BootParams::from_cmdline(&manifest.boot.cmdline).unwrap();
    verity.root_hash = Sha256Hash::of(&[cmdline]);
    let line = BootParams { platform, verity: verity.clone() }.append_to("console=ttynull quiet");
    let hashes = KernelHashes::of(&[kernel], &[initrd], line.as_bytes());
    let shapes: Vec<Shape> = manifest.reference_values.iter().map(ReferenceValue::shape).collect();
    manifest.law = Law::new(&firmware, &hashes).unwrap();
    manifest.reference_values = Manifest::table(&manifest.law, &shapes);
    for (name, bytes) in [
        (artifact::FIRMWARE, bytes.as_slice()),
        (artifact::KERNEL, &[kernel]),
        (artifact::INITRD, &[initrd]),
        (artifact::CMDLINE, line.as_bytes()),
    ] {
        let (sha256, size) = (Sha256Hash::of(bytes), bytes.len() as u64);
        manifest.artifacts.insert(name.into(), Artifact { sha256, size });
    }
    (manifest.boot.cmdline, manifest.boot.verity) = (line, verity);
    manifest.check().unwrap();
    Known { label: label.into(), manifest }
}

fn releases() -> [Known; 3] {
    [known("a", [1, 1, 1, 1]), known("b", [1, 2, 1, 2]), known("c", [3, 1, 3, 3])]
}

fn asked(measurement: &LaunchDigest) -> Explanation {
    explain(measurement, &releases(), NonZeroUsize::new(3).unwrap())
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let [a, ..] = releases();
    let law = law_with(&a, |hashes| hashes.initrd = releases()[2].manifest.law.hashes().initrd);
    for digest in [law.digest(&shape("EPYC-v4", 2)), LaunchDigest::from_bytes([1; 48])] {
        assert_eq!(asked(&digest), explain(&digest, &releases(), NonZeroUsize::MIN));
    }
}

/// What is answered about a launch that is `shape` of `law`.
fn found(kind: Kind, law: &Law, shape: &Shape, words: &[&str]) {
    found_digest(kind, &law.digest(shape), words);
}

fn found_digest(kind: Kind, measurement: &LaunchDigest, words: &[&str]) {
    let explained = asked(measurement);
    let found = explained.found.unwrap_or_else(|| panic!("{kind:?}: {}", explained.sentence));
    assert_eq!(found.kind, kind, "{}", explained.sentence);
    for word in words {
        assert!(explained.sentence.contains(word), "{word:?}: {}", explained.sentence);
    }
}

fn law_with(known: &Known, change: impl FnOnce(&mut KernelHashes)) -> Law {
    let mut hashes = *known.manifest.law.hashes();
    change(&mut hashes);
    Law::new(known.manifest.law.firmware(), &hashes).unwrap()
}

fn with_cmdline(known: &Known, line: &str) -> Law {
    law_with(known, |hashes| {
        *hashes = KernelHashes::from_digests(hashes.kernel, hashes.initrd, line.as_bytes());
    })
}

#[test]
fn a_listed_row() {
    let [_, b, _] = releases();
    let row = b.manifest.reference_values[1];
    found_digest(Kind::Listed, &row.measurement, &["It is b as listed: 2 x EPYC-Genoa"]);
}

#[test]
fn another_shape() {
    let [a, _, c] = releases();
    let law = &a.manifest.law;
    let features = |raw| GuestFeatures::new(raw).unwrap();
    let base = shape("EPYC-v4", 2);
    for (shape, word) in [
        (shape("EPYC-v4", 3), "a, but 3 vCPUs, listed 1-2, 4"),
        (shape("EPYC-v4", 512), "512 vCPUs"),
        (shape("EPYC-Milan-v2", 2), "CPU EPYC-Milan (25/1/1), listed EPYC-Genoa, EPYC-v4"),
        (shape("26/2/1", 2), "CPU 0xb00f21 (26/2/1)"),
        (shape("EPYC-Turin", 7), "CPU EPYC-Turin (26/0/0), listed EPYC-Genoa, EPYC-v4; 7 vCPUs"),
        (
            Shape { guest_features: features(0x21), ..base },
            "0x21 (SNPActive+DebugSwap), listed 0x1",
        ),
        (Shape { guest_features: features(0x201), ..base }, "0x201 (SNPActive+SecureTSC)"),
        (Shape { vmm: Vmm::Ec2, ..base }, "VMM ec2, listed qemu"),
        (Shape { vmm: Vmm::Gce, ..shape("EPYC-v4", 31) }, "VMM gce"),
    ] {
        found(Kind::Shape, law, &shape, &[word]);
    }
    found(Kind::Shape, &c.manifest.law, &shape("EPYC-v4", 3), &["It is c, but"]);
}

#[test]
fn no_kernel_measured() {
    let [_, _, c] = releases();
    let firmware = c.manifest.law.firmware();
    let prefix = Prefix::new(&firmware.pages, &firmware.layout, None, Vmm::Qemu).unwrap();
    let Shape { cpu_model, guest_features, vcpus, .. } = shape("EPYC-Genoa", 9);
    let digest = prefix.digest(cpu_model, guest_features, vcpus);
    found_digest(
        Kind::KernelHashesOff,
        &digest,
        &["It is c, but without kernel hashes", "9 vCPUs"],
    );
}

#[test]
fn another_command_line() {
    let [a, b, _] = releases();
    let line = a.manifest.boot.cmdline.clone();
    let shape = shape("EPYC-v4", 4);
    for (line, word) in [
        (line.replace(" quiet", ""), "without \"quiet\" on its command line"),
        (format!("{line} quiet"), "with \"quiet\" twice"),
        (format!("{line} console=ttyS0"), "with \"console=ttyS0\" added at the end"),
        (line.replace("casemate.platform", "debug casemate.platform"), "\"debug\" added"),
        (format!("{line} "), "with \" \" more at the end"),
        (format!("{line}\n"), "with \"\\n\" more at the end"),
        (format!("initrd=initrd {line}"), "\"initrd=initrd \" more at the start"),
        (line.replace("=snp", "=simulated"), "with casemate.platform=simulated"),
        (String::new(), "with an empty command line"),
    ] {
        found(Kind::Cmdline, &with_cmdline(&a, &line), &shape, &["It is a, but", word]);
    }
    let line = b.manifest.boot.cmdline.replace("console=ttynull ", "");
    let missing = "without \"console=ttynull\"";
    found(Kind::Cmdline, &with_cmdline(&b, &line), &shape, &["It is b", missing]);
}

#[test]
fn parts_of_two_releases() {
    let [a, b, c] = releases();
    let shape = shape("EPYC-Genoa", 2);
    let theirs = |known: &Known| *known.manifest.law.hashes();
    let firmware = Law::new(c.manifest.law.firmware(), &theirs(&b)).unwrap();
    found(Kind::Mixed, &firmware, &shape, &["It is b, but with the firmware (", "of c"]);
    let kernel = law_with(&a, |hashes| hashes.kernel = theirs(&b).kernel);
    found(Kind::Mixed, &kernel, &shape, &["It is a, but with the kernel (", "of b"]);
    let initrd = law_with(&b, |hashes| hashes.initrd = theirs(&c).initrd);
    found(Kind::Mixed, &initrd, &shape, &["It is b, but with the initrd (", "of c"]);
    let cmdline = law_with(&c, |hashes| hashes.cmdline = theirs(&a).cmdline);
    found(Kind::Mixed, &cmdline, &shape, &["It is c, but with the command line of a"]);
}

/// The two digests that sev-snp-measure of former versions gives are not known here; that the
/// registers are zero is seen by the digest of a VMM that has them so.
#[test]
fn former_hosts() {
    let [a, ..] = releases();
    let explained = asked(&LaunchDigest::from_bytes([9; 48]));
    let former = explained.excluded.iter().find(|e| e.kind == Kind::FormerReset).unwrap();
    assert!(former.launches > 0);
    let digest = former_qemu(&a.manifest.law, 2);
    found_digest(Kind::FormerReset, &digest, &["It is a, but with MXCSR", "2 x EPYC-v4"]);
}

/// The digest with a VMSA that is written here byte by byte, MXCSR and control word zero.
fn former_qemu(law: &Law, vcpus: usize) -> LaunchDigest {
    use sha2::{Digest as _, Sha384};
    let page = |base: u64, rip: u64| {
        let mut page = vec![0_u8; 4096];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        for segment in 0..10_usize {
            put(segment * 16 + 4, &0xffff_u32.to_le_bytes());
        }
        for segment in [0, 2, 3, 4, 5] {
            put(segment * 16 + 2, &0x93_u16.to_le_bytes());
        }
        put(0x10, &0xf000_u16.to_le_bytes());
        put(0x12, &0x9b_u16.to_le_bytes());
        put(0x18, &base.to_le_bytes());
        put(0x72, &0x82_u16.to_le_bytes());
        put(0x92, &0x8b_u16.to_le_bytes());
        for (at, value) in [
            (0xd0, 0x1000_u64),
            (0x148, 0x40),
            (0x158, 0x10),
            (0x160, 0x400),
            (0x168, 0xffff_0ff0),
            (0x170, 2),
            (0x178, rip),
            (0x268, 0x0007_0406_0007_0406),
            (0x310, 0x80_0f12),
            (0x3b0, 1),
            (0x3e8, 1),
        ] {
            put(at, &value.to_le_bytes());
        }
        Sha384::digest(&page)
    };
    // One vCPU less of today's is not to be had: the chain before the first vCPU is made anew.
    let mut chain: [u8; 48] = *law.firmware().pages.as_bytes();
    let mut add = |kind: u8, gpa: u64, contents: &[u8]| {
        let info = [&chain[..], contents, &[0x70, 0, kind, 0, 0, 0, 0, 0], &gpa.to_le_bytes()];
        chain = Sha384::digest(info.concat()).into();
    };
    for section in &law.layout().sections {
        let hashes = law.hashes().page(0xc00).unwrap();
        let (kind, contents) = match section.kind {
            SectionKind::SecMem | SectionKind::SvsmCaa => (3, vec![0; 48]),
            SectionKind::Secrets => (5, vec![0; 48]),
            SectionKind::Cpuid => (6, vec![0; 48]),
            SectionKind::KernelHashes => (1, Sha384::digest(*hashes).to_vec()),
        };
        for page in 0..section.size / 4096 {
            add(kind, u64::from(section.gpa + page * 4096), &contents);
        }
    }
    for vcpu in 0..vcpus {
        let eip: u64 = if vcpu == 0 { 0xffff_fff0 } else { 0x80_b004 };
        add(2, 0xffff_ffff_f000, &page(eip & 0xffff_0000, eip & 0xffff));
    }
    LaunchDigest::from_bytes(chain)
}

#[test]
fn faults_of_calculators() {
    let [a, ..] = releases();
    let shape = shape("EPYC-v4", 1);
    let bare = Sha256Hash::of(a.manifest.boot.cmdline.as_bytes());
    let no_nul = law_with(&a, |hashes| hashes.cmdline = bare);
    found(Kind::Calculator, &no_nul, &shape, &["hashed without its NUL"]);
    let no_initrd = law_with(&a, |hashes| hashes.initrd = Sha256Hash::of(b""));
    found(Kind::Calculator, &no_initrd, &shape, &["It is a, but without an initrd"]);
    let mut firmware = a.manifest.law.firmware().clone();
    firmware.layout.sections.retain(|section| section.kind != SectionKind::SvsmCaa);
    let law = Law::new(&firmware, a.manifest.law.hashes()).unwrap();
    found(Kind::Calculator, &law, &shape, &["without the firmware's section SVSM_CAA"]);
    let mut firmware = a.manifest.law.firmware().clone();
    firmware.layout.sections.rotate_right(1);
    let law = Law::new(&firmware, a.manifest.law.hashes()).unwrap();
    found(Kind::Calculator, &law, &shape, &["before all other sections"]);
}

#[test]
fn what_is_none_of_them_is_not_explained() {
    let [a, ..] = releases();
    // Two things at once: another kernel, and a shape that is not listed.
    let law = law_with(&a, |hashes| hashes.kernel = Sha256Hash::of(b"another"));
    let explained = asked(&law.digest(&shape("EPYC-v4", 2)));
    assert_eq!(explained.found, None);
    assert_eq!(explained.excluded.len(), Kind::ALL.len());
    let launches: u64 = explained.excluded.iter().map(|excluded| excluded.launches).sum();
    assert!(explained.excluded.iter().all(|excluded| excluded.launches > 0));
    assert!(explained.sentence.contains(&format!("none of {launches} launches of the 3 releases")));
    let json = serde_json::to_value(&explained).unwrap();
    assert_eq!(json["found"], serde_json::Value::Null);
    assert_eq!(json["excluded"][1]["kind"], "shape");
}

#[test]
fn without_releases_nothing_is_found() {
    let explained = explain(&LaunchDigest::from_bytes([0; 48]), &[], NonZeroUsize::MIN);
    assert_eq!(explained.found, None);
}

//! Launch digests against those of an independent program, over every input that it knows.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod vectors;

use std::collections::BTreeMap;

use casemate_measurements::digest::Prefix;
use casemate_measurements::firmware::{Layout, SectionKind};
use casemate_measurements::hash::{LaunchDigest, Sha256Hash, Sha384Hash};
use casemate_measurements::kernel_hashes::{KernelHashes, KernelHashesError};
use casemate_measurements::launch::{GuestFeatures, Shape, VcpuCount, Vmm};
use casemate_measurements::law::{Law, LawError, OpenLaw};
use serde::Deserialize;

#[derive(Deserialize)]
struct Digests {
    images: Vec<Image>,
    inputs: BTreeMap<String, Input>,
    firmware_state: BTreeMap<String, Sha384Hash>,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
struct Image {
    id: String,
    ovmf: String,
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
}

#[derive(Deserialize)]
struct Input {
    sha256: Sha256Hash,
}

#[derive(Deserialize)]
struct Vector {
    image: String,
    cpu: String,
    vcpus: u64,
    guest_features: u64,
    vmm: String,
    digest: LaunchDigest,
    sev_crate_8_0_0: String,
}

impl Vector {
    fn shape(&self) -> Shape {
        Shape {
            vmm: match self.vmm.as_str() {
                "QEMU" => Vmm::Qemu,
                "ec2" => Vmm::Ec2,
                "gce" => Vmm::Gce,
                other => panic!("VMM {other}"),
            },
            cpu_model: self.cpu.parse().unwrap(),
            guest_features: GuestFeatures::new(self.guest_features).unwrap(),
            vcpus: VcpuCount::new(self.vcpus).unwrap(),
        }
    }
}

fn load() -> Option<Digests> {
    Some(serde_json::from_slice(&vectors::read("digests.json")?).unwrap())
}

fn layout(ovmf: &str) -> Layout {
    let tail = vectors::read(&format!("firmware/{ovmf}.tail")).unwrap();
    Layout::parse(&tail).unwrap_or_else(|error| panic!("{ovmf}: {error}"))
}

impl Digests {
    fn image(&self, id: &str) -> &Image {
        self.images.iter().find(|image| image.id == id).unwrap()
    }

    fn hashes(&self, image: &Image) -> Option<KernelHashes> {
        let kernel = self.inputs[image.kernel.as_ref()?].sha256;
        let initrd = image.initrd.as_ref().map(|name| self.inputs[name].sha256);
        let initrd = initrd.unwrap_or_else(|| Sha256Hash::of(b""));
        let cmdline = image.append.as_deref().unwrap_or("");
        Some(KernelHashes::from_digests(kernel, initrd, cmdline.as_bytes()))
    }

    fn prefix(&self, image: &Image, vmm: Vmm) -> Prefix {
        let hashes = self.hashes(image);
        let layout = layout(&image.ovmf);
        Prefix::new(&self.firmware_state[&image.ovmf], &layout, hashes.as_ref(), vmm).unwrap()
    }

    fn law_json(&self, image: &Image) -> Result<Law, serde_json::Error> {
        serde_json::from_value(self.law_value(image))
    }

    fn law_value(&self, image: &Image) -> serde_json::Value {
        let Layout { sections, reset_eip, hashes_table_gpa } = layout(&image.ovmf);
        serde_json::json!({
            "firmware_sha256": self.inputs[&image.ovmf].sha256,
            "firmware_pages": self.firmware_state[&image.ovmf],
            "sections": sections,
            "reset_eip": format!("{reset_eip:#x}"),
            "hashes_table_gpa": format!("{hashes_table_gpa:#x}"),
            "kernel_hashes": self.hashes(image).unwrap_or(KernelHashes::of(b"", b"", b"")),
        })
    }
}

#[test]
fn every_vector_agrees() {
    let Some(digests) = load() else { return };
    assert_eq!(digests.vectors.len(), 111);
    for vector in &digests.vectors {
        let shape = vector.shape();
        let prefix = digests.prefix(digests.image(&vector.image), shape.vmm);
        let digest = prefix.digest(shape.cpu_model, shape.guest_features, shape.vcpus);
        assert_eq!(digest, vector.digest, "{} {shape}", vector.image);
        let nth = usize::from(shape.vcpus.get() - 1);
        let mut digests = prefix.digests(shape.cpu_model, shape.guest_features);
        assert_eq!(digests.nth(nth), Some(vector.digest), "{} {shape}", vector.image);
    }
}

/// Where the `sev` crate differs, it says nothing of our spaces: it trims the command line.
#[test]
fn a_command_line_is_hashed_byte_for_byte() {
    let Some(digests) = load() else { return };
    let trailing: Vec<_> =
        digests.vectors.iter().filter(|vector| vector.image == "A-trailing-space").collect();
    assert_eq!(trailing.len(), 8);
    for vector in trailing {
        let shape = vector.shape();
        let trimmed = digests.prefix(digests.image("A"), shape.vmm);
        let trimmed = trimmed.digest(shape.cpu_model, shape.guest_features, shape.vcpus);
        assert_eq!(trimmed.to_string(), vector.sev_crate_8_0_0);
        assert_ne!(trimmed, vector.digest);
    }
}

#[test]
fn a_law_gives_the_same_digests_one_by_one_and_as_a_matrix() {
    let Some(digests) = load() else { return };
    let mut compared = 0;
    for image in digests.images.iter().filter(|image| image.kernel.is_some()) {
        let law = digests.law_json(image).unwrap();
        let vectors: Vec<_> = digests.vectors.iter().filter(|v| v.image == image.id).collect();
        let shapes: Vec<Shape> = vectors.iter().map(|vector| vector.shape()).collect();
        for ((vector, shape), digest) in vectors.iter().zip(&shapes).zip(law.matrix(&shapes)) {
            assert_eq!(digest, vector.digest, "{} {shape}", image.id);
            assert_eq!(law.digest(shape), vector.digest, "{} {shape}", image.id);
            compared += 1;
        }
        let json = serde_json::to_string(&law).unwrap();
        assert_eq!(serde_json::from_str::<Law>(&json).unwrap(), law);
    }
    assert_eq!(compared, 111 - 16, "all but the ones without a kernel");
}

#[test]
fn a_firmware_without_a_page_for_hashes_cannot_measure_a_kernel() {
    let Some(digests) = load() else { return };
    let layout = layout("trixie-OVMF.fd");
    assert!(layout.sections.iter().all(|section| section.kind != SectionKind::KernelHashes));
    let pages = &digests.firmware_state["trixie-OVMF.fd"];
    let hashes = KernelHashes::of(b"k", b"i", b"c");
    let refused = Prefix::new(pages, &layout, Some(&hashes), Vmm::Qemu);
    assert_eq!(refused.unwrap_err(), KernelHashesError::NoSection);
    let law = digests.law_json(digests.image("FW-only-trixie"));
    let error = law.unwrap_err().to_string();
    assert!(error.contains("law"), "{error}");
}

#[test]
fn a_firmwares_law_is_read_back_with_its_bounds_checked() {
    let Some(digests) = load() else { return };
    for image in ["FW-only-trixie", "FW-only-amdsev"] {
        let image = digests.image(image);
        let mut json = digests.law_value(image);
        json.as_object_mut().unwrap().remove("kernel_hashes");
        let read = |json: &serde_json::Value| OpenLaw::from_bytes(json.to_string().as_bytes());
        let law = read(&json).unwrap();
        assert_eq!(law.firmware.layout, layout(&image.ovmf));
        assert_eq!(law.kernel_hashes, None);
        assert_eq!(serde_json::to_value(&law).unwrap(), json);
        let alone = serde_json::from_value::<Law>(json.clone()).unwrap_err().to_string();
        assert!(alone.contains("expected the law of a release"), "{alone}");
        for (pointer, value) in [
            ("/sections/0/size", serde_json::json!(0)),
            ("/sections/0/size", serde_json::json!(u32::MAX)),
            ("/sections/0/gpa", serde_json::json!("0x1")),
            ("/sections/1/kind", serde_json::json!("other")),
            ("/reset_eip", serde_json::json!("0x100000000")),
            ("/firmware_pages", serde_json::json!("00")),
        ] {
            let mut changed = json.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert!(matches!(read(&changed), Err(LawError::Malformed(_))), "{pointer}");
        }
    }
    let long = OpenLaw::from_bytes(&vec![b' '; 64 * 1024 + 1]);
    assert_eq!(long, Err(LawError::TooLong { len: 64 * 1024 + 1 }));
}

#[test]
fn layouts_are_read_from_three_generations_of_firmware() {
    if vectors::folder().is_none() {
        return;
    }
    for (name, sections, hashes_at, gpa) in [
        ("sid-OVMF.amdsev.fd", 7, Some(6), 0x81_0c00),
        ("noble-OVMF.amdsev.fd", 6, Some(4), 0x80_fc00),
        ("trixie-OVMF.fd", 6, None, 0),
    ] {
        let layout = layout(name);
        assert_eq!(layout.reset_eip, 0x80_b004, "{name}");
        assert_eq!(layout.sections.len(), sections, "{name}");
        assert_eq!(layout.hashes_table_gpa, gpa, "{name}");
        let at = layout.sections.iter().position(|s| s.kind == SectionKind::KernelHashes);
        assert_eq!(at, hashes_at, "{name}");
    }
}

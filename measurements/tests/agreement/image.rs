//! Firmware, kernel, initrd and command line: one by hand and any number of random ones.

use std::path::{Path, PathBuf};

use casemate_measurements::digest::Prefix;
use casemate_measurements::firmware::Firmware;
use casemate_measurements::hash::LaunchDigest;
use casemate_measurements::kernel_hashes::KernelHashes;
use casemate_measurements::launch::Shape;
use casemate_measurements::law::Law;
use proptest::prelude::*;
use serde::Serialize;

use crate::ovmf;

/// What a VM is started from.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) firmware: Vec<u8>,
    /// Without one neither initrd nor command line is measured.
    pub(crate) kernel: Option<Vec<u8>>,
    pub(crate) initrd: Option<Vec<u8>>,
    pub(crate) cmdline: String,
}

/// The same as files, for programs that read nothing else.
#[derive(Serialize)]
pub(crate) struct Files {
    #[serde(skip)]
    _folder: tempfile::TempDir,
    pub(crate) firmware: PathBuf,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
}

impl Image {
    /// A firmware of 96 pages, some alike, and a kernel with everything.
    pub(crate) fn example() -> Self {
        let mut firmware: Vec<u8> = (0..94_u8).flat_map(|page| vec![page / 4; 4096]).collect();
        firmware.extend(ovmf::firmware(&ovmf::entries(), &ovmf::metadata(&ovmf::SECTIONS)));
        let (kernel, initrd) = (Some(b"a kernel".to_vec()), Some(b"an initrd".to_vec()));
        Self { firmware, kernel, initrd, cmdline: "console=ttynull quiet".into() }
    }

    pub(crate) fn write(&self) -> Files {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = Path::new(folder.path()).join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        Files {
            firmware: write("firmware", &self.firmware),
            kernel: self.kernel.as_deref().map(|bytes| write("kernel", bytes)),
            initrd: self.initrd.as_deref().map(|bytes| write("initrd", bytes)),
            cmdline: self.cmdline.clone(),
            _folder: folder,
        }
    }

    fn hashes(&self) -> Option<KernelHashes> {
        let initrd = self.initrd.as_deref().unwrap_or_default();
        Some(KernelHashes::of(self.kernel.as_deref()?, initrd, self.cmdline.as_bytes()))
    }

    pub(crate) fn law(&self) -> Law {
        let firmware = Firmware::parse(&self.firmware).unwrap();
        Law::new(&firmware, &self.hashes().unwrap()).unwrap()
    }

    pub(crate) fn digest(&self, shape: &Shape) -> LaunchDigest {
        let Firmware { pages, layout, .. } = Firmware::parse(&self.firmware).unwrap();
        let prefix = Prefix::new(&pages, &layout, self.hashes().as_ref(), shape.vmm).unwrap();
        prefix.digest(shape.cpu_model, shape.guest_features, shape.vcpus)
    }
}

/// Sections of every kind, in any order, at addresses that do not follow it.
fn sections() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
    let kinds = Just(vec![1, 1, 1, 2, 3, 4, 0x10_u32]).prop_shuffle();
    let sizes = prop::collection::vec((1..6_u32, 0..3_u32), 7);
    (kinds, sizes, Just((0..7_usize).collect::<Vec<_>>()).prop_shuffle()).prop_map(
        |(kinds, sizes, order)| {
            let mut sections = Vec::new();
            let mut gpa = 0x80_0000;
            for (kind, (pages, gap)) in kinds.into_iter().zip(sizes) {
                // Every kind but the memory of the firmware has one page.
                let size = if kind == 1 { pages * 0x1000 } else { 0x1000 };
                gpa += gap * 0x1000;
                sections.push((gpa, size, kind));
                gpa += size;
            }
            order.into_iter().map(|index| sections[index]).collect()
        },
    )
}

fn firmware() -> impl Strategy<Value = Vec<u8>> {
    let pages = prop::collection::vec((any::<u8>(), 0..4096_usize, any::<u8>()), 0..6);
    let unknown = (prop::array::uniform16(any::<u8>()), prop::collection::vec(any::<u8>(), 0..9));
    (
        pages,
        sections(),
        0..=4096 - 176_u32,
        any::<u32>(),
        unknown,
        Just([0, 1, 2, 3]).prop_shuffle(),
    )
        .prop_map(|(pages, sections, offset, reset_eip, (guid, data), order)| {
            let hashes = sections.iter().find(|section| section.2 == 0x10).unwrap().0 + offset;
            let unknown = hex::encode(guid);
            let mut entries = ovmf::entries();
            entries[1].1 = [hashes.to_le_bytes(), 0x400_u32.to_le_bytes()].concat();
            entries[2].1 = reset_eip.to_le_bytes().to_vec();
            entries.push((&unknown, data));
            let entries: Vec<_> = order.map(|index| entries[index].clone()).into();
            let mut bytes = Vec::new();
            for (fill, at, byte) in pages {
                let start = bytes.len();
                bytes.resize(start + 4096, fill);
                bytes[start + at] = byte;
            }
            bytes.extend(ovmf::firmware(&entries, &ovmf::metadata(&sections)));
            bytes
        })
}

/// Command lines, with white space at their ends now and then.
fn cmdline() -> impl Strategy<Value = String> {
    let edge = || prop_oneof![4 => Just(""), 1 => Just(" "), 1 => Just("\t\n "), 1 => Just("\r")];
    ("[ -~é]{0,60}", edge(), edge())
        .prop_map(|(line, before, after)| format!("{before}{line}{after}"))
}

/// Any image whose kernel is measured, and some without one.
pub(crate) fn random() -> impl Strategy<Value = Image> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..300);
    (firmware(), prop::option::weighted(0.9, bytes()), prop::option::of(bytes()), cmdline())
        .prop_map(|(firmware, kernel, initrd, cmdline)| Image { firmware, kernel, initrd, cmdline })
}
